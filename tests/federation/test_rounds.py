"""The arithmetic of rounds, against the formulas."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, MessageType, MetricRecord, RecordDict

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation, from_plaintext
from ppml.federation import client as client_module
from ppml.federation.client import ClientPool, build_client_app
from ppml.federation.client_state import ClientState
from ppml.federation.factory import client_weights
from ppml.federation.global_state import GlobalState
from ppml.federation.messages import (
    METRICS,
    STATUS,
    SUMS,
    UPDATE,
    Status,
    pack_fields,
    pack_update,
    pack_vector,
    unpack_request,
    unpack_sums,
    unpack_vector,
)
from ppml.federation.run import train_federated
from ppml.federation.server import FederatedServer, RoundResult, ServerSettings
from ppml.federation.server_state import RoundFailed
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import LocalLearner, Settings, TrainingDiverged
from ppml.learning.parameters import flatten, unflatten_into
from ppml.learning.result import TrainingResult
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank, cnn, vector
from .runs import (
    QUICK,
    SIZES,
    by_hand,
    change_by_hand,
    client_data,
    client_pool,
    federated_arm,
    foreign_images,
    ignore_row,
    owners,
    run,
    run_and_record,
    server_components,
)

CODEC = FixedPointCodec(8.0, 20)


def plaintext_pool(codec: FixedPointCodec = CODEC, *, count: int = 3, **parts) -> ClientPool:
    return client_pool(PlaintextAggregation(codec, count), codec, **parts)


def trained(clients: ClientPool, **others) -> TrainingResult:
    return train_federated(clients, server_components(clients), ignore_row, **others)


# Averaging.


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_one_round_is_federated_averaging_up_to_the_grid(weighting):
    weights = client_weights(SIZES, weighting)
    result = vector(trained(plaintext_pool(clients=client_data(weights=weights), rounds=1)).models[0]).numpy()
    exact = by_hand(weights, rounds=1)
    # The rounding errors of each update and weight are at most half a step.
    assert np.abs(result - exact).max() < 3 * CODEC.step
    assert np.abs(exact - vector(cnn()).numpy()).max() > 1000 * CODEC.step, "an unchanged model must not pass"


def test_weights_by_examples_differ_from_equal_weights():
    by_examples = by_hand(client_weights(SIZES, "examples"), rounds=1)
    result = vector(trained(plaintext_pool(rounds=1)).models[0]).numpy()
    assert np.abs(result - by_examples).max() > 100 * CODEC.step


@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 1.0), (0.5, 1.0), (0.9, 0.3)])
def test_server_momentum_matches_the_formula_bit_for_bit(momentum, rate):
    weights = client_weights(SIZES, "examples")
    clients = plaintext_pool(clients=client_data(weights=weights), rounds=3, momentum=momentum, rate=rate)
    result = vector(trained(clients).models[0]).numpy()
    assert np.array_equal(result, by_hand(weights, rounds=3, momentum=momentum, step=CODEC.step, rate=rate))


def test_single_client_trains_as_without_federation():
    (examples,) = owners(SIZES[:1])
    learner = SgdLearner(Settings(2, 10, 0.1))
    clients = plaintext_pool(count=1, clients=client_data([learner], [examples], [1.0]), rounds=1)
    expected = cnn()
    learner.fit(expected, examples, window=TrainingWindow(), rng=Randomness(1).party("client", 0).child("round", 1))
    difference = vector(trained(clients).models[0]) - vector(expected)
    assert difference.abs().max() <= CODEC.step


def test_clip_below_1_does_not_clip_weights():
    # All values of these updates are below 0.5, so that the clip must not change them.
    narrow = FixedPointCodec(0.5, 20)
    updates = run_and_record(federated_arm(rounds=1)).updates
    assert max(np.abs(update[:-1]).max() for update in updates) < 0.5 * 2**20
    results = [vector(trained(plaintext_pool(codec, rounds=2)).models[0]) for codec in (narrow, CODEC)]
    assert torch.allclose(*results, atol=1e-5)


def test_weights_are_relative_to_the_largest_client():
    assert client_weights([5, 10, 20], "examples") == [0.25, 0.5, 1.0]
    assert client_weights([5, 10, 20], "uniform") == [1.0, 1.0, 1.0]


def test_history_has_metrics_of_the_global_model():
    rows = []
    clients = plaintext_pool(rounds=2)
    outcome = train_federated(clients, server_components(clients), rows.append)
    assert rows == outcome.history
    assert [(row.step, row.train_loss, row.clients) for row in rows] == [(1, None, 3), (2, None, 3)]
    assert (rows[-1].loss, rows[-1].accuracy) == evaluate(outcome.models[0], foreign_images())


# The same model at every client.


def test_clients_have_the_same_model_bit_for_bit(monkeypatch):
    received: dict[int, list[bytes]] = {}
    original = client_module._compute_protected_update

    def recording(clients, client, number, state, left):
        known = state.global_state
        received.setdefault(number, []).append(known.parameters.tobytes() + known.memory["velocity"].tobytes())
        return original(clients, client, number, state, left)

    monkeypatch.setattr(client_module, "_compute_protected_update", recording)
    trained(plaintext_pool(rounds=3, momentum=0.5))
    assert {number: (len(models), len(set(models))) for number, models in received.items()} == {
        1: (3, 1),
        2: (3, 1),
        3: (3, 1),
    }


@pytest.mark.parametrize("differs", ["nothing", "model", "memory", "sum", "round"])
def test_step_cache_requires_the_same_state_and_sum(differs):
    clients = plaintext_pool(momentum=0.5)
    size = len(flatten(clients.model))
    ones, revealed = np.ones(size, dtype=np.float32), np.full(size + 1, 2**20)
    taken = []
    for changed in (None, differs):
        state, number = ClientState(RecordDict()), 2 if changed == "round" else 1
        velocity = 2 * ones if changed == "memory" else ones
        state.apply_step(
            GlobalState(0 * ones if changed == "model" else ones, {"velocity": velocity}), applied=number - 1
        )
        total = revealed - 1 if changed == "sum" else revealed
        expected = clients.algorithm.apply_sum(clients.codec.decode(total), state.global_state, number)
        clients.step_cache.apply(clients, state, total, number)
        assert np.array_equal(state.global_state.parameters, expected.parameters) and state.applied == number
        assert np.array_equal(state.global_state.memory["velocity"], expected.memory["velocity"])
        taken.append(state.packed[0])
    assert (taken[0] is taken[1]) == (differs == "nothing")


def test_parameters_survive_packing():
    parameters = flatten(cnn(3))
    again = unpack_vector(pack_vector(parameters))
    assert again.dtype == np.float32
    model = cnn(4)
    unflatten_into(model, again)
    assert torch.equal(vector(model), vector(cnn(3)))


# Independent noise of clients and rounds.


class SameDraws:
    """A fault: the same randomness for every client and round."""

    def __init__(self, learner: DpSgdLearner) -> None:
        self._learner = learner

    def fit(self, model, examples, *, window, rng, **others):
        return self._learner.fit(model, examples, window=window, rng=Randomness(1), **others)


def check_noise_is_independent(wrap) -> None:
    learner = DpSgdLearner(
        Settings(1, 10, 0.5, momentum=0.0, learning_rate_schedule="constant"), noise_multiplier=1.5, max_grad_norm=0.2
    )
    silent = client_data([wrap(learner)] * 3, [blank(20)] * 3)
    outcome = trained(plaintext_pool(model=Silent(), clients=silent, test=blank(2), rounds=2))
    # Two rounds of two steps; the mean over three clients has a third of the variance.
    expected = 0.5 / 10 * 1.5 * 0.2 * np.sqrt(2 * 2 / 3)
    assert vector(outcome.models[0]).std().item() == pytest.approx(expected, rel=0.02)


def test_noise_is_independent_over_clients_and_rounds():
    check_noise_is_independent(lambda learner: learner)


def test_equal_noise_of_clients_is_detected():
    with pytest.raises(AssertionError):
        check_noise_is_independent(SameDraws)


# Traffic.


@pytest.mark.parametrize("encrypted", [False, True], ids=["plaintext", "ckks"])
def test_traffic_counter_counts_all_payloads(encrypted):
    traffic = run_and_record(federated_arm(encrypted=encrypted))
    sent = {"up": 0, "down": 0}
    for direction, message in traffic.messages:
        for record in message.content.array_records.values():
            sent[direction] += sum(len(array.data) for array in record.values())
    assert (traffic.outcome.bytes_up, traffic.outcome.bytes_down) == (sent["up"], sent["down"])


def test_plaintext_value_costs_four_bytes():
    outcome = run(federated_arm())
    values = 26_106 + 1
    assert outcome.bytes_up == 2 * 3 * 4 * values
    # The initial weights and the first sum once per client, and the second sum to the client that evaluates it.
    assert outcome.bytes_down == pytest.approx(4 * (3 * 26_106 + 3 * values + values), rel=0.001)


# A failed client.


class FailingLearner:
    """A learner that raises an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def fit(self, *arguments, **settings):
        raise self._error


