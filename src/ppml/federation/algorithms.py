"""What a client does in a round, what it sends, and what everybody makes of the sum."""

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
from ppml.federation.server_optimizer import Mean, ServerOptimizer
from ppml.learning.gradient_correction import NO_CORRECTION, Proximal, GradientCorrection, ConstantOffset
from ppml.learning.learner import LocalLearner, TrainingDiverged
from ppml.learning.parameters import unflatten, flatten, unflatten_into
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness


@dataclass(frozen=True)
class ClientData:
    """A client: what it has, and nothing of the others.

    Parameters
    ----------
    learner : LocalLearner
        How it trains.
    records : Examples
        What it trains on.
    weight : float
        Its weight in (0, 1]; public.
    budget : int or None
        How many steps its privacy budget allows in all; None without one.
    """

    learner: LocalLearner
    records: Examples
    weight: float = 1.0
    budget: int | None = None


@dataclass(frozen=True)
class RoundContext:
    """One client's part in one round.

    Parameters
    ----------
    client, number, rounds : int
        Whose, in which round, from 1, of how many.
    state : GlobalState
        What all know.
    own : Vectors
        What the client keeps for itself.
    steps_left : int or None
        What its privacy budget has left.
    rng : Randomness
        What it draws from.
    """

    client: int
    number: int
    rounds: int
    state: GlobalState
    own: Vectors
    steps_left: int | None
    rng: Randomness

    @property
    def window(self) -> TrainingWindow:
        """The stretch of the whole training that the round is."""
        return TrainingWindow((self.number - 1) / self.rounds, self.number / self.rounds)


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends, before it is rounded and sealed.

    Parameters
    ----------
    values : NDArray[np.float64]
        What is added up, rounded to the grid first.
    events : tuple of MechanismEvent
        What ran on its records.
    noise : Grid or None
        Its share of the noise, in steps of the grid, added after rounding; None where none is added there.
    own : Vectors
        What it keeps for itself from now on.
    """

    values: NDArray[np.float64]
    events: tuple[MechanismEvent, ...]
    noise: Grid | None = None
    own: Vectors = field(default_factory=dict)


class FederatedAlgorithm(Protocol):
    """One way of taking part in a federation."""

    def start(self, size: int) -> Vectors:
        """Return the common memory before the first round, for a model of ``size`` parameters."""
        ...

    def length(self, size: int) -> int:
        """Return how many values a contribution has."""
        ...

    def contribute(self, model: nn.Module, member: ClientData, turn: RoundContext) -> ClientUpdate:
        """Do a client's part; ``model`` is a place to calculate in."""
        ...

    def apply(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Return the state after round ``number``, whose contributions add up to ``total``."""
        ...


CorrectionFactory = Callable[[nn.Module], GradientCorrection]
"""Makes a pull from the model that holds the global weights."""


def no_correction(model: nn.Module) -> GradientCorrection:
    """Return none."""
    return NO_CORRECTION


def proximal_correction(strength: float) -> CorrectionFactory:
    """Return what pulls towards the global model with ``strength``."""
    return lambda model: Proximal(strength, [parameter.detach().clone() for parameter in model.parameters()])


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging: each sends its weighted change and its weight, all take the step along their quotient.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        The rule of the global step.
    unit : float
        What a weight of 1 is sent as: clipping, which changes are made for, must not change the weights.
    correction_factory : callable
        What draws a client's steps towards the global model.
    """

    server_optimizer: ServerOptimizer
    unit: float
    correction_factory: CorrectionFactory = no_correction

    def start(self, size: int) -> Vectors:
        """Return the memory of the global step."""
        return self.server_optimizer.start(size)

    def length(self, size: int) -> int:
        """Return the number of parameters, and one for the weight."""
        return size + 1

    def contribute(self, model: nn.Module, member: ClientData, turn: RoundContext) -> ClientUpdate:
        """Train from the global model."""
        unflatten_into(model, turn.state.parameters)
        change, events = train_and_diff(model, member, turn, self.correction_factory(model))
        values = np.empty(len(change) + 1)
        np.multiply(change, member.weight, out=values[:-1])
        values[-1] = member.weight * self.unit
        return ClientUpdate(values, events, own=turn.own)

    def apply(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step along the weighted mean of those who answered."""
        return self.server_optimizer.step(state, weighted_mean(total, self.unit))


@dataclass(frozen=True)
class ScaffoldAlgorithm:
    """SCAFFOLD (arXiv 1910.06378, algorithm 1 with option II): each corrects its steps by how it differs from all.

    A client's control variate is the mean of the gradients that it met in its last turn, which its change tells: it
    sends how that differs from before, so that the sum gives the common one. Uploads have twice the length.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        The rule of the global step.
    unit : float
        See :class:`FedAvg`.
    clients : int
        Of how many clients the common control variate is the mean.
    reach : callable
        Returns how far one unit of gradient, in every step of a turn, moves the weights of a client with so many
        records: the sum of the learning rates, each with what momentum carries on.
    """

    server_optimizer: ServerOptimizer
    unit: float
    clients: int
    cumulative_step: Callable[[int, TrainingWindow], float]

    def start(self, size: int) -> Vectors:
        """Return the memory of the global step, and a common control variate of 0."""
        return {**self.server_optimizer.start(size), "control": np.zeros(size, dtype=np.float32)}

    def length(self, size: int) -> int:
        """Return twice the number of parameters, and one for the weight."""
        return 2 * size + 1

    def contribute(self, model: nn.Module, member: ClientData, turn: RoundContext) -> ClientUpdate:
        """Train from the global model with corrected gradients."""
        unflatten_into(model, turn.state.parameters)
        common = turn.state.memory["control"]
        mine = turn.own.get("control", np.zeros_like(common))
        change, events = train_and_diff(model, member, turn, ConstantOffset(unflatten(common - mine, model)))
        renewed = (mine - common - change / self.cumulative_step(len(member.records), turn.window)).astype(np.float32)
        shift = (renewed.astype(np.float64) - mine) / self.clients
        values = np.concatenate([member.weight * change, shift, [member.weight * self.unit]])
        return ClientUpdate(values, events, own={"control": renewed})

    def apply(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step, and move the common control variate."""
        size = len(state.parameters)
        change, shift, weight = total[:size], total[size : 2 * size], total[2 * size :]
        after = self.server_optimizer.step(state, weighted_mean(np.append(change, weight), self.unit))
        control = state.memory["control"].astype(np.float64) + shift
        return GlobalState(after.parameters, {**after.memory, "control": control.astype(np.float32)})


def train_and_diff(
    model: nn.Module, member: ClientData, turn: RoundContext, correction: GradientCorrection
) -> tuple[NDArray[np.float64], tuple[MechanismEvent, ...]]:
    """Train ``model``, which holds the global weights, and return how they changed and what ran on the records.

    Raises
    ------
    TrainingDiverged
        A loss or a weight is not finite; the message names client and round.
    """
    where = f"client {turn.client}, round {turn.number}"
    try:
        events = member.learner.fit(
            model, member.records, window=turn.window, rng=turn.rng, correction=correction, max_steps=turn.steps_left
        )
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{where}: {error}", events=error.events) from error
    change = np.subtract(flatten(model), turn.state.parameters, dtype=np.float64)
    if not np.isfinite(change).all():
        raise TrainingDiverged(f"{where}: the weights are not finite", events=events)
    return change, events


def weighted_mean(total: NDArray[np.float64], unit: float) -> Mean:
    """Return the mean of weighted changes whose sum, with that of the weights as its last value, is ``total``."""
    mean: Mean = total[:-1] * unit / total[-1]
    return mean


def count_steps(events: tuple[MechanismEvent, ...]) -> int:
    """Return how many steps ran."""
    return sum(event.steps for event in events)
