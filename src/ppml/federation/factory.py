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

from ppml.accounting.schedule import poisson_plan
from ppml.aggregation.factory import build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.interfaces import Aggregator, ClientSide, PublicMaterial
from ppml.aggregation.parameters import asked_in_a_round
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
from ppml.federation.algorithms import ControlVariates, LocalWork, Member, PullOf, WeightedUpdates, no_pull, proximal
from ppml.federation.client import Population, nobody
from ppml.federation.server import RoundPlan
from ppml.federation.server_optimizer import AdamStep, MomentumStep, ServerStep
from ppml.federation.simulation_grid import Fails, never
from ppml.federation.sum_mechanism import Release, as_it_is
from ppml.learning.factory import build_learner, settings_of
from ppml.learning.learner import LocalLearner
from ppml.learning.parameters import flat_parameters
from ppml.learning.training_window import Span, learning_rate, reach
from ppml.learning.vectorized.clients import Together, TogetherLearner
from ppml.learning.vectorized.training import trains_side_by_side
from ppml.randomness import Randomness

NOISE_IN_THE_SUM = {"shares": "ppml.federation.sum_noise_factory:gradient_sums"}
"""Who adds the noise, where it is no single owner -> ``module:function``, imported where it is chosen."""


@dataclass(frozen=True)
class Given:
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
class ServerParts:
    """What the server has.

    Parameters
    ----------
    plan : RoundPlan
        What there is to do.
    aggregator : Aggregator
        What it adds with.
    release : Release
        What it does to a sum.
    """

    plan: RoundPlan
    aggregator: Aggregator
    release: Release


def build_population(
    given: Given,
    model: nn.Module,
    owned: Mapping[int, Examples],
    side: ClientSide,
    test: Examples,
    seeds: Mapping[int, Randomness],
) -> Population:
    """Return the clients whose records are ``owned``, by their numbers; ``model`` is a place to calculate in.

    Of ``seeds``, those of these clients are taken.
    """
    arm, sizes = given.arm, given.sizes
    weights = client_weights(sizes, given.topology.weighting)
    own = {client: seeds[client] for client in owned}
    learners, expect = _learners(given, model, owned, own)
    members = {
        client: Member(learners[client], records, weights[client], given.budgets[client])
        for client, records in owned.items()
    }
    return Population(
        model=model,
        members=members,
        work=build_work(arm, given.codec, len(flat_parameters(model)), sizes, given.noise_multipliers),
        side=side,
        codec=given.codec,
        test=test,
        seeds=own,
        rounds=given.topology.rounds,
        expect=expect,
    )


def _learners(
    given: Given, model: nn.Module, owned: Mapping[int, Examples], seeds: Mapping[int, Randomness]
) -> tuple[dict[int, LocalLearner], Callable[[Sequence[int]], None]]:
    """Return each client's learner, and what tells them who will train next."""
    training, privacy = given.arm.training, given.arm.privacy
    without_noise = isinstance(privacy, NoPrivacy | ClientLevel)
    if without_noise and isinstance(given.topology.correction, NoCorrection) and trains_side_by_side(model):
        together = Together(settings_of(training), owned, seeds)
        return {client: TogetherLearner(client, together) for client in owned}, together.expect
    learners = {client: build_learner(training, privacy, given.noise_multipliers[client]) for client in owned}
    return learners, nobody


def build_server(given: Given, initial: NDArray[np.float32], material: PublicMaterial, seed: Randomness) -> ServerParts:
    """Return what the server has: ``seed``, which is its own, and of the clients ``material`` alone."""
    arm, topology, clients = given.arm, given.topology, len(given.sizes)
    work = build_work(arm, given.codec, len(initial), given.sizes, given.noise_multipliers)
    asked = asked_in_a_round(topology.participation, clients)
    plan = RoundPlan(
        rounds=topology.rounds,
        clients=clients,
        initial=initial,
        length=work.length(len(initial)),
        participants=participants(clients, asked, seed),
        least=_least_answers(arm, clients),
        accounted=not isinstance(arm.privacy, NoPrivacy),
    )
    release = build_release(arm, given.codec, len(initial), given.noise_multipliers, seed)
    return ServerParts(plan, build_server_side(arm.aggregation, asked, material), release)


