"""Small federated runs on real digits, and all of their messages."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any
from unittest import mock

import numpy as np
from flwr.app import Message
from torch import nn

from ppml.aggregation.identities import KeyRegisterClient
from ppml.aggregation.interfaces import ClientSide, Parties
from ppml.aggregation.secret_sharing import ShareServers
from ppml.config.arm import Arm
from ppml.federation.checkpoint import NO_CHECKPOINT, CheckpointStore
from ppml.learning.learner import LocalLearner, Settings
from ppml.learning.parameters import unflatten_into
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness
from ppml.training import train

from ..aggregation.local import Material, local_parties
from ..learning.digits import vector
from .parties import CONTRACT, SIZES, foreign_images, ignore_row, owners

PRIVACY = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1}
MOMENTUM = {"kind": "sgd", "momentum": 0.5}


def federated_arm(
    *,
    private: bool = False,
    privacy: dict[str, Any] | None = None,
    encrypted: bool = False,
    aggregation: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **topology: Any,
) -> Arm:
    """Return an arm of three clients and two rounds."""
    return Arm.model_validate(
        {
            "topology": {"kind": "federated", "partition": "three", "rounds": 2, **topology},
            "privacy": privacy or (PRIVACY if private else {"kind": "none"}),
            "aggregation": aggregation or {"kind": "ckks" if encrypted else "plaintext"},
            "training": {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "shift": 1, **(training or {})},
        }
    )


def ignore(*given: object) -> None:
    """Do nothing with the arguments."""


def bits(one: object) -> object:
    """Return ``one`` with bytes in the place of arrays, so that ``==`` compares bits."""
    match one:
        case np.ndarray():
            return str(one.dtype), one.shape, one.tobytes()
        case Mapping():
            return {name: bits(value) for name, value in one.items()}
        case list() | tuple():
            return [bits(value) for value in one]
    if is_dataclass(one):
        return type(one).__name__, {part.name: bits(getattr(one, part.name)) for part in fields(one)}
    return one


def run(
    arm: Arm,
    *,
    seed: int = 1,
    sizes: Sequence[int] = SIZES,
    report: Callable[[HistoryRow], None] = ignore_row,
    checkpoint: CheckpointStore = NO_CHECKPOINT,
    workers: int = 1,
) -> TrainingResult:
    """Train ``arm`` on digits."""
    return train(
        arm,
        owners(sizes),
        [None if arm.privacy.kind == "none" else 1.0] * len(sizes),
        foreign_images(),
        contract=CONTRACT,
        rng=Randomness(seed),
        report=report,
        checkpoint=checkpoint,
        workers=workers,
    )


@dataclass
class Traffic:
    """The messages and the parties of one run, for a test that knows more than any party."""

    messages: list[tuple[str, Message]] = field(default_factory=list)
    public_material: list[bytes] = field(default_factory=list)
    sides: list[ClientSide] = field(default_factory=list)
    updates: list[np.ndarray] = field(default_factory=list)
    outcome: TrainingResult | None = None

    def server_bytes(self) -> list[bytes]:
        """Return all bytes that the server gets or sends."""
        return [*self.public_material, *(message_bytes(message) for _, message in self.messages)]


def message_bytes(message: Message) -> bytes:
    """Return all values in all records of a message, concatenated."""
    parts: list[bytes] = []
    for record in message.content.values():
        for key, value in record.items():
            parts.append(key.encode())
            if hasattr(value, "data"):
                parts += [str((value.dtype, value.shape, value.stype)).encode(), value.data]
            else:
                parts += map(_value_bytes, value if isinstance(value, list) else [value])
    return b"".join(parts)


def _value_bytes(value: Any) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case float():
            return struct.pack("<d", value)
        case _:
            return int(value).to_bytes(8, "little", signed=True)


def run_and_record(
    arm: Arm,
    *,
    make_side: Callable[[ClientSide], ClientSide] = lambda side: side,
    broken: bool = False,
    checkpoint: CheckpointStore = NO_CHECKPOINT,
) -> Traffic:
    """Train ``arm`` and record its messages; ``make_side`` plants a fault at the clients.

    If the fault may end in an error, the run is ``broken``.
    """
    from ppml.aggregation import factory as aggregation
    from ppml.federation import factory as build
    from ppml.federation import run as federation

    traffic = Traffic()

    def observed(*given, **named):
        return train_federated(*given, **{**named, "observers": [lambda *seen: traffic.messages.append(seen)]})

    def built(spec, clients):
        both = local_parties(spec, clients)
        side = make_side(both.clients)
        protect = side.protect

        def record_update(update, *origin):
            traffic.updates.append(update)
            return protect(update, *origin)

        side.protect = record_update
        traffic.sides.append(side)
        return Parties(side, getattr(side, "material", both.material), both.close)

    def server_side(spec, clients, material):
        def record_material():
            # Called in every round.
            public = material()
            if public not in traffic.public_material:
                traffic.public_material.append(public)
            return public

        return build_server_side(
            spec,
            clients,
            material if isinstance(material, ShareServers | KeyRegisterClient) else Material(record_material),
        )

    train_federated = federation.train_federated
    build_server_side = build.build_server_side
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(federation, "train_federated", observed))
        stack.enter_context(mock.patch.object(aggregation, "build_parties", built))
        stack.enter_context(mock.patch.object(build, "build_server_side", server_side))
        with suppress(*([Exception] if broken else [])):
            traffic.outcome = run(arm, checkpoint=checkpoint)
    return traffic


QUICK = SgdLearner(Settings(1, 10, 0.1))


def by_hand(
    weights: Sequence[float],
    *,
    rounds: int,
    step: float,
    rate: float,
    start: nn.Module,
    learners: Sequence[LocalLearner],
) -> np.ndarray:
    """Return the weights after federated averaging in float64 of updates on a grid of ``step``."""
    parameters = vector(start).numpy()
    for number in range(1, rounds + 1):
        total, total_weight = 0.0, 0.0
        for client, (weight, learner, own) in enumerate(zip(weights, learners, owners(), strict=True)):
            model = deepcopy(start)
            unflatten_into(model, parameters)
            learner.fit(
                model,
                own,
                window=TrainingWindow((number - 1) / rounds, number / rounds),
                rng=Randomness(1).party("client", client).child("round", number),
            )
            change = weight * (vector(model).numpy().astype(np.float64) - parameters)
            total = total + np.rint(change / step) * step
            total_weight += np.rint(weight / step) * step
        parameters = (parameters.astype(np.float64) + rate * (total / total_weight)).astype(np.float32)
    return parameters
