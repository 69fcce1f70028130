"""Server optimizers: the step from the mean update of a round to the next global model.

Every party that knows the sum takes the step; under encryption the server does not. The step is computed in float64
and rounded once, so that all parties get the same bits. Flower's strategies take the same steps on plaintext updates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ppml.federation.global_state import GlobalState, Vectors

MeanUpdate = NDArray[np.float64]
"""The mean update, shape ``(parameters,)``: the direction of the step."""


class ServerOptimizer(Protocol):
    """A rule of the global step, with a memory."""

    def initial_memory(self, size: int) -> Vectors:
        """Return the memory before the first round, for a model of ``size`` parameters."""
        ...

    def step(self, state: GlobalState, mean: MeanUpdate, rate: float = 1.0) -> GlobalState:
        """Return the state after a step along ``mean``, whose length is multiplied by ``rate``."""
        ...


@dataclass(frozen=True)
class FedAvgM:
    """Federated averaging with server momentum (FedAvgM, arXiv 1909.06335).

    Parameters
    ----------
    learning_rate : float
        Factor of the velocity; 1 with momentum 0 is federated averaging (arXiv 1602.05629).
    momentum : float
        Momentum in [0, 1).
    """

    learning_rate: float = 1.0
    momentum: float = 0.0

    def initial_memory(self, size: int) -> Vectors:
        """Return a velocity of 0."""
        return {"velocity": np.zeros(size, dtype=np.float32)}

    def step(self, state: GlobalState, mean: MeanUpdate, rate: float = 1.0) -> GlobalState:
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
        The paper's eta.
    beta1, beta2 : float
        Decay rates of the moments, in [0, 1).
    tau : float
        The paper's tau, above 0.
    """

    learning_rate: float
    beta1: float
    beta2: float
    tau: float

    def initial_memory(self, size: int) -> Vectors:
        """Return a first moment of 0 and a second moment of tau squared."""
        second = np.full(size, self.tau**2, dtype=np.float32)
        return {"first": np.zeros(size, dtype=np.float32), "second": second}

    def step(self, state: GlobalState, mean: MeanUpdate, rate: float = 1.0) -> GlobalState:
        """Return the state after a step along the first moment divided by the root of the second."""
        first = self.beta1 * state.memory["first"].astype(np.float64) + (1 - self.beta1) * mean
        second = self.beta2 * state.memory["second"].astype(np.float64) + (1 - self.beta2) * mean**2
        change = self.learning_rate * rate * first / (np.sqrt(second) + self.tau)
        parameters = state.parameters.astype(np.float64) + change
        memory = {**state.memory, "first": first.astype(np.float32), "second": second.astype(np.float32)}
        return replace(state, parameters=parameters.astype(np.float32), memory=memory)
