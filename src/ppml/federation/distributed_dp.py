"""Noise that is added to sums alone: by the clients, a share each, or by a server that sees their updates.

Each of K clients rounds what it contributes to the grid and adds a share of the noise, rounded, too, before it seals.
Only the sum is ever opened, and it carries the noise of central differential privacy.

Why rounded normal shares are the Gaussian mechanism. Let X be the exact integer sum and g_k the normal shares, of
deviation s in steps of the grid. What is opened is ``Y = X + sum(rint(g_k))``, that is X + G less the sum of the
rounding errors r_k = g_k - rint(g_k), with G the sum of the g_k. X + G is the Gaussian mechanism, whose neighbouring
outputs differ by integers. By Poisson's summation formula the errors (r_1, ..., r_K), given G, are distributed
uniformly over those that agree with G modulo 1, but for terms of the order of ``exp(-pi^2 s^2)``: so they depend on X +
G alone, since X is whole, and Y is post-processing of it. For ``s >= MIN_SIGMA`` these terms are below 10^-600,
and no accountant sees them. (Given its rounding error a rounded normal value is a discrete Gaussian on a shifted grid,
arXiv 2102.06387; at small s, where this argument ends, shares are refused.)
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
from ppml.aggregation.plaintext import to_plaintext, from_plaintext
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.federation.algorithms import ClientUpdate, ClientData, CorrectionFactory, RoundContext, no_correction, train_and_diff
from ppml.federation.global_state import GlobalState, Vectors
from ppml.federation.server_optimizer import ServerOptimizer
from ppml.learning.clipped_sum import clipped_sum
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.learning.learner import TrainingDiverged
from ppml.learning.noise import TAIL, grid_sensitivity, build_noise_source
from ppml.learning.parameters import unflatten_into
from ppml.learning.poisson import NO_SAMPLES, PoissonSampler, Sampling, build_sampler, describe_sampling
from ppml.learning.training_window import learning_rate
from ppml.randomness import Randomness

MIN_SIGMA = 16.0
"""Steps of the grid that the deviation of a share must have at least."""


class NoiseSample(NamedTuple):
    """Noise in steps of the grid.

    Parameters
    ----------
    values : Grid
        Whole numbers, shape ``(size,)``.
    source : {"seeded", "secure"}
        Where it comes from, as the source that drew it says.
    """

    values: Grid
    source: str


@dataclass(frozen=True)
class DistributedGaussian:
    """How the noise of a sum is divided.

    Parameters
    ----------
    noise_multiplier : float
        Deviation of the noise that counts, in units of the sensitivity.
    clients : int
        How many add a share.
    colluders : int
        Clients that may tell the server their shares: theirs do not count. At least 1, since who takes part knows its
        own.
    dropouts : int
        Clients that may fail in a round: their shares may be missing.
    norm : float
        What the contribution of one record, or one client, is clipped to, before rounding.
    size : int
        Values of a contribution.
    codec : FixedPointCodec
        The grid.
    source : {"seeded", "secure"}
        Where shares come from.
    clipping_margin : float
        Share of ``norm`` by which a contribution may be longer: that of float32 sums of clipped gradients by default.

    Raises
    ------
    UserError
        No share would count, a share is too small for the grid, or does not fit it.
    """

    noise_multiplier: float
    clients: int
    colluders: int
    dropouts: int
    norm: float
    size: int
    codec: FixedPointCodec
    source: str = "seeded"
    clipping_margin: float = CLIPPING_MARGIN

    def __post_init__(self) -> None:
        if self.counted < 1:
            raise UserError(
                f"privacy: {self.clients} clients, of whom {self.colluders} may collude and {self.dropouts} drop out: "
                "no share of the noise is left; lower privacy.max_colluding or privacy.max_dropouts, or take more clients"
            )
        if 0 < self.deviation < MIN_SIGMA:
            raise UserError(
                f"aggregation.fractional_bits: got {self.codec.fractional_bits}; a share of the noise has a deviation "
                f"of {self.deviation:.3g} steps of the grid, at least {MIN_SIGMA:g} are needed; raise it"
            )
        if self.limit < self.codec.clip / 2:
            raise UserError(
                f"aggregation.clip: got {self.codec.clip:g}; a share of the noise needs {self.margin:.3g} of it, and "
                f"at most half is allowed; raise clip to {2 * self.margin:.3g} or more"
            )

    @property
    def counted(self) -> int:
        """How many shares count."""
        return self.clients - self.colluders - self.dropouts

    @property
    def sensitivity(self) -> float:
        """Norm by which one record, or client, changes the sum."""
        return grid_sensitivity(self.norm * (1.0 + self.clipping_margin), self.size, self.codec.step)

    @property
    def deviation(self) -> float:
        """Deviation of one share, in steps of the grid."""
        return self.noise_multiplier * self.sensitivity / self.codec.step / math.sqrt(self.counted)

    @property
    def margin(self) -> float:
        """What a share may take of the range of values."""
        return TAIL * self.deviation * self.codec.step

    @property
    def limit(self) -> float:
        """What is left of the range for the contribution itself."""
        return self.codec.clip - self.margin

    def draw(self, rng: Randomness) -> NoiseSample:
        """Return one share."""
        return rounded_gaussian(self.size, self.deviation, self.source, rng)

    def event(self, drawn_by: Sampling, noise_source: str) -> MechanismEvent:
        """Return what one sum is to the accountant: the noise that counts, and where noise and sample came from."""
        drawn = self.deviation * self.codec.step * math.sqrt(self.counted) / self.sensitivity
        # The last bit that going back and forth may cost is not worth another epsilon.
        noise = self.noise_multiplier if math.isclose(drawn, self.noise_multiplier, rel_tol=1e-12) else drawn
        return MechanismEvent(
            drawn_by.rate, noise, 1, self.norm, drawn_by.kind, noise_source, drawn_by.source_or(noise_source)
        )


def rounded_gaussian(size: int, deviation: float, source: str, rng: Randomness) -> NoiseSample:
    """Return normal values rounded to integers and cut off at ``TAIL`` deviations, shape ``(size,)``."""
    noise = build_noise_source(source, rng.child("noise"))
    return NoiseSample(noise.rounded_normal(size, deviation), noise.source)


def require_finite_state(turn: RoundContext) -> None:
    """Refuse to train from global weights that are not finite: they carry noise, and may decide.

    Raises
    ------
    TrainingDiverged
        A weight is not finite; the message names client and round.
    """
    if not np.isfinite(turn.state.parameters).all():
        raise TrainingDiverged(f"client {turn.client}, round {turn.number}: the global weights are not finite")


@dataclass(frozen=True)
class DistributedDpSgd:
    """DP-SGD over all records together: a round is one step, whose sum of gradients is never seen without noise.

    Every record enters with the same probability, wherever it lies, and the sum is divided by the public expected
    number: together the clients' samples are a Poisson sample of all records. A client with an empty sample sends its
    noise.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        The rule of the global step.
    shares : DistributedGaussian
        The noise; its norm is that which each record's gradient is clipped to.
    sample_rate : float
        With which a record enters.
    expected : float
        The sample rate times the number of all records: public.
    peak, decay : float, str
        The learning rate and how it falls.
    rounds : int
        How many there are.
    """

    server_optimizer: ServerOptimizer
    shares: DistributedGaussian
    sample_rate: float
    expected: float
    peak: float
    decay: str
    rounds: int

    def start(self, size: int) -> Vectors:
        """Return the memory of the global step."""
        return self.server_optimizer.start(size)

    def length(self, size: int) -> int:
        """Return the number of parameters: neither a weight nor a number of records is sent."""
        return size

    def contribute(self, model: nn.Module, member: ClientData, turn: RoundContext) -> ClientUpdate:
        """Sum the clipped gradients of a sample."""
        require_finite_state(turn)
        unflatten_into(model, turn.state.parameters)
        sampler = self._sampler(member.records, turn.rng)
        (chosen,) = sampler
        total = clipped_sum(model, member.records, chosen, self.shares.norm)
        values = np.clip(-total, -self.shares.limit, self.shares.limit)
        noise = self.shares.draw(turn.rng)
        return ClientUpdate(values, (self.shares.event(describe_sampling(sampler), noise.source),), noise.values, turn.own)

    def _sampler(self, records: Examples, rng: Randomness) -> PoissonSampler:
        return build_sampler(records, self.sample_rate, 1, self.shares.source, rng.child("sampling"))

    def apply(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step along the noisy mean gradient."""
        rate = learning_rate(self.peak, self.decay, (number - 1) / self.rounds)
        return self.server_optimizer.step(state, rate * total / self.expected)