def build_work(
    arm: Arm,
    codec: FixedPointCodec,
    size: int,
    records: Sequence[int],
    noise_multipliers: Sequence[float | None],
) -> LocalWork:
    """Return what each client does in a round of ``arm``, for a model of ``size`` parameters."""
    topology, privacy = arm.topology, arm.privacy
    assert isinstance(topology, Federated)
    step = build_server_step(topology.server)
    # A weight of 1 must not be clipped.
    unit = min(1.0, codec.clip)

    match privacy:
        case ClientLevel():
            from ppml.federation.sum_noise_factory import clipped_updates

            pull = build_pull(topology.correction)
            return clipped_updates(privacy, step, codec, size, len(records), noise_multipliers, pull)
        case ExampleLevel() if privacy.noise_by in NOISE_IN_THE_SUM:
            module, _, name = NOISE_IN_THE_SUM[privacy.noise_by].partition(":")
            build = getattr(importlib.import_module(module), name)
            work: LocalWork = build(arm, privacy, step, codec, size, records, noise_multipliers)
            return work
    match topology.correction:
        case Scaffold():
            return ControlVariates(step, unit, len(records), reach_of(arm))
        case _:
            return WeightedUpdates(step, unit, build_pull(topology.correction))


def build_server_step(spec: ServerSgd | ServerAdam) -> ServerStep:
    """Return the rule of the global step."""
    match spec:
        case ServerAdam():
            return AdamStep(spec.learning_rate, spec.beta1, spec.beta2, spec.adaptivity)
        case ServerSgd():
            return MomentumStep(spec.learning_rate, spec.momentum)


def build_pull(spec: NoCorrection | ProximalTerm | Scaffold) -> PullOf:
    """Return what draws a client's steps towards the global model."""
    return proximal(spec.strength) if isinstance(spec, ProximalTerm) else no_pull


def build_release(
    arm: Arm, codec: FixedPointCodec, size: int, noise_multipliers: Sequence[float | None], rng: Randomness
) -> Release:
    """Return what the server does to a sum."""
    match arm.privacy:
        case ClientLevel(noise_by="server") as privacy:
            from ppml.federation.sum_noise_factory import server_noise

            return server_noise(privacy, codec, size, noise_multipliers, rng)
    return as_it_is


def participants(clients: int, count: int, rng: Randomness) -> Callable[[int], Sequence[int]]:
    """Return who is asked in a round, by its number: ``count`` of the clients, drawn anew for each."""

    def asked(number: int) -> Sequence[int]:
        if count == clients:
            return range(clients)
        drawn = rng.child("round", number, "participants").numpy().permutation(clients)[:count]
        return sorted(drawn.tolist())

    return asked


def simulated_failures(likelihood: float, rng: Randomness) -> Fails:
    """Return which answers get lost."""
    if not likelihood:
        return never
    return lambda number, client: rng.child("round", number, "client", client, "failure").numpy().random() < likelihood


def reach_of(arm: Arm) -> Callable[[int, Span], float]:
    """Return how far a unit of gradient moves a client with so many records in a stretch of the training of ``arm``."""
    training = arm.training

    def of(records: int, span: Span) -> float:
        if isinstance(arm.privacy, NoPrivacy):
            steps = 1 if training.batch_size == "all" else math.ceil(records / training.batch_size)
        else:
            _, steps = poisson_plan(records, training.batch_size)
        places = (step / (steps * training.epochs) for step in range(steps * training.epochs))
        rates = [learning_rate(training.learning_rate, training.decay, span.at(place)) for place in places]
        return reach(rates, training.momentum)

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
    least, privacy = arm.topology.least_answers, arm.privacy
    if not isinstance(arm.aggregation, Plaintext):
        least = max(2, least)
    if isinstance(privacy, ExampleLevel | ClientLevel) and privacy.noise_by == "shares":
        return max(least, clients - privacy.dropouts)
    return least
