"""Build the parts of a federation with central or distributed DP noise.

A module of its own, so that a change of this noise does not concern other federations.
"""

from __future__ import annotations

from collections.abc import Sequence

from ppml.accounting.schedule import mechanism_schedules
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.config.arm import Arm
from ppml.config.technique import ClientLevel, ExampleLevel
from ppml.federation.algorithms import CorrectionFactory
from ppml.federation.distributed_dp import CentralGaussian, DistributedDpSgd, DistributedGaussian, DpFedAvg
from ppml.federation.server_optimizer import ServerOptimizer
from ppml.federation.sum_mechanism import SumMechanism
from ppml.learning.clipping import CLIPPING_MARGIN
from ppml.randomness import Randomness


def build_distributed_dp_sgd(
    arm: Arm,
    privacy: ExampleLevel,
    optimizer: ServerOptimizer,
    codec: FixedPointCodec,
    size: int,
    sizes: Sequence[int],
    noise_multipliers: Sequence[float | None],
) -> DistributedDpSgd:
    """Return DP-SGD on the examples of all clients; ``sizes`` are their numbers of examples."""
    schedule = mechanism_schedules(arm, sizes)[0]
    return DistributedDpSgd(
        optimizer,
        _distributed_gaussian(privacy, privacy.max_grad_norm, codec, size, len(sizes), noise_multipliers),
        sample_rate=schedule.sample_rate,
        expected_batch_size=schedule.sample_rate * sum(sizes),
        peak_learning_rate=arm.training.learning_rate,
        learning_rate_schedule=arm.training.learning_rate_schedule,
        rounds=schedule.steps,
    )


def build_dp_fedavg(
    privacy: ClientLevel,
    optimizer: ServerOptimizer,
    codec: FixedPointCodec,
    size: int,
    clients: int,
    noise_multipliers: Sequence[float | None],
    correction_factory: CorrectionFactory,
) -> DpFedAvg:
    """Return client-level DP for a number of clients."""
    norm, noise = privacy.max_update_norm, None
    if privacy.noise == "distributed":
        noise = _distributed_gaussian(privacy, norm, codec, size, clients, noise_multipliers)
    return DpFedAvg(optimizer, norm, clients, noise, correction_factory)


def build_central_gaussian(
    privacy: ClientLevel,
    codec: FixedPointCodec,
    size: int,
    noise_multipliers: Sequence[float | None],
    rng: Randomness,
) -> SumMechanism:
    """Return the noise of a server that sees the updates."""
    noise_multiplier = _sum_noise_multiplier(noise_multipliers)
    return CentralGaussian(noise_multiplier, privacy.max_update_norm, size, codec, privacy.noise_source, rng)


def _distributed_gaussian(
    privacy: ExampleLevel | ClientLevel,
    norm: float,
    codec: FixedPointCodec,
    size: int,
    clients: int,
    noise_multipliers: Sequence[float | None],
) -> DistributedGaussian:
    # Clients clip their updates in float64.
    margin = 0.0 if isinstance(privacy, ClientLevel) else CLIPPING_MARGIN
    return DistributedGaussian(
        _sum_noise_multiplier(noise_multipliers),
        clients,
        privacy.max_colluding,
        privacy.max_dropouts,
        norm,
        size,
        codec,
        privacy.noise_source,
        margin,
    )


def _sum_noise_multiplier(noise_multipliers: Sequence[float | None]) -> float:
    """Return the noise multiplier of the sum, which calibration repeats for each client."""
    (noise_multiplier,) = set(noise_multipliers)
    if noise_multiplier is None:
        raise ValueError("a private federation needs the noise multiplier of calibration")
    return noise_multiplier