class EndsAtInfinity:
    """A learner with infinite weights after a finite loss, as by one huge last step."""

    def fit(self, model, examples, **settings):
        with torch.no_grad():
            next(model.parameters()).fill_(torch.inf)
        return ()


FAILURES = {
    "diverges": (
        FailingLearner(TrainingDiverged("the loss is nan")),
        "client {client}, round {number}: the loss is nan",
    ),
    "ends at infinity": (EndsAtInfinity(), "client {client}, round {number}: the weights are not finite"),
    "disk full": (FailingLearner(OSError(errno.ENOSPC, "disk full")), "OSError: disk full"),
}
"""Failing learner -> reason in the notice of the server."""


def notice_of(why: str, number: int, client: int) -> str:
    """Return the notice about a failed client."""
    reason = why.format(client=client, number=number)
    return f"round {number}: client {client}: the client failed: {reason}; its reply is ignored"


def sums_sent(messages: Iterable[tuple[str, Message]]) -> dict[int, np.ndarray]:
    """Return the sum of each round as the server sends it."""
    return {
        number: from_plaintext(total)
        for _, message in messages
        if SUMS in message.content
        for number, total in unpack_sums(message.content.array_records[SUMS]).items()
    }


def check_others_continue(learner: LocalLearner, why: str, side: PlaintextAggregation) -> None:
    """Train with the failing ``learner`` at client 1 of three."""
    weights = client_weights(SIZES, "examples")
    clients = client_pool(side, CODEC, clients=client_data([QUICK, learner, QUICK], weights=weights))
    notices, messages = [], []
    outcome = trained(clients, notice=notices.append, observers=[lambda *seen: messages.append(seen)])
    assert notices == [
        line
        for number in (1, 2)
        for line in (notice_of(why, number, 1), f"round {number} continues with 2 of 3 clients")
    ]
    assert [(row.step, row.clients) for row in outcome.history] == [(1, 2), (2, 2)]
    start = vector(cnn()).numpy()
    others = [CODEC.encode(weights[one] * np.append(change_by_hand(one, start, 1, 2), 1.0)) for one in (0, 2)]
    assert np.array_equal(sums_sent(messages)[1], np.sum(others, axis=0))
    expected = by_hand(weights, rounds=2, step=CODEC.step, absent={(1, 1), (2, 1)})
    assert np.array_equal(vector(outcome.models[0]).numpy(), expected)


