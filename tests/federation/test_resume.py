"""An interrupted training resumes after its last completed round, with the result of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from ppml.aggregation.lattice import LatticeServer
from ppml.config.technique import Ckks
from ppml.federation import client as client_module
from ppml.federation import run as run_module
from ppml.federation.checkpoint import TrainingCheckpoint
from ppml.federation.messages import INITIAL
from ppml.federation.server_state import RoundFailed
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.training import _may_resume

from ..learning.digits import vector
from .parties import MemoryStore, federated, parties
from .runs import MOMENTUM, bits, federated_arm, ignore, run, run_and_record
from .scanner import reachable, secret_holders, secret_key_in, updates_in
from .test_secrecy import STEP

ROUNDS = 3
TECHNIQUES = {
    "fl": {},
    "fl_he": {"encrypted": True},
    "fl_dp": {"private": True},
    "fl_dp_he": {"private": True, "encrypted": True},
    "fl_scaffold": {"correction": {"kind": "scaffold"}},
    "fl_cdp": {"privacy": {"kind": "client", "noise_multiplier": 1.0}, "weighting": "uniform"},
}


class Interrupted(BaseException):
    """An interruption of a training by a test, which no error handler catches."""


def arm_of(name: str):
    return federated_arm(**TECHNIQUES[name], rounds=ROUNDS, server=MOMENTUM)


@cache
def uninterrupted(name: str) -> TrainingResult:
    return run(arm_of(name))


@cache
def checkpoint_after(name: str, last: int) -> TrainingCheckpoint:
    """Return the checkpoint of a training that stops after round ``last``."""
    memory = MemoryStore()

    def stop(row: HistoryRow) -> None:
        if row.step == last:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(arm_of(name), report=stop, checkpoint=memory)
    return memory.checkpoint


def check_same(name: str, outcome: TrainingResult) -> None:
    """Compare with the uninterrupted training."""
    expected = uninterrupted(name)
    (model,), (other,) = outcome.models, expected.models
    assert torch.equal(vector(model).view(torch.int32), vector(other).view(torch.int32))
    assert outcome.history == expected.history
    assert outcome.events == expected.events
    sent = [(each.bytes_up, each.bytes_down) for each in (outcome, expected)]
    if TECHNIQUES[name].get("encrypted"):
        # Compressed ciphertexts have random sizes: two uninterrupted trainings differ by a few hundred bytes.
        sent[1] = pytest.approx(sent[1], rel=1e-3)
    assert sent[0] == sent[1]


# The same bits, history, events and bytes.


# One round of each encrypted training is enough, since its checkpoint has no ciphertext.
@pytest.mark.parametrize(
    ("name", "last"),
    [(name, last) for name in TECHNIQUES for last in range(1, ROUNDS + 1) if last == 2 or "he" not in name],
)
def test_resumed_training_has_the_same_result(name, last):
    checkpoint = checkpoint_after(name, last)
    assert (checkpoint.number, checkpoint.rounds, len(checkpoint.history)) == (last, ROUNDS, last)
    check_same(name, run(arm_of(name), checkpoint=MemoryStore(checkpoint)))


def test_resumed_training_reports_remaining_rounds():
    rows: list[HistoryRow] = []
    run(arm_of("fl"), report=rows.append, checkpoint=MemoryStore(checkpoint_after("fl", 1)))
    assert rows == uninterrupted("fl").history[1:]


@pytest.mark.parametrize("name", ["fl_dp", "fl_scaffold", "fl_cdp"])
def test_resumed_training_writes_the_same_checkpoints(name):
    memory = MemoryStore(checkpoint_after(name, 1))
    with pytest.raises(Interrupted):
        run(arm_of(name), report=lambda row: interrupt(), checkpoint=memory)
    assert bits(memory.checkpoint) == bits(checkpoint_after(name, 2))


def test_training_resumes_after_every_round():
    memory = MemoryStore()
    for _ in range(ROUNDS):
        with pytest.raises(Interrupted):
            run(arm_of("fl_dp"), report=lambda row: interrupt(), checkpoint=memory)
    check_same("fl_dp", run(arm_of("fl_dp"), checkpoint=memory))


def interrupt() -> None:
    raise Interrupted


@pytest.mark.parametrize("name", ["fl_dp", "fl_dp_he"])
def test_interrupted_round_is_repeated(name, monkeypatch):
    memory, original = MemoryStore(), client_module._compute_protected_update

    def stops(clients, client, number, state, left):
        update = original(clients, client, number, state, left)
        # Two of the three clients have trained, and have it in their accounts.
        return interrupt() if (number, client) == (2, 1) else update

    # Clients with encrypted updates run in a process of their own, which ends.
    stopped = ChildProcessError if TECHNIQUES[name].get("encrypted") else Interrupted
    with monkeypatch.context() as patch, pytest.raises(stopped):
        patch.setattr(client_module, "_compute_protected_update", stops)
        run(arm_of(name), checkpoint=memory)
    assert memory.checkpoint.client_events == checkpoint_after(name, 1).client_events
    check_same(name, run(arm_of(name), checkpoint=memory))


def test_training_resumes_from_the_round_before_a_failed_save():
    class Full(MemoryStore):
        def save(self, capture: Callable[[], TrainingCheckpoint]) -> None:
            if capture().number == 2:
                raise OSError("disk full")
            super().save(capture)

    memory = Full()
    rows: list[HistoryRow] = []
    with pytest.raises(OSError, match="disk full"):
        run(arm_of("fl"), report=rows.append, checkpoint=memory)
    assert [row.step for row in rows] == [memory.checkpoint.number] == [1], (
        "a round without a checkpoint is not reported"
    )
    check_same("fl", run(arm_of("fl"), checkpoint=MemoryStore(memory.checkpoint)))


def test_training_resumes_from_the_round_before_a_failed_one(monkeypatch):
    memory, original = MemoryStore(), client_module._compute_protected_update

    def fail(clients, client, number, state, left):
        if number == 2:
            raise OSError("disk full")
        return original(clients, client, number, state, left)

    with monkeypatch.context() as patch, pytest.raises(RoundFailed, match=r"round 2: 0 of 3 .* earlier rounds"):
        patch.setattr(client_module, "_compute_protected_update", fail)
        run(arm_of("fl"), checkpoint=memory)
    assert memory.checkpoint.number == 1
    check_same("fl", run(arm_of("fl"), checkpoint=memory))


def shifted(checkpoint: TrainingCheckpoint):
    return replace(checkpoint.global_state, parameters=checkpoint.global_state.parameters + np.float32(1e-6))


def at_rest(checkpoint: TrainingCheckpoint):
    still = {name: np.zeros_like(vector) for name, vector in checkpoint.global_state.memory.items()}
    return replace(checkpoint.global_state, memory=still)


def server_state(**parts):
    """Return a fault: other fields of the server state, as functions of it."""
    return lambda checkpoint: {
        "server_state": replace(
            checkpoint.server_state, **{name: part(checkpoint.server_state) for name, part in parts.items()}
        )
    }


FAULTS = {
    "parameters": ("fl_dp", lambda checkpoint: {"global_state": shifted(checkpoint)}),
    "velocity": ("fl_dp", lambda checkpoint: {"global_state": at_rest(checkpoint)}),
    "round": ("fl_dp", server_state(number=lambda server: server.number - 1)),
    "history": ("fl_dp", lambda checkpoint: {"history": ()}),
    "events": ("fl_dp", lambda checkpoint: {"client_events": [() for _ in checkpoint.client_events]}),
    "bytes": ("fl_dp_he", lambda checkpoint: {"bytes_up": 0, "bytes_down": 0}),
    "bytes of the sums": ("fl_dp_he", server_state(sum_bytes=lambda server: dict.fromkeys(server.sum_bytes, 0))),
    "known rounds of clients": ("fl_dp_he", server_state(known=lambda server: dict.fromkeys(server.known, -1))),
    "finished clients": ("fl_dp", server_state(finished=lambda server: (0,))),
    "private states": ("fl_scaffold", lambda checkpoint: {"private_states": [{} for _ in checkpoint.private_states]}),
    "private states of other clients": (
        "fl_scaffold",
        lambda checkpoint: {"private_states": checkpoint.private_states[::-1]},
    ),
    "global control variate": ("fl_scaffold", lambda checkpoint: {"global_state": at_rest(checkpoint)}),
    "central noise": ("fl_cdp", lambda checkpoint: {"server_events": ()}),
}
"""A technique, and a fault in its checkpoint."""


@pytest.mark.parametrize(("name", "fault"), FAULTS.values(), ids=FAULTS)
def test_lost_checkpoint_part_is_detected(name, fault):
    checkpoint = checkpoint_after(name, 2)
    with pytest.raises(AssertionError):
        check_same(name, run(arm_of(name), checkpoint=MemoryStore(replace(checkpoint, **fault(checkpoint)))))


# Trainings without resumption.


class Untouched:
    """A store that fails a training that uses it."""

    def load(self):
        raise AssertionError("loaded a checkpoint")

    def save(self, checkpoint):
        raise AssertionError("saved a checkpoint")


def secure_arm():
    arm = federated_arm(private=True)
    return arm.model_copy(update={"privacy": arm.privacy.model_copy(update={"noise_source": "secure"})})


def test_training_with_secure_noise_uses_no_checkpoint():
    outcome = run(secure_arm(), checkpoint=Untouched())
    assert [row.step for row in outcome.history] == [1, 2]


@pytest.mark.parametrize(
    ("arm", "device", "resumes"),
    [
        (federated_arm(), "cpu", True),
        (federated_arm(), "cuda", True),
        (federated_arm(private=True), "cpu", True),
        # A repeated round with other bits is a second mechanism, and the account has one.
        (federated_arm(private=True), "cuda", False),
        (secure_arm(), "cpu", False),
    ],
)
def test_private_training_resumes_only_with_repeatable_rounds(arm, device, resumes):
    assert _may_resume(arm, device) == resumes


# Secrets.


def test_checkpoint_has_client_states_only():
    checkpoint, clear = checkpoint_after("fl_dp_he", 2), checkpoint_after("fl_dp", 2)
    expected = {
        "server_state",
        "rounds",
        "global_state",
        "private_states",
        "client_events",
        "server_events",
        "history",
        "bytes_up",
        "bytes_down",
    }
    assert set(vars(checkpoint)) == expected
    assert set(vars(checkpoint.server_state)) == {"number", "known", "sum_bytes", "finished", "last_included"}
    assert set(vars(checkpoint.global_state)) == {"parameters", "memory"}
    kept = [checkpoint.global_state.parameters, *checkpoint.global_state.memory.values()]
    assert len(kept) == 2 and all(vector.dtype == np.float32 for vector in kept)
    # The same bits as with plaintext sums: it has no part of a decryption.
    sizes = {"bytes_up": 0, "bytes_down": 0}
    blind = [
        replace(
            one, **sizes, server_state=replace(one.server_state, sum_bytes=dict.fromkeys(one.server_state.sum_bytes))
        )
        for one in (checkpoint, clear)
    ]
    assert bits(blind[0]) == bits(blind[1])
    assert all(type(size) is int for size in checkpoint.server_state.sum_bytes.values())


def test_server_of_a_resumed_training_gets_no_secret():
    checkpoint = checkpoint_after("fl_he", 1)
    traffic = run_and_record(arm_of("fl_he"), checkpoint=MemoryStore(checkpoint))
    (side,), seen = traffic.sides, traffic.server_bytes()
    assert not secret_key_in(seen, side)
    assert not any(INITIAL in message.content for _, message in traffic.messages)
    assert len(traffic.updates) == 6, "two rounds of three clients"
    sums = [np.sum(traffic.updates[:3], axis=0), np.sum(traffic.updates[3:], axis=0)]
    kept = [checkpoint.global_state.parameters, checkpoint.global_state.memory["velocity"]]
    known = [np.rint(values.astype(np.float64) / STEP).astype(np.int64) for values in kept]
    assert not updates_in(seen, [*traffic.updates, *sums, *known], STEP)
    assert not any(values[:16].tobytes() in payload for values in kept for payload in seen)


def test_resumed_training_has_new_keys():
    checkpoint = checkpoint_after("fl_he", 1)
    first, second = (
        run_and_record(arm_of("fl_he"), checkpoint=MemoryStore(checkpoint)).server_bytes()[0] for _ in range(2)
    )
    assert first != second


def test_server_app_of_a_resumed_training_has_no_reference_to_a_key(monkeypatch):
    # Before the patches, since it trains unless another test has done so.
    checkpoint = checkpoint_after("fl_he", 2)
    given, clients = [], []
    build_server_app, build_client_app = run_module.build_server_app, run_module.build_client_app
    monkeypatch.setattr(run_module, "build_server_app", lambda *parts: given.append(parts) or build_server_app(*parts))
    monkeypatch.setattr(run_module, "build_client_app", lambda one: clients.append(one) or build_client_app(one))
    shared = arm_of("fl_he").model_copy(update={"aggregation": Ckks(keys="shared")})
    for arm in (shared, arm_of("fl_he")):
        run(arm, checkpoint=MemoryStore(checkpoint))
    assert not secret_holders(*clients), "a key is in the process of the key holder, or of the clients that share it"
    with pytest.raises(ChildProcessError):
        clients[0](None).side._secret()
    (server, after_round, *_), _ = given
    assert isinstance(server.aggregator, LatticeServer) and callable(after_round)
    assert not secret_holders(*given)


def check_server_app_has_no_model(build) -> None:
    checkpoint = checkpoint_after("fl_scaffold", 1)
    app = build(parties(federated()).server, checkpoint)
    state, private = checkpoint.global_state, checkpoint.private_states
    vectors = {id(one) for kept in ({"": state.parameters}, state.memory, *private) for one in kept.values()}
    assert len(vectors) == 1 + 2 + 3, (
        "the model, velocity and global control variate, and each client's control variate"
    )
    assert vectors <= {id(one) for one in reachable(checkpoint)}, "the search must find the vectors in the checkpoint"
    assert not vectors & {id(one) for one in reachable(app)}


def test_server_app_of_a_resumed_training_has_no_reference_to_the_model():
    check_server_app_has_no_model(
        lambda server, checkpoint: run_module.build_server_app(server, ignore, ignore, checkpoint.server_state)
    )


def test_server_app_with_a_reference_to_the_checkpoint_is_detected():
    def careless(server, checkpoint):
        app = run_module.build_server_app(server, ignore, ignore, checkpoint.server_state)
        app.kept = checkpoint
        return app

    with pytest.raises(AssertionError):
        check_server_app_has_no_model(careless)
