"""Noise in the sum of updates: by the clients, one term each, or by a server that sees their updates.

Each of K clients rounds its update to the grid, and adds a rounded noise term before it protects the result. Only the
sum is revealed, which has the noise of central differential privacy.

The sum of rounded normal terms is the Gaussian mechanism. Let X be the exact integer sum, and g_k the normal terms, of
standard deviation s in steps of the grid. The revealed sum is ``Y = X + sum(rint(g_k))``, which is X + G minus the sum
of the rounding errors r_k = g_k - rint(g_k), with G the sum of the g_k. X + G is the Gaussian mechanism, whose
neighbouring outputs differ by integers. By Poisson's summation formula the errors (r_1, ..., r_K), given G, are uniform
on the vectors whose sum agrees with G modulo 1, except for terms of the order of ``exp(-pi^2 s^2)``. So they depend on
X + G alone, since X is an integer, and Y is post-processing of it. For ``s >= MIN_SIGMA`` these terms are below
10^-600, and no accountant resolves them. (Given its rounding error, a rounded normal value is a discrete Gaussian on a
shifted grid, arXiv 2102.06387. The argument fails for small s, which is refused.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import from_plaintext, to_plaintext
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.federation.algorithms import (
    ClientData,
    ClientUpdate,
    CorrectionFactory,
    RoundContext,
    no_correction,
    train_and_diff,
)
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.server_optimizer import ServerOptimizer
from ppml.learning.clipped_sum import clipped_sum
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.learner import TrainingDiverged
from ppml.learning.noise import TAIL, build_noise_source, grid_sensitivity
from ppml.learning.parameters import unflatten_into
from ppml.learning.poisson import NO_SAMPLES, PoissonSampler, Sampling, build_sampler, describe_sampling
from ppml.learning.training_window import learning_rate
from ppml.randomness import Randomness

MIN_SIGMA = 16.0
"""Smallest standard deviation of a client's noise term, in steps of the grid."""


class NoiseSample(NamedTuple):
    """Noise in steps of the grid.

    Parameters
    ----------
    values : Grid
        Integers, shape ``(size,)``.
    source : {"seeded", "secure"}
        Source of the noise, as the source itself reports.
    """

    values: Grid
    source: str