@pytest.mark.parametrize(("learner", "why"), FAILURES.values(), ids=FAILURES)
def test_failed_client_is_reported_and_others_continue(learner, why):
    check_others_continue(learner, why, PlaintextAggregation(CODEC, 3))


class Faulty(PlaintextAggregation):
    """A server that adds a value to the sum."""

    def __init__(self, place: int, amount: int) -> None:
        super().__init__(CODEC, 3)
        self._place, self._amount = place, amount

    def add(self, sealed):
        values = from_plaintext(super().add(sealed))
        values[self._place] += self._amount
        return self.protect(values)


@pytest.mark.parametrize(("place", "amount"), [(0, 1), (-1, 2**20)], ids=["a grid step", "a weight"])
def test_wrong_sum_is_detected(place, amount):
    with pytest.raises(AssertionError):
        check_others_continue(*FAILURES["diverges"], Faulty(place, amount))


def test_missing_notice_is_detected(monkeypatch):
    original = FederatedServer._parse_update

    def without_notice(server, client, reply, number):
        return None if reply.has_error() else original(server, client, reply, number)

    monkeypatch.setattr(FederatedServer, "_parse_update", without_notice)
    with pytest.raises(AssertionError):
        check_others_continue(*FAILURES["diverges"], PlaintextAggregation(CODEC, 3))


@pytest.mark.parametrize(("learner", "why"), FAILURES.values(), ids=FAILURES)
def test_round_without_any_update_ends_the_training(learner, why):
    notices = []
    with pytest.raises(RoundFailed, match=r"^round 1: 0 of 3 clients sent a valid update, 1 are needed; "):
        trained(plaintext_pool(clients=client_data([learner] * 3)), notice=notices.append)
    assert notices == [notice_of(why, 1, client) for client in range(3)]


# A server without clients, on scripted replies.

NODE_OF = {0: 7, 1: 5}
CLIENT_AT = {node: client for client, node in NODE_OF.items()}

Reply = Callable[[Message], Sequence[Message]]