@dataclass(frozen=True)
class DpFedAvg:
    """Client-level DP: each sends its change, clipped to a norm, with weight 1; the sum carries the noise (DP-FedAvg).

    Neighbouring federations differ in all that one client contributes, so that its weight may not show: all weigh the
    same, and the sum is divided by the public number of clients (arXiv 1710.06963). Where the clients add the noise,
    who takes part is public, and the client that differs contributes 0 and its share of the noise.

    Parameters
    ----------
    server_optimizer : ServerOptimizer
        The rule of the global step.
    norm : float
        What a change is clipped to.
    clients : int
        The public number.
    shares : DistributedGaussian or None
        The noise, where the clients add it.
    correction_factory : callable
        What draws a client's steps towards the global model.
    """

    server_optimizer: ServerOptimizer
    norm: float
    clients: int
    shares: DistributedGaussian | None = None
    correction_factory: CorrectionFactory = no_correction

    def start(self, size: int) -> Vectors:
        """Return the memory of the global step."""
        return self.server_optimizer.start(size)

    def length(self, size: int) -> int:
        """Return the number of parameters: no weight is sent."""
        return size

    def contribute(self, model: nn.Module, member: ClientData, turn: RoundContext) -> ClientUpdate:
        """Train from the global model and clip the change; one that is not finite is 0, and nothing tells of it."""
        require_finite_state(turn)
        unflatten_into(model, turn.state.parameters)
        try:
            change, _ = train_and_diff(model, member, turn, self.correction_factory(model))
        except TrainingDiverged:
            change = np.zeros(len(turn.state.parameters))
        change *= min(1.0, self.norm / (float(np.linalg.norm(change)) + 1e-12))
        if self.shares is None:
            return ClientUpdate(change, (), own=turn.own)
        values = np.clip(change, -self.shares.limit, self.shares.limit)
        noise = self.shares.draw(turn.rng)
        return ClientUpdate(values, (self.shares.event(NO_SAMPLES, noise.source),), noise.values, turn.own)

    def apply(self, total: NDArray[np.float64], state: GlobalState, number: int) -> GlobalState:
        """Take the step along the noisy mean change."""
        return self.server_optimizer.step(state, total / self.clients)


@dataclass(frozen=True)
class CentralGaussian:
    """Noise of a server that sees the updates, for sums in the clear.

    Parameters
    ----------
    noise_multiplier, norm, size, codec, source
        See :class:`DistributedGaussian`.
    rng : Randomness
        What noise is drawn from.
    """

    noise_multiplier: float
    norm: float
    size: int
    codec: FixedPointCodec
    source: str
    rng: Randomness

    def __call__(self, total: ProtectedUpdate, number: int) -> tuple[ProtectedUpdate, tuple[MechanismEvent, ...]]:
        """Return the sum with noise, as 64-bit integers: it may be larger than any sum of updates."""
        sensitivity = grid_sensitivity(self.norm, self.size, self.codec.step) / self.codec.step
        deviation = self.noise_multiplier * sensitivity
        noise = rounded_gaussian(self.size, deviation, self.source, self.rng.child("round", number, "server"))
        event = MechanismEvent(
            1.0, deviation / sensitivity, 1, self.norm, noise_source=noise.source, sampling_source=noise.source
        )
        return to_plaintext(from_plaintext(total) + noise.values, "<i8"), (event,)
