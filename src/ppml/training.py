"""One training for every technique: a topology, composed with what each owner does and with what the server adds by."""

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
        What to train.
    owned : sequence of Examples
        Each owner's records; one owner when centralized.
    noise_multipliers : sequence of float or None
        Each owner's noise, None without privacy.
    test : Examples
        What the history is measured on.
    contract : DataContract
        The contract of the inputs.
    rng : Randomness
        Everything drawn here comes from it, except keys and encryption. Each party draws from a tree of its own. What a
        private training draws depends on the values of its mechanism, so that no other one has the same noise; arms
        that differ in their aggregation alone draw alike.
    report : callable
        Gets each epoch or round as it ends.
    data : sequence
        What is public of the records: it tells mechanisms on different records apart.
    affordable_steps : sequence of int or None
        How many steps each owner's privacy budget allows; None without budgets.
    checkpoint : Checkpoint
        Keeps a federated training after each round, for a process that carries it on. Owners who train alone, and
        whoever draws noise from the operating system, start from the beginning.
    workers : int
        In how many processes the clients of a federation train; the bits do not depend on it. On a GPU: 1.
    taps : sequence of callable
        Each sees every message of a federation, for an auditor.
    """
    device = owned[0].inputs.device

    limits: Sequence[int | None] = affordable_steps or [None] * len(owned)
    model = build_initial_model(arm, contract, rng, device)
    draws, release = draws_of(arm, [len(own) for own in owned], noise_multipliers, limits, model, rng, data)
    match arm.topology:
        case Centralized() | Independent():
            from ppml.learning.cohort_factory import build_cohort_trainer
            from ppml.learning.independent import train_independently

            models = [model, *(build_initial_model(arm, contract, rng, device) for _ in owned[1:])]
            cohort = build_cohort_trainer(arm.training, arm.privacy, noise_multipliers, limits, models[0])
            every = getattr(arm.topology, "evaluate_every", 1)
            return replace(train_independently(models, cohort, owned, test, draws, report, every), release=release)
        case Federated() as topology:
            from ppml.aggregation.factory import build_parties
            from ppml.config.aggregation_parameters import clients_per_round
            from ppml.federation.factory import FederationSpec, build_client_pool, build_server, party_seeds, simulate_dropouts
            from ppml.federation.run import train_federated
            from ppml.learning.parameters import flatten

            given = FederationSpec(arm, [len(records) for records in owned], noise_multipliers, limits)
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
    """Return the algorithm of a federation of clients with ``sizes`` examples, for a model of ``parameters`` weights."""
    from ppml.federation.factory import FederationSpec, build_algorithm

    spec = FederationSpec(arm, sizes, noise_multipliers, [None] * len(sizes))
    return build_algorithm(arm, spec.codec, parameters, sizes, noise_multipliers)


def draws_of(
    arm: Arm,
    sizes: Sequence[int],
    noise_multipliers: Sequence[float | None],
    limits: Sequence[int | None],
    model: nn.Module,
    rng: Randomness,
    data: Sequence[Value],
) -> tuple[Randomness, str | None]:
    """Return what the parties of a training draw from, and the name of what it releases.

    Parameters are those of :func:`train`; ``sizes`` are the numbers of records, and ``model`` is one of those trained.
    """
    if isinstance(arm.privacy, NoPrivacy):
        return rng, None
    values = (*data, *mechanism_values(arm, sizes, noise_multipliers, limits, model))
    draws = rng.child("mechanism", *values)
    return draws, release_name(draws.path, repeats=arm.privacy.noise_source == "seeded")


def _may_resume(arm: Arm, device: str) -> bool:
    """Say whether a repeated round repeats the same bits, where that matters.

    Secure noise does not repeat: a round that is interrupted and done again would be two draws on the same records, of
    which the account has one. That nobody saw the first is true of this process, not of a federation, whose server has
    it. So such a training is never put together from two processes, and its intermediate models stay off the disk.
    Seeded noise repeats on a CPU; on a GPU the gradients that it covers differ in their last bits.
    """
    return isinstance(arm.privacy, NoPrivacy) or (arm.privacy.noise_source == "seeded" and device == "cpu")
