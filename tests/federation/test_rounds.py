"""The arithmetic of rounds, against a computation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, MessageType, RecordDict

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.federation import client as client_module
from ppml.federation.client import Population, flat_parameters, load_parameters
from ppml.federation.messages import SEALED, pack_sealed, pack_vector, unpack_vector
from ppml.federation.run import train_federated
from ppml.federation.server import SumOnly
from ppml.federation.state import ClientState
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.outcome import Outcome
from ppml.learning.schedule import Span
from ppml.learning.sgd import SgdLearner
from ppml.randomness import Randomness
from ppml.techniques import client_weights

from ..learning.digits import Silent, blank, cnn, vector
from .runs import SIZES, by_hand, federated_arm, foreign_images, ignore_row, owners, population, run, run_and_record

CODEC = FixedPointCodec(8.0, 20)


def in_the_clear(codec: FixedPointCodec = CODEC, *, clients: int = 3, **parts) -> Population:
    return population(PlaintextAggregation(codec, clients), codec, **parts)


def trained(clients: Population) -> Outcome:
    return train_federated(clients, clients.side, ignore_row)


# Averaging.


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_one_round_is_federated_averaging_to_within_the_grid(weighting):
    weights = client_weights(SIZES, weighting)
    result = vector(trained(in_the_clear(weights=weights, rounds=1)).models[0]).numpy()
    exact = by_hand(weights, rounds=1)
    # Each update and the weights are off by half a step at most.
    assert np.abs(result - exact).max() < 3 * CODEC.step
    assert np.abs(exact - vector(cnn()).numpy()).max() > 1000 * CODEC.step, "a model that stays would agree, too"


def test_weights_by_examples_are_told_from_equal_weights():
    by_examples = by_hand(client_weights(SIZES, "examples"), rounds=1)
    result = vector(trained(in_the_clear(rounds=1)).models[0]).numpy()
    assert np.abs(result - by_examples).max() > 100 * CODEC.step


@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 1.0), (0.5, 1.0), (0.9, 0.3)])
def test_rounds_with_server_momentum_are_those_by_hand_bit_for_bit(momentum, rate):
    weights = client_weights(SIZES, "examples")
    clients = in_the_clear(weights=weights, rounds=3, server_momentum=momentum, server_learning_rate=rate)
    result = vector(trained(clients).models[0]).numpy()
    assert np.array_equal(result, by_hand(weights, rounds=3, momentum=momentum, step=CODEC.step, rate=rate))


def test_one_client_of_full_weight_trains_as_it_would_alone_up_to_the_grid():
    (records,) = owners(SIZES[:1])
    clients = in_the_clear(
        clients=1, owned=[records], learners=[SgdLearner(Settings(2, 10, 0.1))], weights=[1.0], rounds=1
    )
    alone = cnn()
    SgdLearner(Settings(2, 10, 0.1)).fit(alone, records, span=Span(), rng=Randomness(1).child("round", 1, "client", 0))
    difference = vector(trained(clients).models[0]) - vector(alone)
    assert difference.abs().max() <= CODEC.step


def test_a_clip_under_1_clips_updates_but_not_weights():
    # Nothing in these updates reaches 0.3, so that the bound of the codec must not matter.
    narrow = FixedPointCodec(0.3, 20)
    updates = run_and_record(federated_arm(rounds=1)).updates
    assert max(np.abs(update[:-1]).max() for update in updates) < 0.3 * 2**20
    results = [vector(trained(in_the_clear(codec, rounds=2)).models[0]) for codec in (narrow, CODEC)]
    assert torch.allclose(*results, atol=1e-5)


def test_weights_relate_to_the_largest_client():
    assert client_weights([5, 10, 20], "examples") == [0.25, 0.5, 1.0]
    assert client_weights([5, 10, 20], "uniform") == [1.0, 1.0, 1.0]


def test_the_history_is_measured_with_the_global_model_of_each_round():
    rows = []
    clients = in_the_clear(rounds=2)
    outcome = train_federated(clients, clients.side, rows.append)
    assert rows == outcome.history
    assert [(row.step, row.train_loss) for row in rows] == [(1, None), (2, None)]
    assert (rows[-1].loss, rows[-1].accuracy) == evaluate(outcome.models[0], foreign_images())


# Every client knows the same model.


def test_all_clients_that_catch_up_hold_the_same_model_bit_for_bit(monkeypatch):
    received: dict[int, list[bytes]] = {}
    original = client_module._local_update

    def spied(clients, client, parameters, number, state):
        received.setdefault(number, []).append(parameters.tobytes())
        return original(clients, client, parameters, number, state)

    monkeypatch.setattr(client_module, "_local_update", spied)
    trained(in_the_clear(rounds=3, server_momentum=0.5))
    assert {number: (len(models), len(set(models))) for number, models in received.items()} == {
        1: (3, 1),
        2: (3, 1),
        3: (3, 1),
    }


def test_parameters_survive_the_way_into_a_message_and_a_model():
    parameters = flat_parameters(cnn(3))
    again = unpack_vector(pack_vector(parameters))
    assert again.dtype == np.float32
    model = cnn(4)
    load_parameters(model, again)
    assert torch.equal(vector(model), vector(cnn(3)))


# Noise is drawn anew by every client in every round.


class SameDraws:
    """Gives every client and round the same randomness: a fault."""

    def __init__(self, learner: DpSgdLearner) -> None:
        self._learner = learner

    def fit(self, model, records, *, span, rng, **others):
        return self._learner.fit(model, records, span=span, rng=Randomness(1), **others)


def check_noise_of_clients_and_rounds_is_independent(wrap) -> None:
    learner = DpSgdLearner(
        Settings(1, 10, 0.5, momentum=0.0, decay="constant"), noise_multiplier=1.5, max_grad_norm=0.2
    )
    clients = in_the_clear(model=Silent(), learners=[wrap(learner)] * 3, owned=[blank(20)] * 3, test=blank(2), rounds=2)
    outcome = trained(clients)
    # Two rounds of two steps; the mean over three clients has a third of the variance.
    expected = 0.5 / 10 * 1.5 * 0.2 * np.sqrt(2 * 2 / 3)
    assert vector(outcome.models[0]).std().item() == pytest.approx(expected, rel=0.02)


def test_noise_is_independent_over_clients_and_rounds():
    check_noise_of_clients_and_rounds_is_independent(lambda learner: learner)


def test_clients_that_draw_the_same_noise_are_caught():
    with pytest.raises(AssertionError):
        check_noise_of_clients_and_rounds_is_independent(SameDraws)


# Bytes.


@pytest.mark.parametrize("encrypted", [False, True], ids=["plaintext", "ckks"])
def test_the_meter_counts_the_bytes_of_all_payloads(encrypted):
    traffic = run_and_record(federated_arm(encrypted=encrypted))
    sent = {"up": 0, "down": 0}
    for direction, message in traffic.messages:
        for record in message.content.array_records.values():
            sent[direction] += sum(len(array.data) for array in record.values())
    assert (traffic.outcome.bytes_up, traffic.outcome.bytes_down) == (sent["up"], sent["down"])


def test_in_the_clear_a_value_costs_four_bytes_a_round_and_client():
    outcome = run(federated_arm())
    values = 26_106 + 1
    assert outcome.bytes_up == 2 * 3 * 4 * values
    # The initial weights once, the sum of the first round to all and of both rounds to the client that measures.
    assert outcome.bytes_down == pytest.approx(4 * (3 * 26_106 + 3 * values + 2 * values), rel=0.001)


# A client that fails.


class Fails:
    """Fails when it is to train."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def fit(self, *arguments, **settings):
        raise self._error


