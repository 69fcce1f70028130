"""What decides the bits of a training, beside its seed."""

from __future__ import annotations

import torch


def repeat_to_the_bit() -> None:
    """Let PyTorch calculate with one thread, and by kernels that give the same bits each time."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else new memory is filled with a value before it is written, which takes time and changes no bit.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module
