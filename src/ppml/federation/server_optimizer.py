"""The global step: from the mean of a round's updates to the next global model.

It is the server's rule, and taken by everybody who sees the sum: under encryption the server does not. Calculated in
float64 and rounded once, so that all come to the same bits. Flower's strategies take the same steps on what their
server sees in the clear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ppml.federation.global_state import GlobalState, Vectors

Mean = NDArray[np.float64]
"""The mean update, shape ``(parameters,)``: the direction in which the model shall go."""


class ServerOptimizer(Protocol):
    """A rule with a memory."""

    def start(self, size: int) -> Vectors:
        """Return the memory before the first round, for a model of ``size`` parameters."""
        ...

    def step(self, state: GlobalState, mean: Mean, rate: float = 1.0) -> GlobalState:
        """Return the state after a step along ``mean``, its length multiplied by ``rate``."""
        ...


@dataclass(frozen=True)
class FedAvgM:
    """Federated averaging, with momentum over rounds (FedAvgM, arXiv 1909.06335).

    Parameters
    ----------
    learning_rate : float
        Factor on the velocity; 1 with momentum 0 is federated averaging (arXiv 1602.05629).
    momentum : float
        In [0, 1).
    """

    learning_rate: float = 1.0
    momentum: float = 0.0

    def start(self, size: int) -> Vectors:
        """Return a velocity of 0."""
        return {"velocity": np.zeros(size, dtype=np.float32)}

    def step(self, state: GlobalState, mean: Mean, rate: float = 1.0) -> GlobalState:
        """Return the state after a step along the velocity."""
        velocity = self.momentum * state.memory["velocity"].astype(np.float64) + mean
        parameters = state.parameters.astype(np.float64) + rate * self.learning_rate * velocity
        memory = {**state.memory, "velocity": velocity.astype(np.float32)}
        return replace(state, parameters=parameters.astype(np.float32), memory=memory)


@dataclass(frozen=True)
class FedAdam:
    """FedAdam (arXiv 2003.00295, algorithm 2).

    Parameters
    ----------
    learning_rate : float
        Their eta.
    beta1, beta2 : float
        In [0, 1).
    adaptivity : float
        Their tau, above 0.
    """

    learning_rate: float
    beta1: float
    beta2: float
    adaptivity: float

    def start(self, size: int) -> Vectors:
        """Return a first moment of 0 and a second of tau squared."""
        second = np.full(size, self.adaptivity**2, dtype=np.float32)
        return {"first": np.zeros(size, dtype=np.float32), "second": second}

    def step(self, state: GlobalState, mean: Mean, rate: float = 1.0) -> GlobalState:
        """Return the state after a step along the first moment over the root of the second."""
        first = self.beta1 * state.memory["first"].astype(np.float64) + (1 - self.beta1) * mean
        second = self.beta2 * state.memory["second"].astype(np.float64) + (1 - self.beta2) * mean**2
        change = self.learning_rate * rate * first / (np.sqrt(second) + self.adaptivity)
        parameters = state.parameters.astype(np.float64) + change
        memory = {**state.memory, "first": first.astype(np.float32), "second": second.astype(np.float32)}
        return replace(state, parameters=parameters.astype(np.float32), memory=memory)
