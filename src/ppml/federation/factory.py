"""From the configuration to the parties of a federation."""

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
from ppml.config.aggregation_parameters import clients_per_round
from ppml.config.arm import Arm
from ppml.config.technique import (
    ClientLevel,
    ExampleLevel,
    Federated,
    NoCorrection,
    NoPrivacy,
    Plaintext,
    ProximalTerm,
    Scaffold,
    ServerAdam,
    ServerSgd,
)
from ppml.data.examples import Examples
from ppml.federation.algorithms import ScaffoldAlgorithm, FederatedAlgorithm, ClientData, CorrectionFactory, FedAvg, no_correction, proximal_correction
from ppml.federation.client import ClientPool, no_prefetch
from ppml.federation.server import ServerSettings
from ppml.federation.server_optimizer import FedAdam, FedAvgM, ServerOptimizer
from ppml.federation.simulation_grid import DropsReply, no_dropouts
from ppml.federation.sum_mechanism import SumMechanism, identity
from ppml.learning.factory import build_learner, training_settings
from ppml.learning.learner import LocalLearner
from ppml.learning.parameters import flatten
from ppml.learning.training_window import TrainingWindow, learning_rate, cumulative_step
from ppml.learning.vectorized.clients import BatchedClients, BatchedClientLearner
from ppml.learning.vectorized.training import can_vectorize
from ppml.randomness import Randomness

SUM_NOISE_BUILDERS = {"distributed": "ppml.federation.sum_noise_factory:build_distributed_dp_sgd"}
"""Who adds the noise, where it is no single owner -> ``module:function``, imported where it is chosen."""


@dataclass(frozen=True)
class FederationSpec:
    """What is public of a federation, to server and clients.

    Parameters
    ----------
    arm : Arm
        Its topology is federated.
    sizes : sequence of int
        Each client's number of records.
    noise_multipliers : sequence of float or None
        Each client's noise, or, where their sum carries it, that of the sum, once for each.
    budgets : sequence of int or None
        How many steps each client's privacy budget allows.
    """

    arm: Arm
    sizes: Sequence[int]
    noise_multipliers: Sequence[float | None]
    budgets: Sequence[int | None]

    @property
    def topology(self) -> Federated:
        """The arm's topology."""
        assert isinstance(self.arm.topology, Federated)
        return self.arm.topology

    @property
    def codec(self) -> FixedPointCodec:
        """The grid."""
        return FixedPointCodec(self.arm.aggregation.clip, self.arm.aggregation.fractional_bits)


@dataclass(frozen=True)
class Seeds:
    """The seed of each party, from which it computes nothing that another party draws.

    Parameters
    ----------
    server : Randomness
        The server's: the clients that are asked, and the noise of a server that adds it.
    clients : mapping of int to Randomness
        Those of the clients at hand: order, samples, noise.
    """

    server: Randomness
    clients: Mapping[int, Randomness]


def party_seeds(rng: Randomness, clients: int) -> Seeds:
    """Return the seeds that are handed out where a training is set up, by the holder of the root seed."""
    return Seeds(rng.party("server"), {client: rng.party("client", client) for client in range(clients)})


@dataclass(frozen=True)
class ServerComponents:
    """What the server has.

    Parameters
    ----------
    plan : ServerSettings
        What there is to do.
    aggregator : Aggregator
        What it adds with.
    release : Release
        What it does to a sum.
    """

    plan: ServerSettings
    aggregator: Aggregator
    release: SumMechanism


def build_client_pool(
    given: FederationSpec,
    model: nn.Module,
    owned: Mapping[int, Examples],
    side: ClientSide,
    test: Examples,
    seeds: Mapping[int, Randomness],
) -> ClientPool:
    """Return the clients whose records are ``owned``, by their numbers; ``model`` is a place to calculate in.

    Of ``seeds``, those of these clients are taken.
    """
    arm, sizes = given.arm, given.sizes
    weights = client_weights(sizes, given.topology.weighting)
    own = {client: seeds[client] for client in owned}
    learners, prefetch = _learners(given, model, owned, own)
    members = {
        client: ClientData(learners[client], records, weights[client], given.budgets[client])
        for client, records in owned.items()
    }
    return ClientPool(
        model=model,
        members=members,
        work=build_algorithm(arm, given.codec, len(flatten(model)), sizes, given.noise_multipliers),
        side=side,
        codec=given.codec,
        test=test,
        seeds=own,
        rounds=given.topology.rounds,
        prefetch=prefetch,
    )


def _learners(
    given: FederationSpec, model: nn.Module, owned: Mapping[int, Examples], seeds: Mapping[int, Randomness]
) -> tuple[dict[int, LocalLearner], Callable[[Sequence[int]], None]]:
    """Return each client's learner, and what tells them who will train next."""
    training, privacy = given.arm.training, given.arm.privacy
    without_noise = isinstance(privacy, NoPrivacy | ClientLevel)
    if without_noise and isinstance(given.topology.correction, NoCorrection) and can_vectorize(model):
        together = BatchedClients(training_settings(training), owned, seeds)
        return {client: BatchedClientLearner(client, together) for client in owned}, together.prefetch
    learners = {client: build_learner(training, privacy, given.noise_multipliers[client]) for client in owned}
    return learners, no_prefetch


