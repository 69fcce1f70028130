"""The file of a run's models: the weights of each model, by its number in the run.

A file of more than :data:`FLOAT32_BYTES` in float32 has its weights in float16: a ResNet18 takes 22 MB, not 45.
The file is the published model: predictions come from it, so an accuracy may differ by an image from the last accuracy
of the training. Rounding needs no noise and no example, so the privacy statement of the training holds for the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from ppml.io.atomic import write_bytes
from ppml.learning.parameters import digest_of, flatten

FLOAT32_BYTES = 2**20
"""The largest size of the weights of a file in float32, in bytes."""
UNROUNDED = "sha256_before_rounding"
"""The entry of the metadata with the digest of each model in float32; only files in float16 have it.

The only entry, since the order of several entries differs between writes.
"""


def write_models(path: str | Path, models: Sequence[nn.Module]) -> None:
    """Write the weights and statistics of ``models``; entry ``3.0.weight`` belongs to the fourth model.

    Integers keep their type. All weights keep float32 if one of them is beyond the range of float16.
    """
    tensors = {
        f"{number}.{name}": value.contiguous().cpu()
        for number, model in enumerate(models)
        for name, value in model.state_dict().items()
    }
    half = {name: value.half() if value.dtype == torch.float32 else value for name, value in tensors.items()}
    large = sum(value.nbytes for value in tensors.values()) > FLOAT32_BYTES
    if large and all(value.isfinite().all() for value in half.values()):
        digests = " ".join(digest_of(flatten(model)) for model in models)
        write_bytes(path, save(half, metadata={UNROUNDED: digests}))
    else:
        write_bytes(path, save(tensors))


def read_models(path: str | Path) -> list[dict[str, torch.Tensor]]:
    """Return the state dictionary of each model, with weights in float32."""
    states: dict[int, dict[str, torch.Tensor]] = {}
    for entry, value in load_file(path).items():
        number, name = entry.split(".", 1)
        states.setdefault(int(number), {})[name] = value.float() if value.dtype == torch.float16 else value
    return [states[number] for number in sorted(states)]


def trained_digest(path: str | Path, model: nn.Module) -> str:
    """Return the digest of the first model at the end of its training, before any rounding.

    Parameters
    ----------
    path : path-like
        The file of the models.
    model : Module
        The model with the weights of the file.
    """
    with safe_open(path, framework="numpy") as file:
        digests = (file.metadata() or {}).get(UNROUNDED, "").split()
    return digests[0] if digests else digest_of(flatten(model))