@dataclass(frozen=True)
class DistributedGaussian:
    """Gaussian noise of a sum, divided among the clients.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise of the honest clients, in units of the sensitivity.
    clients : int
        Number of clients that add a noise term.
    max_colluding : int
        Clients that may reveal their noise terms to the server, so that these do not count. At least 1, since a client
        knows its own term.
    max_dropouts : int
        Clients that may drop out of a round, so that their noise terms are missing.
    max_norm : float
        Clipping norm of an example's gradient, or of a client's update, before rounding.
    size : int
        Number of values of an update.
    codec : FixedPointCodec
        The grid.
    source : {"seeded", "secure"}
        Source of the noise.
    clipping_margin : float
        Relative excess of a clipped vector over ``max_norm``; by default that of float32 sums of clipped gradients.

    Raises
    ------
    UserError
        There are no honest clients, or a noise term is too small for the grid, or exceeds its range.
    """

    noise_multiplier: float
    clients: int
    max_colluding: int
    max_dropouts: int
    max_norm: float
    size: int
    codec: FixedPointCodec
    source: str = "seeded"
    clipping_margin: float = CLIPPING_MARGIN

    def __post_init__(self) -> None:
        if self.honest_clients < 1:
            raise UserError(
                f"privacy: got {self.clients} clients, of which {self.max_colluding} may collude and "
                f"{self.max_dropouts} may drop out, so that no noise term counts; lower privacy.max_colluding or "
                "privacy.max_dropouts, or use more clients"
            )
        if 0 < self.sigma < MIN_SIGMA:
            raise UserError(
                f"aggregation.fractional_bits: got {self.codec.fractional_bits}; a client's noise has a standard "
                f"deviation of {self.sigma:.3g} steps of the grid, at least {MIN_SIGMA:g} are needed; raise it"
            )
        if self.value_limit < self.codec.clip / 2:
            raise UserError(
                f"aggregation.clip: got {self.codec.clip:g}; a client's noise needs {self.noise_limit:.3g} of it, and "
                f"at most half is allowed; raise clip to {2 * self.noise_limit:.3g} or more"
            )

    @property
    def honest_clients(self) -> int:
        """Number of clients whose noise terms count."""
        return self.clients - self.max_colluding - self.max_dropouts

    @property
    def sensitivity(self) -> float:
        """Norm by which one example, or client, changes the sum."""
        return grid_sensitivity(self.max_norm * (1.0 + self.clipping_margin), self.size, self.codec.step)

    @property
    def sigma(self) -> float:
        """Standard deviation of a client's noise term, in steps of the grid."""
        return self.noise_multiplier * self.sensitivity / self.codec.step / math.sqrt(self.honest_clients)

    @property
    def noise_limit(self) -> float:
        """Part of the value range for a client's noise term."""
        return TAIL * self.sigma * self.codec.step

    @property
    def value_limit(self) -> float:
        """Part of the value range for the update itself."""
        return self.codec.clip - self.noise_limit

    def sample(self, rng: Randomness) -> NoiseSample:
        """Return the noise term of one client."""
        return rounded_gaussian(self.size, self.sigma, self.source, rng)

    def event(self, sampling: Sampling, noise_source: str) -> MechanismEvent:
        """Return the event of one sum for the accountant: the noise of the honest clients, and the sources."""
        executed = self.sigma * self.codec.step * math.sqrt(self.honest_clients) / self.sensitivity
        # A difference in the last bit, from the conversion back, must not change epsilon.
        noise = self.noise_multiplier if math.isclose(executed, self.noise_multiplier, rel_tol=1e-12) else executed
        return MechanismEvent(
            sampling.rate, noise, 1, self.max_norm, sampling.kind, noise_source, sampling.source_or(noise_source)
        )


def rounded_gaussian(size: int, sigma: float, source: str, rng: Randomness) -> NoiseSample:
    """Return normal values, rounded to integers and cut off at ``TAIL`` standard deviations, shape ``(size,)``."""
    noise = build_noise_source(source, rng.child("noise"))
    return NoiseSample(noise.rounded_normal(size, sigma), noise.source)


def require_finite_state(context: RoundContext) -> None:
    """Refuse to train from global weights that are not finite. They have noise, so that this reveals nothing.

    Raises
    ------
    TrainingDiverged
        A weight is not finite; the message names client and round.
    """
    if not np.isfinite(context.global_state.parameters).all():
        raise TrainingDiverged(f"client {context.client}, round {context.number}: the global weights are not finite")


