"""One training function for every technique: a topology, composed with a privacy mechanism and an aggregation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from ppml.config.arm import Arm
from ppml.config.technique import Centralized, Federated, Independent, NoPrivacy
from ppml.contract import DataContract
from ppml.data.examples import Examples
from ppml.federation.checkpoint import NO_CHECKPOINT, CheckpointStore
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.mechanism import Value, mechanism_values, release_name
from ppml.models.registry import build_model
from ppml.randomness import Randomness

if TYPE_CHECKING:
    import torch

    from ppml.federation.algorithms import FederatedAlgorithm
    from ppml.federation.simulation_grid import MessageObserver


def train(
    arm: Arm,
    owned: Sequence[Examples],
    noise_multipliers: Sequence[float | None],
    test: Examples,
    *,
    contract: DataContract,
    rng: Randomness,
    report: Callable[[HistoryRow], None],
    data: Sequence[Value] = (),
    affordable_steps: Sequence[int] | None = None,
    checkpoint: CheckpointStore = NO_CHECKPOINT,
    workers: int = 1,
    observers: Sequence[MessageObserver] = (),
) -> TrainingResult:
    """Train ``arm``.

    Parameters
    ----------
    arm : Arm
        The arm.
    owned : sequence of Examples
        The examples of each owner; one owner if centralized.
    noise_multipliers : sequence of float or None
        Each owner's noise, None without privacy.
    test : Examples
        The examples that the history is measured on.
    contract : DataContract
        The contract of the inputs.
    rng : Randomness
        The source of all random draws except keys and encryption; each party has a separate source. The draws of a
        private training depend on the values of its mechanism, so that no other mechanism has the same noise; arms that
        differ in their aggregation alone draw the same values.
    report : callable
        Takes each epoch or round when it ends.
    data : sequence
        Public facts of the examples; mechanisms on different examples draw different noise.
    affordable_steps : sequence of int or None
        The number of steps that each owner's privacy budget allows; None without budgets.
    checkpoint : CheckpointStore
        Keeps a federated training after each round, so that another process can resume it. Independent trainings, and
        trainings with noise from the operating system, start from the beginning.
    workers : int
        The number of processes of the clients of a federation; no bit depends on it. On a GPU: 1.
    observers : sequence of callable
        Each takes every message of a federation, for an auditor.
    """
    device = owned[0].inputs.device

    affordable: Sequence[int | None] = affordable_steps or [None] * len(owned)
    model = build_initial_model(arm, contract, rng, device)
    draws, release = draws_of(arm, [len(own) for own in owned], noise_multipliers, affordable, model, rng, data)
    match arm.topology:
        case Centralized() | Independent():
            from ppml.learning.cohort_factory import build_cohort_trainer
            from ppml.learning.independent import train_independently

            models = [model, *(build_initial_model(arm, contract, rng, device) for _ in owned[1:])]
            cohort = build_cohort_trainer(arm.training, arm.privacy, noise_multipliers, affordable, models[0])
            every = getattr(arm.topology, "evaluate_every", 1)
            return replace(train_independently(models, cohort, owned, test, draws, report, every), release=release)
        case Federated() as topology:
            from ppml.aggregation.factory import build_parties
            from ppml.aggregation_parameters import clients_per_round
            from ppml.federation.factory import (
                FederationSpec,
                build_client_pool,
                build_server,
                party_seeds,
                simulate_dropouts,
            )
            from ppml.federation.run import train_federated
            from ppml.learning.parameters import flatten

            given = FederationSpec(arm, [len(records) for records in owned], noise_multipliers, affordable)
            seeds = party_seeds(draws, len(owned))
            parties = build_parties(arm.aggregation, clients_per_round(topology.participation, len(owned)))
            repeats = _may_resume(arm, owned[0].labels.device.type)
            try:
                outcome = train_federated(
                    build_client_pool(given, model, dict(enumerate(owned)), parties.clients, test, seeds.clients),
                    build_server(given, flatten(model), parties.material, seeds.server),
                    report,
                    checkpoint=checkpoint if repeats else NO_CHECKPOINT,
                    drops_reply=simulate_dropouts(topology.dropout_rate, rng),
                    observers=observers,
                    workers=workers,
                    # A process that is forked cannot use a GPU that this one has begun to use.
                    isolation=parties.isolation if device.type == "cpu" else None,
                )
                return replace(outcome, release=release)
            finally:
                parties.close()


def build_initial_model(arm: Arm, contract: DataContract, rng: Randomness, device: torch.device) -> nn.Module:
    """Return a model of ``arm`` with the initial weights of a training with ``rng``."""
    return build_model(arm.model, contract, rng.child("initial-weights").torch()).to(device)


def build_federated_algorithm(
    arm: Arm, sizes: Sequence[int], noise_multipliers: Sequence[float | None], parameters: int
) -> FederatedAlgorithm:
    """Return the algorithm of clients with ``sizes`` examples, for a model of ``parameters`` weights."""
    match arm.topology:
        # A case, so that the code digests of other arms do not count the federation.
        case Federated():
            from ppml.federation.factory import FederationSpec, build_algorithm

            spec = FederationSpec(arm, sizes, noise_multipliers, [None] * len(sizes))
            return build_algorithm(arm, spec.codec, parameters, sizes, noise_multipliers)
    raise ValueError(f"topology {arm.topology.kind!r} has no algorithm of a federation")


def draws_of(
    arm: Arm,
    sizes: Sequence[int],
    noise_multipliers: Sequence[float | None],
    affordable_steps: Sequence[int | None],
    model: nn.Module,
    rng: Randomness,
    data: Sequence[Value],
) -> tuple[Randomness, str | None]:
    """Return the randomness of the parties of a training, and the name of its release.

    Parameters are those of :func:`train`; ``sizes`` are the numbers of examples, and ``model`` is one of the models.
    """
    if isinstance(arm.privacy, NoPrivacy):
        return rng, None
    values = (*data, *mechanism_values(arm, sizes, noise_multipliers, affordable_steps, model))
    draws = rng.child("mechanism", *values)
    return draws, release_name(draws.path, repeats=arm.privacy.noise_source == "seeded")


def _may_resume(arm: Arm, device: str) -> bool:
    """Tell whether a training may be resumed by another process: a repeated round must repeat the same bits.

    Secure noise does not repeat. A repeated round would be a second draw on the same examples, and the account has one;
    the server of a federation has seen the first. So such a training is never resumed, and its intermediate models are
    never written. Seeded noise repeats on a CPU; on a GPU the gradients below it differ in their last bits.
    """
    return isinstance(arm.privacy, NoPrivacy) or (arm.privacy.noise_source == "seeded" and device == "cpu")
