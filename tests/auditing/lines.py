"""Distances of combinations of two released models from the weights without noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np


def nearest_on_line(one: np.ndarray, other: np.ndarray, target: np.ndarray) -> float:
    """Return the distance of ``target`` from the line through two models, all of shape ``(parameters,)``."""
    along, offset = one - other, target - other
    length = float(along @ along)
    fraction = float(along @ offset) / length if length else 0.0
    return float(np.linalg.norm(offset - fraction * along))


def nearness(models: Sequence[np.ndarray], clean: Sequence[np.ndarray]) -> float:
    """Return the distance of the best combination of two models from the weights without noise, relative to chance.

    Independent noise gives about 1, up to an error of order ``1 / sqrt(weights)``; noise that cancels gives 0. The
    function first subtracts from each model its weights without noise.
    """
    one, other = (model - noiseless for model, noiseless in zip(models, clean, strict=True))
    independent = math.sqrt(1 / (1 / float(one @ one) + 1 / float(other @ other)))
    return nearest_on_line(one, other, np.zeros_like(one)) / independent


def nearest_pair(released: Mapping[str, np.ndarray], clean: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the smallest :func:`nearness` of all pairs of models of one shape, and the pair."""
    found = [
        (nearness([released[one], released[other]], [clean[one], clean[other]]), f"{one} and {other}")
        for one, other in combinations(released, 2)
        if released[one].shape == released[other].shape
    ]
    return min(found)
