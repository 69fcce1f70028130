"""Each client has one account for the whole training: the mechanisms on its examples in all rounds."""

from __future__ import annotations

from functools import cache

import pytest
from flwr.app import Message, MessageType, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent, compose
from ppml.accounting.schedule import mechanism_schedules
from ppml.federation.client import build_client_app
from ppml.federation.client_state import _EVENTS, ClientState
from ppml.federation.client_workers import FIRST_CLIENT_NODE, new_context
from ppml.federation.messages import (
    INITIAL,
    REQUEST,
    SUMS,
    RoundRequest,
    pack_events,
    pack_fields,
    pack_sums,
    pack_vector,
)
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.result import TrainingResult

from .parties import PRIVATE, Federation, federated, parties, play, with_learner
from .runs import SIZES, federated_arm, run

ARM = federated_arm(private=True, rounds=3, training={"epochs": 2})


def check_accounts_cover_every_round(outcome: TrainingResult) -> None:
    for own, examples, plan in zip(outcome.events, SIZES, mechanism_schedules(ARM, SIZES), strict=True):
        assert plan.steps == 3 * 2 * round(examples / 10), "rounds x epochs x steps"
        assert [(event.sample_rate, event.steps) for event in own] == [(plan.sample_rate, plan.steps)]
        assert {(event.noise_multiplier, event.max_grad_norm, event.sampler) for event in own} == {
            (1.0, 0.1, "poisson")
        }


def forgetful(state: ClientState, events) -> None:
    """Keep only the events of the last round, as a new accountant in each round does."""
    state._state[_EVENTS] = pack_events(compose(events))


@cache
def outcome() -> TrainingResult:
    return run(ARM)


def test_account_covers_every_round():
    check_accounts_cover_every_round(outcome())


@pytest.mark.parametrize("append", [forgetful, lambda state, events: None], ids=["reset each round", "no events"])
def test_lost_events_are_detected(append, monkeypatch):
    honest = outcome()
    monkeypatch.setattr(ClientState, "append_events", append)
    lost = run(ARM)
    with pytest.raises(AssertionError):
        check_accounts_cover_every_round(lost)
    for shown, true in zip(lost.events, honest.events, strict=True):
        assert epsilon(shown, 1e-5, "rdp") < 0.8 * epsilon(true, 1e-5, "rdp")


def test_encryption_does_not_change_the_account():
    encrypted = federated_arm(private=True, encrypted=True, rounds=3, training={"epochs": 2})
    check_accounts_cover_every_round(run(encrypted))


def test_account_without_privacy_is_empty():
    assert run(federated_arm()).events == [(), (), ()]


EVENTS = st.lists(
    st.builds(
        MechanismEvent,
        sample_rate=st.floats(0.001, 1.0),
        noise_multiplier=st.floats(0.1, 50.0),
        steps=st.integers(1, 10**6),
        max_grad_norm=st.floats(0.01, 10.0),
        sampler=st.sampled_from(["poisson", "shuffle"]),
    ),
    max_size=4,
)


@given(rounds=st.lists(EVENTS, max_size=4))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_client_state_composes_all_events(rounds):
    state = ClientState(RecordDict())
    for events in rounds:
        state.append_events(events)
    assert state.events == compose(event for events in rounds for event in events)


def with_a_diverging_client() -> Federation:
    """Return private parties; the weights of client 1 diverge in every round."""
    wild = DpSgdLearner(Settings(2, 10, 3e38), noise_multiplier=1.0, max_grad_norm=10.0)
    return with_learner(parties(federated(PRIVATE)), 1, lambda learner: wild)


def events_of_a_diverging_client() -> tuple[MechanismEvent, ...]:
    """Return the account of a client whose weights diverge in every round."""
    course = play(with_a_diverging_client())
    assert all("client 1" in line for line in course.notices if "not finite" in line)
    assert [line for line in course.notices if "not finite" in line]
    return course.states[1].events


def test_account_has_steps_of_a_diverged_training():
    assert sum(event.steps for event in events_of_a_diverging_client()) >= 3, "at least one in each of three rounds"


def test_lost_steps_of_a_divergence_are_detected(monkeypatch):
    original = TrainingDiverged.__init__

    def forgetful(error, message, **others):
        original(error, message, **{**others, "events": ()})

    monkeypatch.setattr(TrainingDiverged, "__init__", forgetful)
    monkeypatch.setattr(TrainingDiverged, "events", property(lambda self: (), lambda self, value: None), raising=False)
    assert events_of_a_diverging_client() == ()


def test_failed_client_replies_and_keeps_its_account():
    """Flower keeps the state of a client after a reply; on Ray, an exception discards it."""
    parts = with_a_diverging_client()
    app, context = build_client_app(lambda context: parts.pool), new_context(1, 3)
    content = RecordDict(
        {
            REQUEST: pack_fields(RoundRequest(1, 0)),
            INITIAL: pack_vector(parts.settings.initial_weights),
            SUMS: pack_sums({}),
        }
    )
    reply = app(Message(content, dst_node_id=FIRST_CLIENT_NODE + 1, message_type=MessageType.TRAIN), context)
    assert reply.has_error() and "not finite" in reply.error.reason
    assert sum(event.steps for event in ClientState(context.state).events) >= 1