@dataclass(frozen=True)
class DistributedDpSgd:
    """DP-SGD on the examples of all clients: a round is one step, and no party learns its gradient sum without noise.

    Every example is in the sample with the same probability, at any client, so that the clients' samples are together
    one Poisson sample. The sum is divided by its public expected size. A client with an empty sample sends its noise.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        Rule of the global step.
    noise : DistributedGaussian
        The noise; its ``max_norm`` is the clipping norm of each example's gradient.
    sample_rate : float
        Sampling probability of an example.
    expected_batch_size : float
        Sample rate times number of all examples: public.
    peak_learning_rate : float
        Learning rate of the first round.
    learning_rate_schedule : str
        Schedule of the learning rate.
    rounds : int
        Number of rounds.
    """

    server_optimizer: ServerOptimizer
    noise: DistributedGaussian
    sample_rate: float
    expected_batch_size: float
    peak_learning_rate: float
    learning_rate_schedule: str
    rounds: int

    def initial_memory(self, size: int) -> Vectors:
        """Return the memory of the server optimizer."""
        return self.server_optimizer.initial_memory(size)

    def update_length(self, size: int) -> int:
        """Return the number of parameters: a client sends neither a weight nor a number of examples."""
        return size

    def compute_update(self, model: nn.Module, data: ClientData, context: RoundContext) -> ClientUpdate:
        """Compute the sum of the clipped gradients of a sample."""
        require_finite_state(context)
        unflatten_into(model, context.global_state.parameters)
        sampler = self._sampler(data.examples, context.rng)
        (chosen,) = sampler
        total = clipped_sum(model, data.examples, chosen, self.noise.max_norm)
        values = np.clip(-total, -self.noise.value_limit, self.noise.value_limit)
        noise = self.noise.sample(context.rng)
        event = self.noise.event(describe_sampling(sampler), noise.source)
        return ClientUpdate(values, (event,), noise.values, context.private)

    def _sampler(self, examples: Examples, rng: Randomness) -> PoissonSampler:
        return build_sampler(examples, self.sample_rate, 1, self.noise.source, rng.child("sampling"))

    def apply_sum(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step along the noisy mean gradient."""
        rate = learning_rate(self.peak_learning_rate, self.learning_rate_schedule, (number - 1) / self.rounds)
        return self.server_optimizer.step(state, rate * total / self.expected_batch_size)


@dataclass(frozen=True)
class DpFedAvg:
    """Client-level DP (DP-FedAvg): a client sends its clipped change of the weights; the sum has noise.

    Neighbouring federations differ in everything that one client sends. So the sum must not reveal a client's weight:
    all weights are 1, and the sum is divided by the public number of clients (arXiv 1710.06963). With noise of the
    clients, the set of participating clients is public, and in a neighbouring federation the client sends 0 and its
    noise term.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        Rule of the global step.
    max_update_norm : float
        Clipping norm of a change.
    clients : int
        Public number of clients.
    noise : DistributedGaussian or None
        The noise, if the clients add it.
    correction_factory : callable
        Builds the correction against client drift.
    """

    server_optimizer: ServerOptimizer
    max_update_norm: float
    clients: int
    noise: DistributedGaussian | None = None
    correction_factory: CorrectionFactory = no_correction

    def initial_memory(self, size: int) -> Vectors:
        """Return the memory of the server optimizer."""
        return self.server_optimizer.initial_memory(size)

    def update_length(self, size: int) -> int:
        """Return the number of parameters: a client sends no weight."""
        return size

    def compute_update(self, model: nn.Module, data: ClientData, context: RoundContext) -> ClientUpdate:
        """Train from the global model and clip the change. A change that is not finite becomes 0 without a notice."""
        require_finite_state(context)
        unflatten_into(model, context.global_state.parameters)
        try:
            change, _ = train_and_diff(model, data, context, self.correction_factory(model))
        except TrainingDiverged:
            change = np.zeros(len(context.global_state.parameters))
        change *= min(1.0, self.max_update_norm / (float(np.linalg.norm(change)) + 1e-12))
        if self.noise is None:
            return ClientUpdate(change, (), private=context.private)
        values = np.clip(change, -self.noise.value_limit, self.noise.value_limit)
        noise = self.noise.sample(context.rng)
        return ClientUpdate(values, (self.noise.event(NO_SAMPLES, noise.source),), noise.values, context.private)

    def apply_sum(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step along the noisy mean change."""
        return self.server_optimizer.step(state, total / self.clients)


@dataclass(frozen=True)
class CentralGaussian:
    """Gaussian noise of a server that sees the updates, for plaintext sums.

    Parameters
    ----------
    noise_multiplier, max_norm, size, codec, source
        See :class:`DistributedGaussian`.
    rng : Randomness
        Randomness of the noise.
    """

    noise_multiplier: float
    max_norm: float
    size: int
    codec: FixedPointCodec
    source: str
    rng: Randomness

    def __call__(self, total: ProtectedUpdate, number: int) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
        """Return the sum with noise, as 64-bit integers: it may be larger than any sum of updates."""
        sensitivity = grid_sensitivity(self.max_norm, self.size, self.codec.step) / self.codec.step
        sigma = self.noise_multiplier * sensitivity
        noise = rounded_gaussian(self.size, sigma, self.source, self.rng.child("round", number, "server"))
        event = MechanismEvent(
            1.0, sigma / sensitivity, 1, self.max_norm, noise_source=noise.source, sampling_source=noise.source
        )
        return to_plaintext(from_plaintext(total) + noise.values, "<i8"), (event,)
