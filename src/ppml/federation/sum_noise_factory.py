"""From the configuration to what a federation does whose noise is in the sum."""

from __future__ import annotations

from collections.abc import Sequence

from ppml.accounting.schedule import mechanism_schedules
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.config.arm import Arm
from ppml.config.technique import ClientLevel, ExampleLevel
from ppml.federation.algorithms import CorrectionFactory
from ppml.federation.distributed_dp import DpFedAvg, DistributedDpSgd, DistributedGaussian, CentralGaussian
from ppml.federation.server_optimizer import ServerOptimizer
from ppml.federation.sum_mechanism import SumMechanism
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.randomness import Randomness


def build_distributed_dp_sgd(
    arm: Arm,
    privacy: ExampleLevel,
    step: ServerOptimizer,
    codec: FixedPointCodec,
    size: int,
    records: Sequence[int],
    noise_multipliers: Sequence[float | None],
) -> DistributedDpSgd:
    """Return DP-SGD over the records of all clients, who have so many ``records``."""
    plan = mechanism_schedules(arm, records)[0]
    return DistributedDpSgd(
        step,
        _shares(privacy, privacy.max_grad_norm, codec, size, len(records), noise_multipliers),
        sample_rate=plan.sample_rate,
        expected=plan.sample_rate * sum(records),
        peak=arm.training.learning_rate,
        decay=arm.training.learning_rate_schedule,
        rounds=plan.steps,
    )


def build_dp_fedavg(
    privacy: ClientLevel,
    step: ServerOptimizer,
    codec: FixedPointCodec,
    size: int,
    clients: int,
    noise_multipliers: Sequence[float | None],
    correction: CorrectionFactory,
) -> DpFedAvg:
    """Return client-level DP among so many ``clients``."""
    norm, shares = privacy.max_update_norm, None
    if privacy.noise == "distributed":
        shares = _shares(privacy, norm, codec, size, clients, noise_multipliers)
    return DpFedAvg(step, norm, clients, shares, correction)


def build_server_noise(
    privacy: ClientLevel,
    codec: FixedPointCodec,
    size: int,
    noise_multipliers: Sequence[float | None],
    rng: Randomness,
) -> SumMechanism:
    """Return the noise of a server that sees the updates."""
    noise = _noise_of_the_sum(noise_multipliers)
    return CentralGaussian(noise, privacy.max_update_norm, size, codec, privacy.noise_source, rng)


def _shares(
    privacy: ExampleLevel | ClientLevel,
    norm: float,
    codec: FixedPointCodec,
    size: int,
    clients: int,
    noise_multipliers: Sequence[float | None],
) -> DistributedGaussian:
    noise = _noise_of_the_sum(noise_multipliers)
    # The update of a client is clipped in float64.
    margin = 0.0 if isinstance(privacy, ClientLevel) else CLIPPING_MARGIN
    return DistributedGaussian(
        noise, clients, privacy.max_colluding, privacy.max_dropouts, norm, size, codec, privacy.noise_source, margin
    )


def _noise_of_the_sum(noise_multipliers: Sequence[float | None]) -> float:
    """Return the noise of a sum, which calibration states once for each client."""
    (noise,) = set(noise_multipliers)
    if noise is None:
        raise ValueError("a private federation needs the noise multiplier that calibration found")
    return noise
