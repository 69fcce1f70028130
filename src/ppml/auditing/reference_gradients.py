"""The auditor's gradients, one example at a time: slow, short, and independent of the audited code."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from ppml.config.arm import TrainingSpec
from ppml.data.examples import Examples

CHUNK = 1 << 16
"""Number of values whose squares are added in float32."""


class ReferenceGradients:
    """Gradients at given weights, by automatic differentiation of one example at a time.

    Parameters
    ----------
    model : nn.Module
        A model of the audited architecture, which is copied.
    owned : sequence of Examples
        The examples of each owner; their numbers run over all owners.
    """

    def __init__(self, model: nn.Module, owned: Sequence[Examples]) -> None:
        self._model = copy.deepcopy(model).train()
        self._images = [image for own in owned for image in own.inputs]
        self._labels = [label for own in owned for label in own.labels]
        self._parameters = list(self._model.parameters())
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._rows = torch.zeros(0, sum(self._sizes))

    def __len__(self) -> int:
        return len(self._labels)

    def load(self, weights: torch.Tensor) -> None:
        """Load ``weights``, shape ``(parameters,)``, into the model."""
        with torch.no_grad():
            for parameter, values in zip(self._parameters, weights.split(self._sizes), strict=True):
                parameter.copy_(values.view_as(parameter))

    def gradient(self, example: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gradient of the loss of one example, shape ``(parameters,)``; written to ``out``, if given."""
        outputs = self._model(self._images[example][None])
        # The loss of an example with several views is the mean of their losses.
        logits = outputs.reshape(-1, outputs.shape[-1])
        labels = self._labels[example].expand(len(logits))
        parts = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), self._parameters)
        return torch.cat([part.reshape(-1) for part in parts], out=out)

    def gradients(self, examples: Sequence[int]) -> torch.Tensor:
        """Return the gradients of examples, shape ``(r, parameters)``; the next call overwrites them.

        A new allocation takes longer than the gradients of a large model.
        """
        if len(self._rows) < len(examples):
            self._rows = torch.empty(len(examples), sum(self._sizes), device=self._images[0].device)
        rows = self._rows[: len(examples)]
        for example, row in zip(examples, rows, strict=True):
            self.gradient(example, row)
        return rows

    def client_update(
        self, weights: torch.Tensor, example: int, training: TrainingSpec, start: float, stop: float
    ) -> torch.Tensor:
        """Return the update of a client with one example in a round, float64, shape ``(parameters,)``.

        ``start`` and ``stop`` are the fractions of the training at the begin and at the end of the round.
        """
        position, velocity = weights.clone(), torch.zeros_like(weights)
        for epoch in range(training.epochs):
            self.load(position)
            velocity = training.momentum * velocity + self.gradient(example)
            place = start + (stop - start) * epoch / training.epochs
            factor = 1.0 if training.learning_rate_schedule == "constant" else 1.0 - place
            position = position - training.learning_rate * factor * velocity
        return position.double() - weights.double()


def squared_norm(vector: torch.Tensor) -> float:
    """Return the sum of squares of ``vector``: of each chunk in float32, of all chunks in float64."""
    return sum(float(chunk @ chunk) for chunk in vector.split(CHUNK))


def norm_of(vector: torch.Tensor) -> float:
    """Return the norm of ``vector``."""
    return math.sqrt(squared_norm(vector))


def clipping_factor(norm: float, limit: float) -> float:
    """Return the factor that clips a vector of norm ``norm`` to norm ``limit``."""
    return 1.0 if norm <= limit else limit / norm


def components_along(directions: torch.Tensor, noise: torch.Tensor, shapes: Sequence[int]) -> list[float]:
    """Return the components of ``noise`` along gradients of examples, for each parameter tensor.

    Parameters
    ----------
    directions : torch.Tensor
        Gradients of examples, shape ``(r, parameters)``.
    noise : torch.Tensor
        Noise, shape ``(parameters,)``.
    shapes : sequence of int
        The size of each parameter tensor.

    Returns
    -------
    list of float
        Components along orthonormal axes of the span of the gradients, at most ``r`` per tensor; linearly dependent
        gradients add none.
    """
    pairs = zip(directions.split(list(shapes), dim=1), noise.split(list(shapes)), strict=True)
    return [component for part, values in pairs for component in _orthonormal_components(part, values)]


def _orthonormal_components(directions: torch.Tensor, noise: torch.Tensor) -> list[float]:
    products, components = (directions @ directions.T).double(), (directions @ noise).double()
    lengths = products.diagonal().sqrt()
    nonzero = lengths > 0
    if not nonzero.any():
        return []
    lengths = lengths[nonzero]
    squares, axes = torch.linalg.eigh(products[nonzero][:, nonzero] / torch.outer(lengths, lengths))
    independent = squares > 1e-3
    found: list[float] = (
        (axes.T @ (components[nonzero] / lengths))[independent] / squares[independent].sqrt()
    ).tolist()
    return found