def build_server(given: FederationSpec, initial: NDArray[np.float32], material: ServerKeyMaterial, seed: Randomness) -> ServerComponents:
    """Return what the server has: ``seed``, which is its own, and of the clients ``material`` alone."""
    arm, topology, clients = given.arm, given.topology, len(given.sizes)
    work = build_algorithm(arm, given.codec, len(initial), given.sizes, given.noise_multipliers)
    asked = clients_per_round(topology.participation, clients)
    plan = ServerSettings(
        rounds=topology.rounds,
        clients=clients,
        initial=initial,
        length=work.length(len(initial)),
        sample_clients=sample_clients(clients, asked, seed),
        least=_least_answers(arm, clients),
        accounted=not isinstance(arm.privacy, NoPrivacy),
    )
    release = build_sum_mechanism(arm, given.codec, len(initial), given.noise_multipliers, seed)
    return ServerComponents(plan, build_server_side(arm.aggregation, asked, material), release)


def build_algorithm(
    arm: Arm,
    codec: FixedPointCodec,
    size: int,
    records: Sequence[int],
    noise_multipliers: Sequence[float | None],
) -> FederatedAlgorithm:
    """Return what each client does in a round of ``arm``, for a model of ``size`` parameters."""
    topology, privacy = arm.topology, arm.privacy
    assert isinstance(topology, Federated)
    step = build_server_optimizer(topology.server)
    # A weight of 1 must not be clipped.
    unit = min(1.0, codec.clip)

    match privacy:
        case ClientLevel():
            from ppml.federation.sum_noise_factory import build_dp_fedavg

            correction = build_correction(topology.correction)
            return build_dp_fedavg(privacy, step, codec, size, len(records), noise_multipliers, correction)
        case ExampleLevel() if privacy.noise in SUM_NOISE_BUILDERS:
            module, _, name = SUM_NOISE_BUILDERS[privacy.noise].partition(":")
            build = getattr(importlib.import_module(module), name)
            work: FederatedAlgorithm = build(arm, privacy, step, codec, size, records, noise_multipliers)
            return work
    match topology.correction:
        case Scaffold():
            return ScaffoldAlgorithm(step, unit, len(records), cumulative_learning_rate(arm))
        case _:
            return FedAvg(step, unit, build_correction(topology.correction))


def build_server_optimizer(spec: ServerSgd | ServerAdam) -> ServerOptimizer:
    """Return the rule of the global step."""
    match spec:
        case ServerAdam():
            return FedAdam(spec.learning_rate, spec.beta1, spec.beta2, spec.tau)
        case ServerSgd():
            return FedAvgM(spec.learning_rate, spec.momentum)


def build_correction(spec: NoCorrection | ProximalTerm | Scaffold) -> CorrectionFactory:
    """Return what draws a client's steps towards the global model."""
    return proximal_correction(spec.mu) if isinstance(spec, ProximalTerm) else no_correction


def build_sum_mechanism(
    arm: Arm, codec: FixedPointCodec, size: int, noise_multipliers: Sequence[float | None], rng: Randomness
) -> SumMechanism:
    """Return what the server does to a sum."""
    match arm.privacy:
        case ClientLevel(noise="central") as privacy:
            from ppml.federation.sum_noise_factory import build_server_noise

            return build_server_noise(privacy, codec, size, noise_multipliers, rng)
    return identity


def sample_clients(clients: int, count: int, rng: Randomness) -> Callable[[int], Sequence[int]]:
    """Return who is asked in a round, by its number: ``count`` of the clients, drawn anew for each."""

    def asked(number: int) -> Sequence[int]:
        if count == clients:
            return range(clients)
        drawn = rng.child("round", number, "participants").numpy().permutation(clients)[:count]
        return sorted(drawn.tolist())

    return asked


def simulate_dropouts(likelihood: float, rng: Randomness) -> DropsReply:
    """Return which answers get lost."""
    if not likelihood:
        return no_dropouts
    return lambda number, client: rng.child("round", number, "client", client, "failure").numpy().random() < likelihood


def cumulative_learning_rate(arm: Arm) -> Callable[[int, TrainingWindow], float]:
    """Return how far a unit of gradient moves a client with so many records in a stretch of the training of ``arm``."""
    training = arm.training

    def of(records: int, window: TrainingWindow) -> float:
        if isinstance(arm.privacy, NoPrivacy):
            steps = 1 if training.batch_size == "all" else math.ceil(records / training.batch_size)
        else:
            _, steps = poisson_schedule(records, training.batch_size)
        places = (step / (steps * training.epochs) for step in range(steps * training.epochs))
        rates = [learning_rate(training.learning_rate, training.learning_rate_schedule, window.at(place)) for place in places]
        return cumulative_step(rates, training.momentum)

    return of


def client_weights(sizes: Sequence[int], weighting: str) -> list[float]:
    """Return each client's weight in (0, 1]: equal, or its records relative to the largest client.

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


def _least_answers(arm: Arm, clients: int) -> int:
    """Return how many must answer: the sum of one shows it, and one without shares of the noise is not to be opened."""
    assert isinstance(arm.topology, Federated)
    least, privacy = arm.topology.min_clients, arm.privacy
    if not isinstance(arm.aggregation, Plaintext):
        least = max(2, least)
    if isinstance(privacy, ExampleLevel | ClientLevel) and privacy.noise == "distributed":
        return max(least, clients - privacy.max_dropouts)
    return least
