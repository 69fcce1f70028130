"""Build the parties of a federation from the configuration."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppml.accounting.schedule import poisson_schedule
from ppml.aggregation.factory import build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.interfaces import Aggregator, ClientSide, ServerKeyMaterial
from ppml.aggregation_parameters import clients_per_round
from ppml.config.arm import Arm
from ppml.config.technique import (
    ClientLevel,
    ExampleLevel,
    Federated,
    NoCorrection,
    NoPrivacy,
    ProximalTerm,
    Scaffold,
    ServerAdam,
    ServerSgd,
)
from ppml.data.examples import Examples
from ppml.federation.algorithms import (
    ClientData,
    CorrectionFactory,
    FedAvg,
    FederatedAlgorithm,
    ScaffoldAlgorithm,
    no_correction,
    proximal_correction,
)
from ppml.federation.client import ClientPool, no_prefetch
from ppml.federation.server_optimizer import FedAdam, FedAvgM, ServerOptimizer
from ppml.federation.server_state import ServerSettings
from ppml.federation.simulation_grid import DropsReply, no_dropouts
from ppml.federation.sum_mechanism import SumMechanism, identity
from ppml.learning.factory import build_learner, training_settings
from ppml.learning.learner import LocalLearner
from ppml.learning.parameters import flatten
from ppml.learning.training_window import TrainingWindow, cumulative_step, learning_rate
from ppml.learning.vectorized.clients import BatchedClientLearner, BatchedClients
from ppml.learning.vectorized.training import can_vectorize
from ppml.randomness import Randomness

SUM_NOISE_BUILDERS = {"distributed": "ppml.federation.sum_noise_factory:build_distributed_dp_sgd"}
"""Place of the noise -> builder ``module:function`` of the algorithm, imported on demand; without local noise."""


@dataclass(frozen=True)
class FederationSpec:
    """The public specification of a federation, for server and clients.

    Parameters
    ----------
    arm : Arm
        An arm with a federated topology.
    sizes : sequence of int
        Number of examples of each client.
    noise_multipliers : sequence of float or None
        Noise multiplier of each client; with noise in the sum, the noise multiplier of the sum for each client.
    affordable_steps : sequence of int or None
        Number of steps that the privacy budget of each client allows.
    """

    arm: Arm
    sizes: Sequence[int]
    noise_multipliers: Sequence[float | None]
    affordable_steps: Sequence[int | None]

    @property
    def topology(self) -> Federated:
        """The arm's topology."""
        assert isinstance(self.arm.topology, Federated)
        return self.arm.topology

    @property
    def codec(self) -> FixedPointCodec:
        """The grid of the updates."""
        return FixedPointCodec(self.arm.aggregation.clip, self.arm.aggregation.fractional_bits)


@dataclass(frozen=True)
class Seeds:
    """The seed of each party, from which the party cannot compute the randomness of another.

    Parameters
    ----------
    server : Randomness
        Seed of the server, for client sampling and central noise.
    clients : mapping of int to Randomness
        Seed of each client, for the order of examples, samples and noise.
    """

    server: Randomness
    clients: Mapping[int, Randomness]


def party_seeds(rng: Randomness, clients: int) -> Seeds:
    """Return the seeds that the holder of the root seed distributes at the start of a training."""
    return Seeds(rng.party("server"), {client: rng.party("client", client) for client in range(clients)})


@dataclass(frozen=True)
class ServerComponents:
    """The components of the server.

    Parameters
    ----------
    settings : ServerSettings
        Number of rounds and clients, and the like.
    aggregator : Aggregator
        Adds protected updates.
    sum_mechanism : SumMechanism
        Applied to each sum.
    """

    settings: ServerSettings
    aggregator: Aggregator
    sum_mechanism: SumMechanism


