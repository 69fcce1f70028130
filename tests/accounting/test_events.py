from __future__ import annotations

import json
from itertools import groupby

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
    expected = [(key, sum(event.steps for event in group)) for key, group in groupby(events, kind)]
    assert [(kind(event), event.steps) for event in compose(events)] == expected


def test_event_survives_json():
    event = MechanismEvent(1 / 3, 0.1 + 0.2, 7, 1.0, "shuffle")
    assert MechanismEvent(**json.loads(json.dumps(event.to_json()))) == event
