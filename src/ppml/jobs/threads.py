"""Settings for bit-exact repetition, the same for every job: one thread, and deterministic kernels of PyTorch."""

from __future__ import annotations

import os
import sys


def use_one_thread() -> None:
    """Let numerical libraries use one thread: the rounding of a sum depends on its division among threads."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"


def make_deterministic() -> None:
    """Let PyTorch, which the caller has imported, use one thread and deterministic kernels."""
    # Not an import statement: the code digest of every stage counts this module, and few stages need PyTorch.
    torch = sys.modules["torch"]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # The default fills new memory with a value before its first use, which takes time and changes no bit.
    torch.utils.deterministic.fill_uninitialized_memory = False