def build_client_pool(
    spec: FederationSpec,
    model: nn.Module,
    owned: Mapping[int, Examples],
    side: ClientSide,
    test: Examples,
    seeds: Mapping[int, Randomness],
) -> ClientPool:
    """Return the clients of this process: ``owned`` has their examples, ``seeds`` the seeds of these or all clients.

    ``model`` is a scratch module; its weights are overwritten.
    """
    weights = client_weights(spec.sizes, spec.topology.weighting)
    own_seeds = {client: seeds[client] for client in owned}
    learners, prefetch = _build_learners(spec, model, owned, own_seeds)
    clients = {
        client: ClientData(learners[client], examples, weights[client], spec.affordable_steps[client])
        for client, examples in owned.items()
    }
    return ClientPool(
        model=model,
        clients=clients,
        algorithm=build_algorithm(spec.arm, spec.codec, len(flatten(model)), spec.sizes, spec.noise_multipliers),
        side=side,
        codec=spec.codec,
        test=test,
        seeds=own_seeds,
        rounds=spec.topology.rounds,
        prefetch=prefetch,
    )


def _build_learners(
    spec: FederationSpec, model: nn.Module, owned: Mapping[int, Examples], seeds: Mapping[int, Randomness]
) -> tuple[dict[int, LocalLearner], Callable[[Sequence[int]], None]]:
    """Return each client's learner, and the function to call with the clients that will train next."""
    training, privacy = spec.arm.training, spec.arm.privacy
    without_noise = isinstance(privacy, NoPrivacy | ClientLevel)
    if without_noise and isinstance(spec.topology.correction, NoCorrection) and can_vectorize(model):
        batched = BatchedClients(training_settings(training), owned, seeds)
        return {client: BatchedClientLearner(client, batched) for client in owned}, batched.prefetch
    learners = {client: build_learner(training, privacy, spec.noise_multipliers[client]) for client in owned}
    return learners, no_prefetch


def build_server(
    spec: FederationSpec, initial_weights: NDArray[np.float32], material: ServerKeyMaterial, seed: Randomness
) -> ServerComponents:
    """Return the components of the server from its own ``seed`` and the clients' public key ``material``."""
    arm, topology, clients, size = spec.arm, spec.topology, len(spec.sizes), len(initial_weights)
    algorithm = build_algorithm(arm, spec.codec, size, spec.sizes, spec.noise_multipliers)
    per_round = clients_per_round(topology.participation, clients)
    settings = ServerSettings(
        rounds=topology.rounds,
        clients=clients,
        initial_weights=initial_weights,
        update_length=algorithm.update_length(size),
        sample_clients=client_sampler(clients, per_round, seed),
        min_clients=_min_clients(arm, clients),
        accounted=not isinstance(arm.privacy, NoPrivacy),
    )
    sum_mechanism = build_sum_mechanism(arm, spec.codec, size, spec.noise_multipliers, seed)
    return ServerComponents(settings, build_server_side(arm.aggregation, per_round, material), sum_mechanism)


def build_algorithm(
    arm: Arm,
    codec: FixedPointCodec,
    size: int,
    sizes: Sequence[int],
    noise_multipliers: Sequence[float | None],
) -> FederatedAlgorithm:
    """Return the federated algorithm of ``arm``, for a model of ``size`` parameters and clients of ``sizes``."""
    topology, privacy = arm.topology, arm.privacy
    assert isinstance(topology, Federated)
    optimizer = build_server_optimizer(topology.server)
    # A weight of 1 must not be clipped.
    weight_unit = min(1.0, codec.clip)

    match privacy:
        case ClientLevel():
            from ppml.federation.sum_noise_factory import build_dp_fedavg

            correction = build_correction(topology.correction)
            return build_dp_fedavg(privacy, optimizer, codec, size, len(sizes), noise_multipliers, correction)
        case ExampleLevel() if privacy.noise in SUM_NOISE_BUILDERS:
            module, _, name = SUM_NOISE_BUILDERS[privacy.noise].partition(":")
            build = getattr(importlib.import_module(module), name)
            algorithm: FederatedAlgorithm = build(arm, privacy, optimizer, codec, size, sizes, noise_multipliers)
            return algorithm
    match topology.correction:
        case Scaffold():
            return ScaffoldAlgorithm(optimizer, weight_unit, len(sizes), cumulative_learning_rate(arm))
        case _:
            return FedAvg(optimizer, weight_unit, build_correction(topology.correction))


