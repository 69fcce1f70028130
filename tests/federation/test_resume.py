"""A training that was interrupted goes on after its last completed round and ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from ppml.accounting.epsilon import epsilon
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.lattice import LatticeServer
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Ckks
from ppml.federation import client as client_module
from ppml.federation import run as run_module
from ppml.federation.checkpoint import TrainingCheckpoint
from ppml.federation.messages import INITIAL
from ppml.federation.server_state import RoundFailed
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.training import _may_resume

from ..learning.digits import vector
from .runs import MOMENTUM, bits, federated_arm, ignore, population, run, run_and_record, server_of
from .scanner import reachable, secret_holders, secret_key_in, updates_in
from .test_account import ARM as ACCOUNTED
from .test_account import check_each_account_covers_every_round
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


class Memory:
    """Keeps the progress after each round, and starts from ``progress``."""

    def __init__(self, progress: TrainingCheckpoint | None = None) -> None:
        self.progress = progress

    def load(self) -> TrainingCheckpoint | None:
        return self.progress

    def save(self, reached: Callable[[], TrainingCheckpoint]) -> None:
        self.progress = reached()


class Interrupted(BaseException):
    """What a test stops a training by; no handler of errors takes it for one."""


def arm_of(name: str):
    return federated_arm(**TECHNIQUES[name], rounds=ROUNDS, server=MOMENTUM)


@cache
def undisturbed(name: str) -> TrainingResult:
    return run(arm_of(name))


@cache
def progress_after(name: str, last: int) -> TrainingCheckpoint:
    """Return what is kept of a training that is stopped after round ``last``."""
    memory = Memory()

    def stop(row: HistoryRow) -> None:
        if row.step == last:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(arm_of(name), report=stop, checkpoint=memory)
    return memory.progress


def check_same(name: str, outcome: TrainingResult) -> None:
    """Compare with the training that nobody disturbed."""
    expected = undisturbed(name)
    (model,), (other,) = outcome.models, expected.models
    assert torch.equal(vector(model).view(torch.int32), vector(other).view(torch.int32))
    assert outcome.history == expected.history
    assert outcome.events == expected.events
    sent = [(each.bytes_up, each.bytes_down) for each in (outcome, expected)]
    if TECHNIQUES[name].get("encrypted"):
        # Ciphertexts are compressed where they are random: two undisturbed trainings differ by a few hundred bytes.
        sent[1] = pytest.approx(sent[1], rel=1e-3)
    assert sent[0] == sent[1]


# The same bits, history, events and bytes.


@pytest.mark.parametrize("last", range(1, ROUNDS + 1))
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_training_that_is_resumed_ends_as_an_undisturbed_one(name, last):
    progress = progress_after(name, last)
    assert (progress.number, progress.rounds, len(progress.history)) == (last, ROUNDS, last)
    check_same(name, run(arm_of(name), checkpoint=Memory(progress)))


def test_a_resumed_training_reports_the_rounds_that_were_left():
    rows: list[HistoryRow] = []
    run(arm_of("fl"), report=rows.append, checkpoint=Memory(progress_after("fl", 1)))
    assert rows == undisturbed("fl").history[1:]


@pytest.mark.parametrize("name", ["fl_dp", "fl_scaffold", "fl_cdp"])
def test_what_a_resumed_training_keeps_is_what_an_undisturbed_one_keeps(name):
    memory = Memory(progress_after(name, 1))
    with pytest.raises(Interrupted):
        run(arm_of(name), report=lambda row: interrupt(), checkpoint=memory)
    assert bits(memory.progress) == bits(progress_after(name, 2))


def test_a_training_may_be_interrupted_after_every_round():
    memory = Memory()
    for _ in range(ROUNDS):
        with pytest.raises(Interrupted):
            run(arm_of("fl_dp"), report=lambda row: interrupt(), checkpoint=memory)
    check_same("fl_dp", run(arm_of("fl_dp"), checkpoint=memory))


def interrupt() -> None:
    raise Interrupted


@pytest.mark.parametrize("name", ["fl_dp", "fl_dp_he"])
def test_a_round_that_was_interrupted_is_repeated_and_is_not_in_what_was_kept(name, monkeypatch):
    memory, original = Memory(), client_module._contribute

    def stops(clients, client, number, state, left):
        update = original(clients, client, number, state, left)
        # Two of the three clients have trained, and have remembered it.
        return interrupt() if (number, client) == (2, 1) else update

    # Clients whose updates are encrypted live in a process of their own, which ends then.
    stopped = ChildProcessError if TECHNIQUES[name].get("encrypted") else Interrupted
    with monkeypatch.context() as patch, pytest.raises(stopped):
        patch.setattr(client_module, "_contribute", stops)
        run(arm_of(name), checkpoint=memory)
    assert memory.progress.events == progress_after(name, 1).events
    check_same(name, run(arm_of(name), checkpoint=memory))


def test_a_training_that_cannot_save_a_round_goes_on_from_the_one_before():
    class Full(Memory):
        def save(self, reached: Callable[[], TrainingCheckpoint]) -> None:
            if reached().number == 2:
                raise OSError("disk full")
            super().save(reached)

    memory = Full()
    rows: list[HistoryRow] = []
    with pytest.raises(OSError, match="disk full"):
        run(arm_of("fl"), report=rows.append, checkpoint=memory)
    assert [row.step for row in rows] == [memory.progress.number] == [1], "nothing is said of a round that is not kept"
    check_same("fl", run(arm_of("fl"), checkpoint=Memory(memory.progress)))


def test_a_round_that_fails_leaves_those_before_it_to_go_on_from(monkeypatch):
    memory, original = Memory(), client_module._contribute

    def fails(clients, client, number, state, left):
        if number == 2:
            raise OSError("disk full")
        return original(clients, client, number, state, left)

    with monkeypatch.context() as patch, pytest.raises(RoundFailed, match=r"round 2: 0 of 3 .* rounds before stand"):
        patch.setattr(client_module, "_contribute", fails)
        run(arm_of("fl"), checkpoint=memory)
    assert memory.progress.number == 1
    check_same("fl", run(arm_of("fl"), checkpoint=memory))


def shifted(progress: TrainingCheckpoint):
    return replace(progress.common, parameters=progress.common.parameters + np.float32(1e-6))


def at_rest(progress: TrainingCheckpoint):
    still = {name: np.zeros_like(vector) for name, vector in progress.common.memory.items()}
    return replace(progress.common, memory=still)


def server_state(**parts):
    """Return a loss of parts of the standing, given as functions of it."""
    return lambda progress: {
        "standing": replace(progress.server_state, **{name: part(progress.server_state) for name, part in parts.items()})
    }


FAULTS = {
    "parameters": lambda progress: {"common": shifted(progress)},
    "velocity": lambda progress: {"common": at_rest(progress)},
    "round": server_state(number=lambda server: server.number - 1),
    "history": lambda progress: {"history": ()},
    "events": lambda progress: {"events": [() for _ in progress.events]},
    "bytes": lambda progress: {"bytes_up": 0, "bytes_down": 0},
    "bytes of the sums": server_state(sum_bytes=lambda server: dict.fromkeys(server.sum_bytes, 0)),
    "what each client has": server_state(known=lambda server: dict.fromkeys(server.known, -1)),
    "who is finished": server_state(finished=lambda server: (0,)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", ["fl_dp", "fl_dp_he"])
def test_a_part_of_the_progress_that_is_lost_is_caught(name, fault):
    progress = progress_after(name, 2)
    with pytest.raises(AssertionError):
        check_same(name, run(arm_of(name), checkpoint=Memory(replace(progress, **fault(progress)))))


OWN_FAULTS = {
    "what a client keeps": ("fl_scaffold", lambda progress: {"own": [{} for _ in progress.own]}),
    "what a client keeps of another": ("fl_scaffold", lambda progress: {"own": progress.own[::-1]}),
    "the common control variate": ("fl_scaffold", lambda progress: {"common": at_rest(progress)}),
    "noise of the server": ("fl_cdp", lambda progress: {"server_events": ()}),
}
"""Parts that not every technique has."""


@pytest.mark.parametrize(("name", "fault"), OWN_FAULTS.values(), ids=OWN_FAULTS)
def test_a_part_of_its_own_that_a_technique_loses_is_caught(name, fault):
    progress = progress_after(name, 2)
    with pytest.raises(AssertionError):
        check_same(name, run(arm_of(name), checkpoint=Memory(replace(progress, **fault(progress)))))


# One account for the whole training.


@cache
def accounted(last: int) -> TrainingCheckpoint:
    memory = Memory()
    with pytest.raises(Interrupted):
        run(ACCOUNTED, report=lambda row: interrupt() if row.step == last else None, checkpoint=memory)
    return memory.progress


@pytest.mark.parametrize("last", range(1, ROUNDS + 1))
def test_the_account_of_a_client_covers_the_rounds_before_and_after_the_interruption(last):
    check_each_account_covers_every_round(run(ACCOUNTED, checkpoint=Memory(accounted(last))))


def test_an_account_that_starts_anew_at_resume_is_caught_and_would_show_a_smaller_epsilon():
    progress = accounted(2)
    reset = run(ACCOUNTED, checkpoint=Memory(replace(progress, events=[() for _ in progress.events])))
    with pytest.raises(AssertionError):
        check_each_account_covers_every_round(reset)
    for shown, true in zip(reset.events, run(ACCOUNTED).events, strict=True):
        assert epsilon(shown, 1e-5, "rdp") < 0.8 * epsilon(true, 1e-5, "rdp")


class Untouched:
    """Fails a training that looks for progress, or leaves any."""

    def load(self):
        raise AssertionError("looked for progress")

    def save(self, progress):
        raise AssertionError("kept progress")


def secure_arm():
    arm = federated_arm(private=True)
    return arm.model_copy(update={"privacy": arm.privacy.model_copy(update={"noise_source": "secure"})})


def test_a_training_with_secure_noise_neither_resumes_nor_leaves_anything_behind():
    outcome = run(secure_arm(), checkpoint=Untouched())
    assert [row.step for row in outcome.history] == [1, 2]


def test_a_training_that_keeps_progress_is_told_from_one_that_does_not():
    with pytest.raises(AssertionError, match="looked for progress"):
        run(federated_arm(private=True), checkpoint=Untouched())


@pytest.mark.parametrize(
    ("arm", "device", "resumes"),
    [
        (federated_arm(), "cpu", True),
        (federated_arm(), "cuda", True),
        (federated_arm(private=True), "cpu", True),
        # A round done again is another draw where it does not repeat to the bit, and the account has one.
        (federated_arm(private=True), "cuda", False),
        (secure_arm(), "cpu", False),
    ],
)
def test_a_private_training_resumes_only_where_a_round_repeats_to_the_bit(arm, device, resumes):
    assert _may_resume(arm, device) == resumes


# Secrets.


def test_progress_is_what_clients_know():
    progress, clear = progress_after("fl_dp_he", 2), progress_after("fl_dp", 2)
    expected = {
        "standing",
        "rounds",
        "common",
        "own",
        "events",
        "server_events",
        "history",
        "bytes_up",
        "bytes_down",
    }
    assert set(vars(progress)) == expected
    assert set(vars(progress.server_state)) == {"number", "known", "sum_bytes", "finished", "accepted"}
    assert set(vars(progress.common)) == {"parameters", "memory"}
    kept = [progress.common.parameters, *progress.common.memory.values()]
    assert len(kept) == 2 and all(vector.dtype == np.float32 for vector in kept)
    # Bit for bit what the sums in the clear give: nothing of a decryption is in it.
    sizes = {"bytes_up": 0, "bytes_down": 0}
    blind = [
        replace(one, **sizes, server_state=replace(one.server_state, sum_bytes=dict.fromkeys(one.server_state.sum_bytes)))
        for one in (progress, clear)
    ]
    assert bits(blind[0]) == bits(blind[1])
    assert all(type(size) is int for size in progress.server_state.sum_bytes.values())


def test_the_server_of_a_resumed_training_sees_neither_a_key_nor_the_model_nor_an_update():
    progress = progress_after("fl_he", 1)
    traffic = run_and_record(arm_of("fl_he"), checkpoint=Memory(progress))
    (side,), seen = traffic.sides, traffic.reaching_the_server()
    assert not secret_key_in(seen, side)
    assert not any(INITIAL in message.content for _, message in traffic.messages)
    assert len(traffic.updates) == 6, "two rounds of three clients"
    sums = [np.sum(traffic.updates[:3], axis=0), np.sum(traffic.updates[3:], axis=0)]
    kept = [progress.common.parameters, progress.common.memory["velocity"]]
    known = [np.rint(values.astype(np.float64) / STEP).astype(np.int64) for values in kept]
    assert not updates_in(seen, [*traffic.updates, *sums, *known], STEP)
    assert not any(values[:16].tobytes() in payload for values in kept for payload in seen)


def test_a_resumed_training_has_new_keys():
    progress = progress_after("fl_he", 1)
    first, second = (
        run_and_record(arm_of("fl_he"), checkpoint=Memory(progress)).reaching_the_server()[0] for _ in range(2)
    )
    assert first != second


def test_nothing_that_the_server_of_a_resumed_training_is_given_leads_to_a_key(monkeypatch):
    given, clients = [], []
    build_server_app, build_client_app = run_module.build_server_app, run_module.build_client_app
    monkeypatch.setattr(run_module, "build_server_app", lambda *parts: given.append(parts) or build_server_app(*parts))
    monkeypatch.setattr(run_module, "build_client_app", lambda one: clients.append(one) or build_client_app(one))
    shared = arm_of("fl_he").model_copy(update={"aggregation": Ckks(keys="shared")})
    for arm in (shared, arm_of("fl_he")):
        run(arm, checkpoint=Memory(progress_after("fl_he", 2)))
    assert not secret_holders(*clients), "a key is in the process of its holder, and in that of clients who share it"
    with pytest.raises(ChildProcessError):
        clients[0](None).side._secret()
    (server, after_round, *_), _ = given
    assert isinstance(server.aggregator, LatticeServer) and callable(after_round)
    assert not secret_holders(*given)


def check_the_server_app_leads_to_no_model(build) -> None:
    codec = FixedPointCodec(8.0, 20)
    clients, progress = population(PlaintextAggregation(codec, 3), codec), progress_after("fl_scaffold", 1)
    app = build(server_of(clients), progress)
    common, own = progress.common, progress.own
    vectors = {id(one) for kept in ({"": common.parameters}, common.memory, *own) for one in kept.values()}
    assert len(vectors) == 1 + 2 + 3, "the model, velocity and control variate, and each client's own"
    assert vectors <= {id(one) for one in reachable(progress)}, "the search must find what there is"
    assert not vectors & {id(one) for one in reachable(app)}


def test_nothing_that_the_server_app_of_a_resumed_training_holds_leads_to_the_model():
    check_the_server_app_leads_to_no_model(
        lambda server, progress: run_module.build_server_app(server, ignore, ignore, progress.server_state)
    )


def test_a_server_app_that_holds_the_progress_is_caught():
    def careless(server, progress):
        app = run_module.build_server_app(server, ignore, ignore, progress.server_state)
        app.kept = progress
        return app

    with pytest.raises(AssertionError):
        check_the_server_app_leads_to_no_model(careless)
