"""Each client has one account for the whole training: what ran on its records in every round."""

from __future__ import annotations

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
from ppml.federation.messages import INITIAL, ORDER, SUMS, RoundRequest, pack_events, pack_fields, pack_sums, pack_vector
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.result import TrainingResult

from .parties import PRIVATE, federated, parties, play, with_learner
from .runs import SIZES, federated_arm, run

ARM = federated_arm(private=True, rounds=3, training={"epochs": 2})


def check_each_account_covers_every_round(outcome: TrainingResult) -> None:
    for own, records, plan in zip(outcome.events, SIZES, mechanism_schedules(ARM, SIZES), strict=True):
        assert plan.steps == 3 * 2 * round(records / 10), "rounds x epochs x steps"
        assert [(event.sample_rate, event.steps) for event in own] == [(plan.sample_rate, plan.steps)]
        assert {(event.noise_multiplier, event.max_grad_norm, event.sampler) for event in own} == {
            (1.0, 0.1, "poisson")
        }


def forgetful(state: ClientState, events) -> None:
    """Keep the events of the last round alone, as a new accountant in each round does."""
    state._state[_EVENTS] = pack_events(compose(events))


def test_the_account_of_a_client_covers_every_round():
    check_each_account_covers_every_round(run(ARM))


def test_an_account_that_starts_anew_each_round_is_caught_and_would_show_a_smaller_epsilon(monkeypatch):
    honest = run(ARM)
    monkeypatch.setattr(ClientState, "remember", forgetful)
    reset = run(ARM)
    with pytest.raises(AssertionError):
        check_each_account_covers_every_round(reset)
    for shown, true in zip(reset.events, honest.events, strict=True):
        assert epsilon(shown, 1e-5, "rdp") < 0.8 * epsilon(true, 1e-5, "rdp")


def test_an_account_that_is_never_kept_is_caught(monkeypatch):
    monkeypatch.setattr(ClientState, "remember", lambda state, events: None)
    with pytest.raises(AssertionError):
        check_each_account_covers_every_round(run(ARM))


def test_encryption_changes_nothing_in_the_account():
    encrypted = federated_arm(private=True, encrypted=True, rounds=3, training={"epochs": 2})
    check_each_account_covers_every_round(run(encrypted))


def test_without_privacy_the_account_is_empty():
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
def test_what_a_client_remembers_is_all_its_events_composed_with_every_field(rounds):
    state = ClientState(RecordDict())
    for events in rounds:
        state.remember(events)
    assert state.events == compose(event for events in rounds for event in events)


def events_of_a_wild_client() -> tuple[MechanismEvent, ...]:
    """Return the account of a client whose weights are not finite in any round."""
    parts = parties(federated(PRIVATE))

    def wild(learner: object) -> DpSgdLearner:
        return DpSgdLearner(Settings(2, 10, 3e38), noise_multiplier=1.0, max_grad_norm=10.0)

    course = play(with_learner(parts, 1, wild))
    assert all("client 1" in line for line in course.notices if "not finite" in line)
    assert [line for line in course.notices if "not finite" in line]
    return course.states[1].events


def test_steps_of_a_training_that_diverged_are_accounted_for():
    assert sum(event.steps for event in events_of_a_wild_client()) >= 3, "at least one in each of three rounds"


def test_steps_that_are_lost_with_a_divergence_are_caught(monkeypatch):
    original = TrainingDiverged.__init__

    def forgetful(error, message, **others):
        original(error, message, **{**others, "events": ()})

    monkeypatch.setattr(TrainingDiverged, "__init__", forgetful)
    monkeypatch.setattr(TrainingDiverged, "events", property(lambda self: (), lambda self, value: None), raising=False)
    assert events_of_a_wild_client() == ()


def test_a_client_that_fails_answers_so_that_no_engine_loses_its_account():
    """Flower keeps what a client remembers where its app returns, and on Ray drops it where the app raises."""
    parts = parties(federated(PRIVATE))

    def wild(learner: object) -> DpSgdLearner:
        return DpSgdLearner(Settings(2, 10, 3e38), noise_multiplier=1.0, max_grad_norm=10.0)

    population = with_learner(parts, 1, wild).population
    app, context = build_client_app(lambda context: population), new_context(1, 3)
    content = RecordDict(
        {ORDER: pack_fields(RoundRequest(1, 0)), INITIAL: pack_vector(parts.plan.initial), SUMS: pack_sums({})}
    )
    reply = app(Message(content, dst_node_id=FIRST_CLIENT_NODE + 1, message_type=MessageType.TRAIN), context)
    assert reply.has_error() and "not finite" in reply.error.reason
    assert sum(event.steps for event in ClientState(context.state).events) >= 1