def build_server_optimizer(spec: ServerSgd | ServerAdam) -> ServerOptimizer:
    """Return the rule of the global step."""
    match spec:
        case ServerAdam():
            return FedAdam(spec.learning_rate, spec.beta1, spec.beta2, spec.tau)
        case ServerSgd():
            return FedAvgM(spec.learning_rate, spec.momentum)


def build_correction(spec: NoCorrection | ProximalTerm | Scaffold) -> CorrectionFactory:
    """Return the factory of the correction against client drift; SCAFFOLD's is part of its algorithm."""
    return proximal_correction(spec.mu) if isinstance(spec, ProximalTerm) else no_correction


def build_sum_mechanism(
    arm: Arm, codec: FixedPointCodec, size: int, noise_multipliers: Sequence[float | None], rng: Randomness
) -> SumMechanism:
    """Return the server's mechanism on a sum."""
    match arm.privacy:
        case ClientLevel(noise="central") as privacy:
            from ppml.federation.sum_noise_factory import build_central_gaussian

            return build_central_gaussian(privacy, codec, size, noise_multipliers, rng)
    return identity


def client_sampler(clients: int, count: int, rng: Randomness) -> Callable[[int], Sequence[int]]:
    """Return a function from the number of a round to its clients: a new sample of ``count`` clients in each round."""

    def sample_clients(number: int) -> Sequence[int]:
        if count == clients:
            return range(clients)
        sample = rng.child("round", number, "participants").numpy().permutation(clients)[:count]
        return sorted(sample.tolist())

    return sample_clients


def simulate_dropouts(rate: float, rng: Randomness) -> DropsReply:
    """Return the decision function of dropouts with probability ``rate``."""
    if not rate:
        return no_dropouts
    return lambda number, client: rng.child("round", number, "client", client, "failure").numpy().random() < rate


def cumulative_learning_rate(arm: Arm) -> Callable[[int, TrainingWindow], float]:
    """Return a function from number of examples and training window to the cumulative step of a constant gradient."""
    training = arm.training

    def compute(examples: int, window: TrainingWindow) -> float:
        if isinstance(arm.privacy, NoPrivacy):
            steps = 1 if training.batch_size == "all" else math.ceil(examples / training.batch_size)
        else:
            _, steps = poisson_schedule(examples, training.batch_size)
        schedule = training.learning_rate_schedule
        fractions = (step / (steps * training.epochs) for step in range(steps * training.epochs))
        rates = [learning_rate(training.learning_rate, schedule, window.at(fraction)) for fraction in fractions]
        return cumulative_step(rates, training.momentum)

    return compute


def client_weights(sizes: Sequence[int], weighting: str) -> list[float]:
    """Return each client's weight in (0, 1]: 1, or its number of examples relative to the largest client.

    Examples
    --------
    >>> client_weights([50, 100], "examples")
    [0.5, 1.0]
    >>> client_weights([50, 100], "uniform")
    [1.0, 1.0]
    """
    if weighting == "uniform":
        return [1.0] * len(sizes)
    return [size / max(sizes) for size in sizes]


def _min_clients(arm: Arm, clients: int) -> int:
    """Return the least number of updates in a sum.

    A sum of one update reveals it. With distributed noise, a sum must have the noise terms of all but the permitted
    dropouts.
    """
    assert isinstance(arm.topology, Federated)
    least, privacy = arm.topology.min_clients, arm.privacy
    if not arm.aggregation.server_sees_updates:
        least = max(2, least)
    if isinstance(privacy, ExampleLevel | ClientLevel) and privacy.noise == "distributed":
        return max(least, clients - privacy.max_dropouts)
    return least
