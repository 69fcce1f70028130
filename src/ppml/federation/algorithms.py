"""Federated algorithms: a client's update in a round, and the global step that follows from the sum of updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.fixed_point import Grid
from ppml.data.examples import Examples
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.server_optimizer import MeanUpdate, ServerOptimizer
from ppml.learning.gradient_correction import NO_CORRECTION, ConstantOffset, GradientCorrection, Proximal
from ppml.learning.learner import LocalLearner, TrainingDiverged
from ppml.learning.parameters import flatten, unflatten, unflatten_into
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness


@dataclass(frozen=True)
class ClientData:
    """The learner and the examples of one client.

    Parameters
    ----------
    learner : LocalLearner
        The client's training procedure.
    examples : Examples
        The client's training data.
    weight : float
        Its weight in the mean, in (0, 1]; public.
    affordable_steps : int or None
        Number of steps that its privacy budget allows in the whole training; None without a budget.
    """

    learner: LocalLearner
    examples: Examples
    weight: float = 1.0
    affordable_steps: int | None = None


@dataclass(frozen=True)
class RoundContext:
    """The inputs of one client in one round, apart from its data.

    Parameters
    ----------
    client : int
        Number of the client.
    number, rounds : int
        Number of the round, from 1, and of all rounds.
    global_state : GlobalState
        The state before the round, which all clients know.
    private : Vectors
        The client's private state.
    steps_left : int or None
        Number of steps that its privacy budget still allows.
    rng : Randomness
        The client's randomness in this round.
    """

    client: int
    number: int
    rounds: int
    global_state: GlobalState
    private: Vectors
    steps_left: int | None
    rng: Randomness

    @property
    def window(self) -> TrainingWindow:
        """The part of the whole training that the round covers."""
        return TrainingWindow((self.number - 1) / self.rounds, self.number / self.rounds)


@dataclass(frozen=True)
class ClientUpdate:
    """The result of one client in one round, before rounding and protection.

    Parameters
    ----------
    values : NDArray[np.float64]
        Summands, which the client rounds to the grid.
    events : tuple of MechanismEvent
        Mechanisms that ran on the client's examples.
    noise : Grid or None
        The client's noise term in steps of the grid, added after rounding; None without distributed noise.
    private : Vectors
        The client's private state after the round.
    """

    values: NDArray[np.float64]
    events: tuple[MechanismEvent, ...]
    noise: Grid | None = None
    private: Vectors = field(default_factory=dict)


class FederatedAlgorithm(Protocol):
    """The part of a federated algorithm that clients compute."""

    def initial_memory(self, size: int) -> Vectors:
        """Return the memory of the global state before the first round, for a model of ``size`` parameters."""
        ...

    def update_length(self, size: int) -> int:
        """Return the number of values in an update of a model of ``size`` parameters."""
        ...

    def compute_update(self, model: nn.Module, data: ClientData, context: RoundContext) -> ClientUpdate:
        """Compute a client's update. ``model`` is a scratch module; its weights are overwritten."""
        ...

    def apply_sum(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Return the state after round ``number``, whose updates have the sum ``total``."""
        ...


CorrectionFactory = Callable[[nn.Module], GradientCorrection]
"""Builds a gradient correction from the model with the global weights."""


def no_correction(model: nn.Module) -> GradientCorrection:
    """Return the correction that changes nothing."""
    return NO_CORRECTION


def proximal_correction(strength: float) -> CorrectionFactory:
    """Return the factory of FedProx's proximal term of ``strength`` (arXiv 1812.06127)."""
    return lambda model: Proximal(strength, [parameter.detach().clone() for parameter in model.parameters()])


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (arXiv 1602.05629): an update has the weighted change of the weights, and the client weight.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        Rule of the global step.
    weight_unit : float
        Value that stands for a weight of 1 in an update. Clipping, which is set for changes, must not change weights.
    correction_factory : callable
        Builds the correction against client drift.
    """

    server_optimizer: ServerOptimizer
    weight_unit: float
    correction_factory: CorrectionFactory = no_correction

    def initial_memory(self, size: int) -> Vectors:
        """Return the memory of the server optimizer."""
        return self.server_optimizer.initial_memory(size)

    def update_length(self, size: int) -> int:
        """Return the number of parameters, plus one for the weight."""
        return size + 1

    def compute_update(self, model: nn.Module, data: ClientData, context: RoundContext) -> ClientUpdate:
        """Train from the global model."""
        unflatten_into(model, context.global_state.parameters)
        change, events = train_and_diff(model, data, context, self.correction_factory(model))
        values = np.empty(len(change) + 1)
        np.multiply(change, data.weight, out=values[:-1])
        values[-1] = data.weight * self.weight_unit
        return ClientUpdate(values, events, private=context.private)

    def apply_sum(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step along the weighted mean."""
        return self.server_optimizer.step(state, weighted_mean(total, self.weight_unit))


@dataclass(frozen=True)
class ScaffoldAlgorithm:
    """SCAFFOLD (arXiv 1910.06378, algorithm 1 with option II): each client corrects its drift by control variates.

    A client's control variate is the mean of the gradients of its last round, which follows from its change of the
    weights. The client sends the difference to its previous control variate, so that the sum gives the global one. An
    update has twice the length.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        Rule of the global step.
    weight_unit : float
        See :class:`FedAvg`.
    clients : int
        Number of clients, over which the global control variate is the mean.
    cumulative_step : callable
        Returns, for a number of examples and a window of the training, the distance that a constant gradient of one
        moves the weights: the sum of the learning rates, each with the effect of momentum.
    """

    server_optimizer: ServerOptimizer
    weight_unit: float
    clients: int
    cumulative_step: Callable[[int, TrainingWindow], float]

    def initial_memory(self, size: int) -> Vectors:
        """Return the memory of the server optimizer, and a global control variate of 0."""
        return {**self.server_optimizer.initial_memory(size), "control": np.zeros(size, dtype=np.float32)}

    def update_length(self, size: int) -> int:
        """Return twice the number of parameters, plus one for the weight."""
        return 2 * size + 1

    def compute_update(self, model: nn.Module, data: ClientData, context: RoundContext) -> ClientUpdate:
        """Train from the global model with corrected gradients."""
        unflatten_into(model, context.global_state.parameters)
        shared = context.global_state.memory["control"]
        old = context.private.get("control", np.zeros_like(shared))
        change, events = train_and_diff(model, data, context, ConstantOffset(unflatten(shared - old, model)))
        new = (old - shared - change / self.cumulative_step(len(data.examples), context.window)).astype(np.float32)
        shift = (new.astype(np.float64) - old) / self.clients
        values = np.concatenate([data.weight * change, shift, [data.weight * self.weight_unit]])
        return ClientUpdate(values, events, private={"control": new})

    def apply_sum(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step, and update the global control variate."""
        size = len(state.parameters)
        change, shift, weight = total[:size], total[size : 2 * size], total[2 * size :]
        after = self.server_optimizer.step(state, weighted_mean(np.append(change, weight), self.weight_unit))
        control = state.memory["control"].astype(np.float64) + shift
        return GlobalState(after.parameters, {**after.memory, "control": control.astype(np.float32)})


def train_and_diff(
    model: nn.Module, data: ClientData, context: RoundContext, correction: GradientCorrection
) -> tuple[NDArray[np.float64], tuple[MechanismEvent, ...]]:
    """Train ``model``, which has the global weights; return the change of its weights, and the mechanisms that ran.

    Raises
    ------
    TrainingDiverged
        A loss or a weight is not finite; the message names client and round.
    """
    where = f"client {context.client}, round {context.number}"
    try:
        events = data.learner.fit(
            model,
            data.examples,
            window=context.window,
            rng=context.rng,
            correction=correction,
            affordable_steps=context.steps_left,
        )
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{where}: {error}", events=error.events) from error
    change = np.subtract(flatten(model), context.global_state.parameters, dtype=np.float64)
    if not np.isfinite(change).all():
        raise TrainingDiverged(f"{where}: the weights are not finite", events=events)
    return change, events


def weighted_mean(total: NDArray[np.float64], weight_unit: float) -> MeanUpdate:
    """Return the mean change from the sum of weighted changes, whose last value is the sum of the weights."""
    mean: MeanUpdate = total[:-1] * weight_unit / total[-1]
    return mean


def count_steps(events: tuple[MechanismEvent, ...]) -> int:
    """Return the number of steps in ``events``."""
    return sum(event.steps for event in events)
