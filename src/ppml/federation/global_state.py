"""The state that all clients share after a round: the global model, and the memory of the server optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = Mapping[str, NDArray[np.float32]]
"""Vectors of the length of the model, by name."""


@dataclass(frozen=True)
class GlobalState:
    """The state after a round, with the same bits at every client.

    Parameters
    ----------
    parameters : NDArray[np.float32]
        The global model, shape ``(parameters,)``.
    memory : Vectors
        Vectors of the server optimizer, for instance its momentum, and of the algorithm.
    """

    parameters: NDArray[np.float32]
    memory: Vectors
