"""The audited arm: the mechanism of an arm on few examples, for fast steps.

Differential privacy holds for every data set, so the auditor chooses few examples. The audit keeps all parameters of
the mechanism: the noise, the clipping norm, the sample rate, momentum, schedule, weighting and the server optimizer.
The learning rate falls in proportion to the expected batch, so that noise has the same effect on the weights as in the
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ppml.config.arm import AffineAugmentation, Arm
from ppml.config.technique import (
    Centralized,
    ClientLevel,
    ExampleLevel,
    Federated,
    Independent,
    NoCorrection,
    Plaintext,
    ServerSgd,
)

EXPECTED_SAMPLE_SIZE = 2
"""Expected size of a sample. At size 1, an error of the division by this size would be invisible."""

FULL_BATCH_SIZE = 8
"""Number of examples of an owner with full batches."""

MAX_CLIENTS = 16
"""Largest number of clients under client-level privacy with central noise."""

MIN_ROUNDS = 4
"""Smallest number of rounds, for faults of noise and momentum after the first round."""


@dataclass(frozen=True)
class ReducedArm:
    """An arm on few examples.

    Parameters
    ----------
    arm : Arm
        The arm with smaller batches and the number of steps of the audit.
    sizes : tuple of int
        The number of examples of each owner.
    rates : tuple of float
        The sample rate of each owner's examples, or of the client.
    steps : tuple of int
        The planned number of releases of each owner's examples, or of the client.
    """

    arm: Arm
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    steps: tuple[int, ...]


def reduce_arm(arm: Arm, sizes: Sequence[int], releases: int) -> ReducedArm:
    """Return ``arm`` on few examples, with at least ``releases`` noisy releases.

    Parameters
    ----------
    arm : Arm
        A private arm.
    sizes : sequence of int
        The number of examples of each owner.
    releases : int
        Smallest number of noisy releases for the audit.
    """
    match arm.privacy:
        case ClientLevel():
            return _reduce_clients(arm, sizes, releases)
        case ExampleLevel(noise="distributed"):
            return _reduce_joint_examples(arm, sizes, releases)
        case ExampleLevel():
            return _reduce_examples(arm, sizes, releases)
    raise ValueError("an arm without privacy has no mechanism to audit")


def _reduce_examples(arm: Arm, sizes: Sequence[int], releases: int) -> ReducedArm:
    """Return an arm with local noise, in which each owner adds noise to every step."""
    batch = arm.training.batch_size
    if batch == "all":
        few, factor = [FULL_BATCH_SIZE] * len(sizes), FULL_BATCH_SIZE * len(sizes) / sum(sizes)
    else:
        few = [max(EXPECTED_SAMPLE_SIZE, round(EXPECTED_SAMPLE_SIZE * size / batch)) for size in sizes]
        factor = EXPECTED_SAMPLE_SIZE / batch
    rates = [1.0 if batch == "all" else min(1.0, EXPECTED_SAMPLE_SIZE / size) for size in few]
    epoch = [max(1, round(1 / rate)) for rate in rates]
    topology, epochs = arm.topology, arm.training.epochs
    rounds = 1
    if isinstance(topology, Federated):
        rounds = max(MIN_ROUNDS, ceil(releases / (sum(epoch) * epochs)))
    else:
        epochs = ceil(releases / sum(epoch))
    taken = batch if batch == "all" else EXPECTED_SAMPLE_SIZE
    training = {"batch_size": taken, "epochs": epochs, "learning_rate": arm.training.learning_rate * factor}
    steps = tuple(one * epochs * rounds for one in epoch)
    return ReducedArm(_with_audit_changes(arm, training, rounds), tuple(few), tuple(rates), steps)


def _reduce_joint_examples(arm: Arm, sizes: Sequence[int], releases: int) -> ReducedArm:
    """Return an arm in which a round is one step on a sample of all clients' examples."""
    batch, clients = arm.training.batch_size, len(sizes)
    if batch == "all":
        expected = count = EXPECTED_SAMPLE_SIZE * clients
        factor = count / sum(sizes)
    else:
        rate = min(1.0, batch / sum(sizes))
        expected = max(EXPECTED_SAMPLE_SIZE, ceil(rate * EXPECTED_SAMPLE_SIZE * clients))
        count = max(expected, round(expected / rate))
        factor = expected / batch
    rate = expected / count
    few = [count // clients + (client < count % clients) for client in range(clients)]
    rounds = max(MIN_ROUNDS, releases)
    taken = batch if batch == "all" else expected
    training = {"batch_size": taken, "learning_rate": arm.training.learning_rate * factor}
    return ReducedArm(_with_audit_changes(arm, training, rounds), tuple(few), (rate,) * clients, (rounds,) * clients)


def _reduce_clients(arm: Arm, sizes: Sequence[int], releases: int) -> ReducedArm:
    """Return an arm with client-level privacy and one example per client, whose update the auditor can recompute."""
    assert isinstance(arm.privacy, ClientLevel)
    clients = len(sizes) if arm.privacy.noise == "distributed" else min(MAX_CLIENTS, len(sizes))
    rounds = max(MIN_ROUNDS, releases)
    return ReducedArm(
        _with_audit_changes(arm, {}, rounds, factor=clients / len(sizes)),
        (1,) * clients,
        (1.0,) * clients,
        (rounds,) * clients,
    )


def _with_audit_changes(arm: Arm, training: dict[str, Any], rounds: int, factor: float = 1.0) -> Arm:
    """Return ``arm`` with the changes of the audit, without validation.

    Augmentation, corrections after the noise, and dropouts are no part of the mechanism, so the audit omits them. The
    aggregation is plaintext: the sum has the same bits under every aggregation.
    """
    plain = {"shift": 0, "deformation": AffineAugmentation()}
    changes: dict[str, Any] = {"training": arm.training.model_copy(update={**training, **plain})}
    match arm.topology:
        case Federated() as topology:
            server = topology.server
            if isinstance(server, ServerSgd):
                server = server.model_copy(update={"learning_rate": server.learning_rate * factor})
            every = {"participation": 1.0, "dropout_rate": 0.0, "min_clients": 1, "correction": NoCorrection()}
            changes["topology"] = topology.model_copy(update={"rounds": rounds, "server": server, **every})
            clip, bits = arm.aggregation.clip, arm.aggregation.fractional_bits
            changes["aggregation"] = Plaintext(clip=clip, fractional_bits=bits)
        case Independent() as topology:
            changes["topology"] = topology.model_copy(update={"evaluate_every": changes["training"].epochs})
        case Centralized():
            pass
    return arm.model_copy(update=changes)


def reduced_affordable_steps(
    affordable_steps: Sequence[int] | None, planned: Sequence[int], reduced: ReducedArm
) -> list[int | None]:
    """Return the number of steps that each owner's budget allows: the same fraction as in the training.

    Parameters
    ----------
    affordable_steps : sequence of int or None
        The number of steps of the training that each owner's budget allows; None without budgets.
    planned : sequence of int
        The number of steps of the training that are planned for each owner.
    """
    if affordable_steps is None:
        return [None] * len(reduced.sizes)
    return [
        max(1, steps * min(affordable, plan) // plan)
        for steps, affordable, plan in zip(reduced.steps, affordable_steps, planned, strict=True)
    ]