class Scripted:
    """A grid of two clients with scripted replies."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.seen: list[tuple[str, Message]] = []

    def get_node_ids(self) -> list[int]:
        return list(CLIENT_AT)

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        self.seen += [("down", message) for message in messages]
        return [reply for message in messages for reply in self._reply(message)]

    def recipients(self, kind: str) -> list[int]:
        return [message.metadata.dst_node_id for _, message in self.seen if message.metadata.message_type == kind]


def honest(message: Message) -> list[Message]:
    """Return the reply of an honest client, whose update is the number of its node."""
    node, number = message.metadata.dst_node_id, unpack_request(message.content).number
    content = RecordDict({STATUS: pack_fields(Status(CLIENT_AT[node], number, applied=0))})
    match message.metadata.message_type:
        case MessageType.TRAIN:
            content[UPDATE] = pack_update(PlaintextAggregation(CODEC, 2).protect(np.array([node])))
        case MessageType.EVALUATE:
            content[METRICS] = MetricRecord({"loss": 1.0, "accuracy": 0.5})
    return [Message(content, reply_to=message)]


def unless(kind: str, client: int, other: Reply) -> Reply:
    """Return honest replies, except the reply of one client to one type of message."""

    def reply(message: Message) -> Sequence[Message]:
        odd = (message.metadata.message_type, CLIENT_AT[message.metadata.dst_node_id]) == (kind, client)
        return other(message) if odd else honest(message)

    return reply


def served(reply: Reply) -> tuple[Scripted, list[RoundResult], list[str]]:
    """Run one round on scripted replies; return the grid, the results and the notices."""
    InProcessGrid(lambda message, context: message, 2)  # messages need a sender
    grid, ends, notices = Scripted(reply), [], []
    settings = ServerSettings(
        rounds=1,
        clients=2,
        initial_weights=np.zeros(3, np.float32),
        update_length=1,
        sample_clients=lambda number: range(2),
    )
    FederatedServer(settings, PlaintextAggregation(CODEC, 2), ends.append, notices.append).run(grid)
    return grid, ends, notices


def test_server_adds_the_replies():
    grid, (end,), notices = served(honest)
    assert grid.recipients(MessageType.TRAIN) == [7, 5], "in the order of the clients"
    assert sums_sent(grid.seen)[1].tolist() == [12]
    assert (end.server_state.number, end.clients, end.loss, end.accuracy, end.events) == (1, 2, 1.0, 0.5, ())
    assert notices == []


def test_error_reply_is_reported_and_ignored():
    reply = unless("train", 0, lambda message: [Message(Error(code=1, reason="out of memory"), reply_to=message)])
    grid, (end,), notices = served(reply)
    assert notices == [
        "round 1: client 0: the client failed: out of memory; its reply is ignored",
        "round 1 continues with 1 of 2 clients",
    ]
    assert (sums_sent(grid.seen)[1].tolist(), end.clients) == ([5], 1)


def test_missing_reply_is_reported():
    grid, (end,), notices = served(unless("train", 1, lambda message: []))
    assert notices == ["round 1: client 1 did not reply", "round 1 continues with 1 of 2 clients"]
    assert (sums_sent(grid.seen)[1].tolist(), end.clients) == ([7], 1)


def test_round_without_replies_ends_the_training():
    with pytest.raises(RoundFailed, match="round 1: 0 of 2 clients sent a valid update, 1 are needed"):
        served(lambda message: [] if message.metadata.message_type == "train" else honest(message))


def test_unknown_message_type_gets_no_reply():
    clients = plaintext_pool()
    grid = InProcessGrid(build_client_app(lambda context: clients), 3)
    message = grid.create_message(RecordDict(), "train.other", 2, "1")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert reply.error.reason.startswith("ValueError in client_app.py")


def test_status_reply_has_client_and_round_only():
    traffic = run_and_record(federated_arm(rounds=1))
    calls = [message for _, message in traffic.messages if message.metadata.message_type == MessageType.QUERY]
    assert len(calls) == 2 * 3
    assert not any(message.content.array_records or message.content.metric_records for message in calls)
    statuses = [dict(message.content.config_records[STATUS]) for message in calls if STATUS in message.content]
    assert statuses == [{"client": client, "number": 0, "applied": -1, "finished": 0} for client in range(3)]


def test_client_state_is_in_the_flower_context():
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    assert ClientState(context.state).applied == -1
    state = GlobalState(np.ones(3, np.float32), {"velocity": np.zeros(3, np.float32)})
    ClientState(context.state).apply_step(state, applied=4)
    ClientState(context.state).set_private({"control": np.full(3, 2.0, np.float32)})
    again = ClientState(context.state)
    assert (again.global_state.parameters.tolist(), again.global_state.memory["velocity"].tolist()) == (
        [1.0] * 3,
        [0.0] * 3,
    )
    assert (again.applied, again.private["control"].tolist(), again.events) == (4, [2.0] * 3, ())
