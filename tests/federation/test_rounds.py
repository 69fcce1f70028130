"""The arithmetic of rounds, against the formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Context, MessageType, RecordDict

from ppml.federation.client import build_client_app
from ppml.federation.client_state import ClientState
from ppml.federation.factory import client_weights
from ppml.federation.global_state import GlobalState
from ppml.federation.messages import STATUS
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import Settings
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank, vector
from .parties import (
    by_hand,
    changes_by_hand,
    federated,
    foreign_images,
    parties,
    play,
    same_bits,
    trained,
    with_clients,
)
from .runs import federated_arm, run_and_record

# Averaging.


@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 1.0), (0.5, 1.0), (0.9, 0.3)])
def test_server_momentum_matches_the_formula_bit_for_bit(momentum, rate):
    parts = parties(federated(server={"kind": "sgd", "momentum": momentum, "learning_rate": rate}))
    trail = by_hand(parts, lambda number: range(3), momentum=momentum, rate=rate)
    states = play(parts).states
    assert sorted(state.applied for state in states) == [2, 2, 3]
    for state in states:
        assert same_bits(state.global_state.parameters, trail.parameters[state.applied])


def test_clip_below_1_does_not_clip_weights():
    narrow, wide = (parties(federated(aggregation={"kind": "plaintext", "clip": clip})) for clip in (0.5, 8.0))
    # All changes of weights are below the clip, so that it must not change them.
    for number, parameters in enumerate(by_hand(wide, lambda number: range(3)).parameters[:-1], start=1):
        assert np.abs(changes_by_hand(wide, parameters, number, range(3))).max() < 0.5
    results = [vector(trained(parts).models[0]).numpy() for parts in (narrow, wide)]
    np.testing.assert_allclose(*results, atol=1e-5, rtol=0)


def test_weights_are_relative_to_the_largest_client():
    assert client_weights([5, 10, 20], "examples") == [0.25, 0.5, 1.0]
    assert client_weights([5, 10, 20], "uniform") == [1.0, 1.0, 1.0]


def test_history_has_metrics_of_the_global_model():
    rows = []
    outcome = trained(parties(federated()), report=rows.append)
    assert rows == outcome.history
    assert [(row.step, row.train_loss, row.clients) for row in rows] == [(number, None, 3) for number in (1, 2, 3)]
    assert (rows[-1].loss, rows[-1].accuracy) == evaluate(outcome.models[0], foreign_images())


@pytest.mark.parametrize("differs", ["nothing", "model", "memory", "sum", "round"])
def test_step_cache_requires_the_same_state_and_sum(differs):
    parts = parties(federated(server={"kind": "sgd", "momentum": 0.5}))
    pool, size = parts.pool, len(parts.settings.initial_weights)
    ones, revealed = np.ones(size, dtype=np.float32), np.full(size + 1, 2**20)
    taken = []
    for changed in (None, differs):
        state, number = ClientState(RecordDict()), 2 if changed == "round" else 1
        velocity = 2 * ones if changed == "memory" else ones
        state.apply_step(
            GlobalState(0 * ones if changed == "model" else ones, {"velocity": velocity}), applied=number - 1
        )
        total = revealed - 1 if changed == "sum" else revealed
        expected = pool.algorithm.apply_sum(pool.codec.decode(total), state.global_state, number)
        pool.step_cache.apply(pool, state, total, number)
        assert np.array_equal(state.global_state.parameters, expected.parameters) and state.applied == number
        assert np.array_equal(state.global_state.memory["velocity"], expected.memory["velocity"])
        taken.append(state.packed[0])
    assert (taken[0] is taken[1]) == (differs == "nothing")


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
    parts = parties(federated(rounds=2), model=Silent(), owned=[blank(20)] * 3)
    outcome = trained(with_clients(parts, lambda client, data: replace(data, learner=wrap(learner))))
    # Two rounds of two steps; the mean over three clients has a third of the variance.
    expected = 0.5 / 10 * 1.5 * 0.2 * np.sqrt(2 * 2 / 3)
    assert vector(outcome.models[0]).std().item() == pytest.approx(expected, rel=0.02)


def test_noise_is_independent_over_clients_and_rounds():
    check_noise_is_independent(lambda learner: learner)


def test_equal_noise_of_clients_is_detected():
    with pytest.raises(AssertionError):
        check_noise_is_independent(SameDraws)


# Messages.


@pytest.mark.parametrize("encrypted", [False, True], ids=["plaintext", "ckks"])
def test_traffic_counter_counts_all_payloads(encrypted):
    traffic = run_and_record(federated_arm(encrypted=encrypted))
    sent = {"up": 0, "down": 0}
    for direction, message in traffic.messages:
        for record in message.content.array_records.values():
            sent[direction] += sum(len(array.data) for array in record.values())
    assert (traffic.outcome.bytes_up, traffic.outcome.bytes_down) == (sent["up"], sent["down"])


def test_unknown_message_type_gets_no_reply():
    pool = parties(federated()).pool
    grid = InProcessGrid(build_client_app(lambda context: pool), 3)
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