def with_failing_client(error: Exception) -> Population:
    healthy = SgdLearner(Settings(1, 10, 0.1))
    return in_the_clear(learners=[healthy, Fails(error), healthy])


def test_a_client_that_diverges_stops_the_run_with_an_error_that_names_it():
    with pytest.raises(TrainingDiverged, match="client 1, round 1: the loss is nan"):
        trained(with_failing_client(TrainingDiverged("the loss is nan")))


def test_any_other_failure_of_a_client_stops_the_run_and_names_it():
    with pytest.raises(OSError, match="disk") as caught:
        trained(with_failing_client(OSError("disk full")))
    assert caught.value.__notes__ == ["raised at client 1"]


class EndsAtInfinity:
    """Leaves weights that are not finite without a loss that says so, as one huge last step does."""

    def fit(self, model, records, **settings):
        with torch.no_grad():
            next(model.parameters()).fill_(torch.inf)
        return ()


def test_weights_that_are_not_finite_are_a_divergence_of_that_client():
    with pytest.raises(TrainingDiverged, match="client 2, round 1: the weights are not finite"):
        trained(in_the_clear(learners=[SgdLearner(Settings(1, 10, 0.1))] * 2 + [EndsAtInfinity()]))


class Nodes:
    """A grid as far as a strategy sees it."""

    def get_node_ids(self) -> list[int]:
        return [7, 5]


def replies_of(strategy: SumOnly, reply) -> list[Message]:
    asked = strategy.configure_train(1, pack_vector(np.zeros(3, np.float32)), None, Nodes())
    assert [message.metadata.dst_node_id for message in asked] == [5, 7]
    return [reply(message) for message in asked]


def update_of(message: Message) -> Message:
    sealed = PlaintextAggregation(CODEC, 2).seal(np.array([message.metadata.dst_node_id]))
    return Message(RecordDict({SEALED: pack_sealed(sealed)}), reply_to=message)


@pytest.fixture
def strategy() -> SumOnly:
    from ppml.federation.grid import InProcessGrid

    InProcessGrid(lambda message, context: message, 2)  # gives messages their sender
    return SumOnly(PlaintextAggregation(CODEC, 2), lambda number, sum_bytes, loss, accuracy: None)


def test_the_server_adds_what_comes_back(strategy):
    total, metrics = strategy.aggregate_train(1, replies_of(strategy, update_of))
    assert np.frombuffer(total[SEALED].data, "<i4").tolist() == [12]
    assert metrics is None


def test_an_error_reply_stops_the_run_and_names_the_node(strategy):
    replies = replies_of(strategy, lambda message: Message(Error(code=1, reason="out of memory"), reply_to=message))
    with pytest.raises(RuntimeError, match="round 1: the client at node 5 failed: out of memory"):
        strategy.aggregate_train(1, replies)


def test_a_client_that_does_not_answer_stops_the_run_and_is_named(strategy):
    replies = replies_of(strategy, update_of)
    with pytest.raises(RuntimeError, match="round 1: no answer from the client at node 7"):
        strategy.aggregate_train(1, replies[:1])


def test_a_message_type_of_another_kind_is_not_answered():
    from ppml.federation.client import build_client_app
    from ppml.federation.grid import InProcessGrid

    app = build_client_app(in_the_clear())
    grid = InProcessGrid(app, 3)
    message = grid.create_message(RecordDict(), MessageType.QUERY, 2, "1")
    with pytest.raises(ValueError, match="query"):
        list(grid.send_and_receive([message]))


def test_the_state_of_a_client_lives_in_its_flower_context():
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    ClientState(context.state).advance(np.ones(3, np.float32), np.zeros(3, np.float32), applied=4)
    again = ClientState(context.state)
    assert (again.parameters.tolist(), again.velocity.tolist(), again.applied) == ([1.0] * 3, [0.0] * 3, 4)
    assert again.events == ()
