"""Whitening: principal directions with equal variances, learned from public examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Whitening:
    """A mean and the scaled principal directions.

    Parameters
    ----------
    mean : torch.Tensor
        float32, shape ``(features,)``.
    matrix : torch.Tensor
        float32, shape ``(features, components)``: eigenvectors of the covariance, the largest eigenvalue first, each
        divided by the square root of its eigenvalue and the regularization.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    @classmethod
    def fit(cls, examples: torch.Tensor, components: int, regularization: float) -> Whitening:
        """Learn from ``examples``, float32 ``(n, features)``.

        Parameters
        ----------
        examples : torch.Tensor
            Public examples, since the result reveals them.
        components : int
            The number of components, at most the number of features.
        regularization : float
            The summand of each eigenvalue; it limits the scale of directions of small variance.
        """
        mean = examples.mean(dim=0)
        centred = examples - mean
        values, vectors = _principal(centred)
        values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
        # The sign of an eigenvector depends on the library; here its largest entry is positive.
        largest = vectors.abs().argmax(dim=0)
        signs = vectors[largest, torch.arange(vectors.shape[1])].sign()
        return cls(mean, vectors * signs / (values.clamp_min(0) + regularization).sqrt())

    def __call__(self, examples: torch.Tensor) -> torch.Tensor:
        """Return the components of ``examples``, ``(n, features)``, as ``(n, components)``."""
        return (examples - self.mean) @ self.matrix


def _principal(centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues of the covariance, in ascending order, with their eigenvectors."""
    count, features = centred.shape
    if count >= features:
        values, vectors = torch.linalg.eigh(centred.T @ centred / count)
        return values, vectors
    # The smaller matrix of products of examples has the same eigenvalues, except zeros.
    values, weights = torch.linalg.eigh(centred @ centred.T / count)
    return values, functional.normalize(centred.T @ weights, dim=0)
