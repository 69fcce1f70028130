"""Conversion between a model's weights and one vector."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import vector_to_parameters


def flatten(model: nn.Module) -> NDArray[np.float32]:
    """Return the weights of ``model`` as one vector, shape ``(parameters,)``, in the order of their indices."""
    # PyTorch's parameters_to_vector refuses weights in the memory format of the training.
    with torch.no_grad():
        vector: NDArray[np.float32] = torch.cat([weights.reshape(-1) for weights in model.parameters()]).cpu().numpy()
    return vector


def unflatten_into(model: nn.Module, parameters: NDArray[np.float32]) -> None:
    """Write a vector from :func:`flatten` into the weights of ``model``."""
    device = next(model.parameters()).device
    with torch.no_grad():
        vector_to_parameters(torch.from_numpy(parameters.copy()).to(device), model.parameters())


def digest_of(parameters: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a model's bits."""
    return hashlib.sha256(parameters.astype("<f4").tobytes()).hexdigest()


def unflatten(values: NDArray[np.float32], model: nn.Module) -> list[torch.Tensor]:
    """Split a vector of the length of :func:`flatten` into one tensor per parameter, with the shapes of ``model``."""
    shapes = [parameter.shape for parameter in model.parameters()]
    chunks = torch.from_numpy(values.copy()).split([shape.numel() for shape in shapes])
    device = next(model.parameters()).device
    return [chunk.reshape(shape).to(device) for chunk, shape in zip(chunks, shapes, strict=True)]
