"""The settings of every job for bit-exact repetition: one thread, and deterministic kernels of PyTorch."""

from __future__ import annotations

import os
import sys


def use_one_thread() -> None:
    """Make numerical libraries use one thread: the rounding of a sum depends on its division among threads."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    # pandas imports PyArrow, whose memory pool would start a thread of its own; a fork copies no thread.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


def make_deterministic() -> None:
    """Make PyTorch use one thread and deterministic kernels, after its import by the caller."""
    # Not an import statement: the code digest of every stage covers this module, and few stages need PyTorch.
    torch = sys.modules["torch"]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # By default, PyTorch fills new memory with a value, which takes time and changes no bit.
    torch.utils.deterministic.fill_uninitialized_memory = False
