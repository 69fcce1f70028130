"""The arm as it is audited: its own mechanism on a handful of records, which makes a step cheap.

Differential privacy holds for every data set, so the auditor chooses the records, and few of them. All that the
mechanism depends on stays: the noise, the clipping norm, the rate of sampling, momentum, schedule, weighting, the step
of the server. The learning rate falls as the expected batch does, so that noise moves the weights as far as it does in
the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ppml.config.arm import Arm, DeformationSpec
from ppml.config.technique import (
    Centralized,
    ClientLevel,
    ExampleLevel,
    Federated,
    LocalOnly,
    NoCorrection,
    Plaintext,
    ServerSgd,
)

EXPECTED = 2
"""The expected size of a sample. Not 1: that it is divided by must show."""

ALL = 8
"""Records of an owner where every step takes all of them."""

CLIENTS = 16
"""Clients at most, where the unit of privacy is a client and a server adds the noise; there may be more in the arm."""

LEAST_ROUNDS = 4
"""Rounds at least, so that noise which ends after the first, and momentum over rounds, show."""


@dataclass(frozen=True)
class Scaled:
    """An arm on few records.

    Parameters
    ----------
    arm : Arm
        The arm, with fewer records a step, and as many steps as the audit takes.
    sizes : tuple of int
        The number of records of each owner.
    rates : tuple of float
        The rate at which each owner's records, or the client itself, enter a step.
    steps : tuple of int
        How many releases each owner's records, or the client, are to enter.
    """

    arm: Arm
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    steps: tuple[int, ...]


def scale(arm: Arm, sizes: Sequence[int], releases: int) -> Scaled:
    """Return ``arm`` on few records, so that it makes at least so many ``releases``.

    Parameters
    ----------
    arm : Arm
        A private arm.
    sizes : sequence of int
        The number of records of each owner.
    releases : int
        How many noisy sums the audit looks at, at least.
    """
    match arm.privacy:
        case ClientLevel():
            return _clients(arm, sizes, releases)
        case ExampleLevel(noise_by="shares"):
            return _records_of_all(arm, sizes, releases)
        case ExampleLevel():
            return _records(arm, sizes, releases)
    raise ValueError("an arm without privacy has no mechanism to audit")


def _records(arm: Arm, sizes: Sequence[int], releases: int) -> Scaled:
    """Return an arm whose owners each add noise to every step."""
    batch = arm.training.batch_size
    if batch == "all":
        few, moved = [ALL] * len(sizes), ALL * len(sizes) / sum(sizes)
    else:
        few = [max(EXPECTED, round(EXPECTED * size / batch)) for size in sizes]
        moved = EXPECTED / batch
    rates = [1.0 if batch == "all" else min(1.0, EXPECTED / size) for size in few]
    epoch = [max(1, round(1 / rate)) for rate in rates]
    topology, epochs = arm.topology, arm.training.epochs
    rounds = 1
    if isinstance(topology, Federated):
        rounds = max(LEAST_ROUNDS, ceil(releases / (sum(epoch) * epochs)))
    else:
        epochs = ceil(releases / sum(epoch))
    taken = batch if batch == "all" else EXPECTED
    training = {"batch_size": taken, "epochs": epochs, "learning_rate": arm.training.learning_rate * moved}
    steps = tuple(one * epochs * rounds for one in epoch)
    return Scaled(_changed(arm, training, rounds), tuple(few), tuple(rates), steps)


def _records_of_all(arm: Arm, sizes: Sequence[int], releases: int) -> Scaled:
    """Return an arm in which a round is one step on a sample of the records of all clients."""
    batch, clients = arm.training.batch_size, len(sizes)
    if batch == "all":
        expected = count = EXPECTED * clients
        moved = count / sum(sizes)
    else:
        rate = min(1.0, batch / sum(sizes))
        expected = max(EXPECTED, ceil(rate * EXPECTED * clients))
        count = max(expected, round(expected / rate))
        moved = expected / batch
    rate = expected / count
    few = [count // clients + (client < count % clients) for client in range(clients)]
    rounds = max(LEAST_ROUNDS, releases)
    taken = batch if batch == "all" else expected
    training = {"batch_size": taken, "learning_rate": arm.training.learning_rate * moved}
    return Scaled(_changed(arm, training, rounds), tuple(few), (rate,) * clients, (rounds,) * clients)


def _clients(arm: Arm, sizes: Sequence[int], releases: int) -> Scaled:
    """Return an arm that protects clients: one record is each client's, so that its change can be computed again."""
    assert isinstance(arm.privacy, ClientLevel)
    clients = len(sizes) if arm.privacy.noise_by == "shares" else min(CLIENTS, len(sizes))
    rounds = max(LEAST_ROUNDS, releases)
    return Scaled(
        _changed(arm, {}, rounds, moved=clients / len(sizes)), (1,) * clients, (1.0,) * clients, (rounds,) * clients
    )


def _changed(arm: Arm, training: dict[str, Any], rounds: int, moved: float = 1.0) -> Arm:
    """Return ``arm`` with what the audit changes, unchecked.

    Copies of a record that are made at random, corrections after the noise, and clients that do not answer have no part
    in the mechanism; they are left out. Updates are added in the clear: the sum has the same bits whatever adds them.
    """
    plain = {"shift": 0, "deformation": DeformationSpec()}
    changes: dict[str, Any] = {"training": arm.training.model_copy(update={**training, **plain})}
    match arm.topology:
        case Federated() as topology:
            server = topology.server
            if isinstance(server, ServerSgd):
                server = server.model_copy(update={"learning_rate": server.learning_rate * moved})
            every = {"participation": 1.0, "failures": 0.0, "least_answers": 1, "correction": NoCorrection()}
            changes["topology"] = topology.model_copy(update={"rounds": rounds, "server": server, **every})
            clip, bits = arm.aggregation.clip, arm.aggregation.fractional_bits
            changes["aggregation"] = Plaintext(clip=clip, fractional_bits=bits)
        case LocalOnly() as topology:
            changes["topology"] = topology.model_copy(update={"evaluate_every": changes["training"].epochs})
        case Centralized():
            pass
    return arm.model_copy(update=changes)


def scaled_limits(limits: Sequence[int] | None, planned: Sequence[int], scaled: Scaled) -> list[int | None]:
    """Return after how many steps each owner's budget ends: after the same share of them as in the training.

    Parameters
    ----------
    limits : sequence of int or None
        How many steps of the training each owner's budget allows; None without budgets.
    planned : sequence of int
        How many steps the training plans for each owner.
    """
    if limits is None:
        return [None] * len(scaled.sizes)
    return [
        max(1, steps * min(limit, plan) // plan)
        for steps, limit, plan in zip(scaled.steps, limits, planned, strict=True)
    ]
