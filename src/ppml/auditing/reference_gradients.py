"""The gradients of the auditor's records, an example at a time: slow, short, and not the code that is audited."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from ppml.config.arm import TrainingSpec
from ppml.data.examples import Examples

PIECE = 1 << 16
"""Values whose squares are added up in float32."""


class Reference:
    """Gradients at given weights, by automatic differentiation of one example at a time.

    Parameters
    ----------
    model : nn.Module
        The architecture; it is copied.
    records : sequence of Examples
        The records of each owner, numbered through.
    """

    def __init__(self, model: nn.Module, records: Sequence[Examples]) -> None:
        self._model = copy.deepcopy(model).train()
        self._images = [image for own in records for image in own.images]
        self._labels = [label for own in records for label in own.labels]
        self._parameters = list(self._model.parameters())
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._rows = torch.zeros(0, sum(self._sizes))

    def __len__(self) -> int:
        return len(self._labels)

    def load(self, weights: torch.Tensor) -> None:
        """Take ``weights``, shape ``(parameters,)``."""
        with torch.no_grad():
            for parameter, values in zip(self._parameters, weights.split(self._sizes), strict=True):
                parameter.copy_(values.view_as(parameter))

    def gradient(self, record: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gradient of the loss of one record, shape ``(parameters,)``; in ``out``, if it is given."""
        outputs = self._model(self._images[record][None])
        # An example that comes as several copies of itself has the mean of their losses.
        logits = outputs.reshape(-1, outputs.shape[-1])
        labels = self._labels[record].expand(len(logits))
        parts = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), self._parameters)
        return torch.cat([part.reshape(-1) for part in parts], out=out)

    def gradients(self, records: Sequence[int]) -> torch.Tensor:
        """Return the gradients of records, shape ``(r, parameters)``, until this is called again.

        Memory is kept: to give it back and to ask for it again takes longer than the gradients of a large model.
        """
        if len(self._rows) < len(records):
            self._rows = torch.empty(len(records), sum(self._sizes), device=self._images[0].device)
        rows = self._rows[: len(records)]
        for record, row in zip(records, rows, strict=True):
            self.gradient(record, row)
        return rows

    def change(
        self, weights: torch.Tensor, record: int, training: TrainingSpec, start: float, stop: float
    ) -> torch.Tensor:
        """Return how a client that has one record moves the weights in a round, float64, shape ``(parameters,)``.

        ``start`` and ``stop`` are where the round begins and ends in the training, which runs from 0 to 1.
        """
        position, velocity = weights.clone(), torch.zeros_like(weights)
        for epoch in range(training.epochs):
            self.load(position)
            velocity = training.momentum * velocity + self.gradient(record)
            place = start + (stop - start) * epoch / training.epochs
            falls = 1.0 if training.decay == "constant" else 1.0 - place
            position = position - training.learning_rate * falls * velocity
        return position.double() - weights.double()


def square(vector: torch.Tensor) -> float:
    """Return the sum of squares of ``vector``, of pieces that are added up in float64."""
    return sum(float(piece @ piece) for piece in vector.split(PIECE))


def length(vector: torch.Tensor) -> float:
    """Return the norm of ``vector``."""
    return math.sqrt(square(vector))


def clipping_factor(norm: float, limit: float) -> float:
    """Return what a vector of ``norm`` is multiplied by, so that it is not longer than ``limit``."""
    return 1.0 if norm <= limit else limit / norm


def along(directions: torch.Tensor, noise: torch.Tensor, shapes: Sequence[int]) -> list[float]:
    """Return the components of ``noise`` along gradients of records, of one parameter tensor at a time.

    Parameters
    ----------
    directions : torch.Tensor
        Gradients of records, shape ``(r, parameters)``.
    noise : torch.Tensor
        Shape ``(parameters,)``.
    shapes : sequence of int
        The size of each parameter tensor.

    Returns
    -------
    list of float
        Along orthonormal axes of the space that they span, at most ``r`` a tensor: directions that others already span
        add none.
    """
    pairs = zip(directions.split(list(shapes), dim=1), noise.split(list(shapes)), strict=True)
    return [component for part, values in pairs for component in _spanned(part, values)]


def _spanned(directions: torch.Tensor, noise: torch.Tensor) -> list[float]:
    products, components = (directions @ directions.T).double(), (directions @ noise).double()
    lengths = products.diagonal().sqrt()
    kept = lengths > 0
    if not kept.any():
        return []
    lengths = lengths[kept]
    squares, axes = torch.linalg.eigh(products[kept][:, kept] / torch.outer(lengths, lengths))
    apart = squares > 1e-3
    found: list[float] = ((axes.T @ (components[kept] / lengths))[apart] / squares[apart].sqrt()).tolist()
    return found
