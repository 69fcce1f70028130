"""The weights of a model as one vector, and back."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def flat_parameters(model: nn.Module) -> NDArray[np.float32]:
    """Return the weights of ``model`` as one vector, shape ``(parameters,)``."""
    with torch.no_grad():
        vector: NDArray[np.float32] = parameters_to_vector(model.parameters()).cpu().numpy()
    return vector


def load_parameters(model: nn.Module, parameters: NDArray[np.float32]) -> None:
    """Put a vector of :func:`flat_parameters` into ``model``."""
    device = next(model.parameters()).device
    with torch.no_grad():
        vector_to_parameters(torch.from_numpy(parameters.copy()).to(device), model.parameters())


def digest_of(parameters: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a model's bits."""
    return hashlib.sha256(parameters.astype("<f4").tobytes()).hexdigest()


def as_tensors(values: NDArray[np.float32], model: nn.Module) -> list[torch.Tensor]:
    """Return a vector of the length of ``model`` as one tensor a parameter, of its shape."""
    shapes = [parameter.shape for parameter in model.parameters()]
    pieces = torch.from_numpy(values.copy()).split([shape.numel() for shape in shapes])
    device = next(model.parameters()).device
    return [piece.reshape(shape).to(device) for piece, shape in zip(pieces, shapes, strict=True)]
