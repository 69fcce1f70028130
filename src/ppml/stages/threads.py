"""How many threads a job computes with: part of what decides its bits."""

from __future__ import annotations

import os


def one_thread() -> None:
    """Give this process one thread to compute with: sums depend on how threads share them, and so on the cores."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
