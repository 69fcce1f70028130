"""What every client knows after a round: the global model, and what the rule of its steps remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = Mapping[str, NDArray[np.float32]]
"""Vectors of the length of the model, by name."""


@dataclass(frozen=True)
class GlobalState:
    """The state after a round, the same bits at every client.

    Parameters
    ----------
    parameters : NDArray[np.float32]
        The global model, shape ``(parameters,)``.
    memory : Vectors
        What the rule of the global step keeps, for instance its momentum.
    """

    parameters: NDArray[np.float32]
    memory: Vectors
