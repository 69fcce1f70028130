from __future__ import annotations

import json
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.accounting.events import MechanismEvent, compose

EVENTS = st.builds(
    MechanismEvent,
    sample_rate=st.sampled_from([0.1, 0.5]),
    noise_multiplier=st.sampled_from([1.0, 2.0]),
    steps=st.integers(1, 9),
    max_grad_norm=st.sampled_from([0.1, 1.0]),
    sampler=st.sampled_from(["poisson", "shuffle"]),
)


def kind(event: MechanismEvent) -> tuple[object, ...]:
    return (event.sample_rate, event.noise_multiplier, event.max_grad_norm, event.sampler)


@given(st.lists(EVENTS, max_size=12))
@settings(deadline=None, derandomize=True)
def test_compose_keeps_all_steps_and_their_order(events):
    composed = compose(events)
    assert [kind(event) for event in composed] == [key for key, _ in groupby(events, kind)]
    for key in set(map(kind, events)):
        assert sum(event.steps for event in composed if kind(event) == key) == sum(
            event.steps for event in events if kind(event) == key
        )


@given(st.lists(EVENTS, max_size=12))
@settings(deadline=None, derandomize=True)
def test_compose_is_idempotent(events):
    assert compose(compose(events)) == compose(events)


@pytest.mark.parametrize(
    "other",
    [
        MechanismEvent(0.2, 1.0, 3, 1.0),
        MechanismEvent(0.1, 2.0, 3, 1.0),
        MechanismEvent(0.1, 1.0, 3, 0.5),
        MechanismEvent(0.1, 1.0, 3, 1.0, "shuffle"),
    ],
    ids=["rate", "noise", "norm", "sampler"],
)
def test_compose_keeps_different_mechanisms_separate(other):
    assert len(compose([MechanismEvent(0.1, 1.0, 3, 1.0), other])) == 2


def test_event_survives_json():
    event = MechanismEvent(1 / 3, 0.1 + 0.2, 7, 1.0, "shuffle")
    assert MechanismEvent(**json.loads(json.dumps(event.to_json()))) == event
