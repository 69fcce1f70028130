"""The plan that noise is calibrated to is what training does, in every topology."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.accounting.schedule import Plan, plans, poisson_plan
from ppml.config.arm import Arm
from ppml.randomness import Randomness
from ppml.training import train

from ..learning.digits import digits, some

TOPOLOGIES = {
    "centralized": {"kind": "centralized"},
    "local": {"kind": "local", "partition": "three"},
    "federated": {"kind": "federated", "partition": "three", "rounds": 3},
}


def private_arm(topology: dict[str, object]) -> Arm:
    return Arm.model_validate(
        {
            "topology": topology,
            "privacy": {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.1},
        }
    )


@given(records=st.integers(1, 100_000), batch_size=st.integers(1, 100_000))
@settings(deadline=None, derandomize=True)
def test_the_rate_is_a_probability_and_the_steps_cover_the_records_about_once(records, batch_size):
    rate, steps = poisson_plan(records, batch_size)
    assert 0 < rate <= 1
    assert rate == batch_size / records or batch_size >= records
    assert steps >= 1
    assert abs(rate * steps - 1) <= rate / 2 + 1e-9


@pytest.mark.parametrize("records", [93, 99, 105, 117, 123, 234])
def test_no_step_is_lost_where_inverting_the_rate_loses_one(records):
    assert poisson_plan(records, 1)[1] == records


@pytest.mark.parametrize("records", [1, 93, 60_000])
def test_all_records_at_once_are_one_step_an_epoch_at_rate_one(records):
    assert poisson_plan(records, "all") == (1.0, 1)


@pytest.mark.parametrize(("topology", "factor"), [("centralized", 2), ("local", 2), ("federated", 6)])
def test_the_plan_counts_epochs_and_rounds(topology, factor):
    assert plans(private_arm(TOPOLOGIES[topology]), [40]) == [Plan(0.2, 5 * factor, 40)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_training_executes_the_plan_for_every_owner(topology):
    sizes = [40] if topology == "centralized" else [40, 23, 5]
    arm = private_arm(TOPOLOGIES[topology])
    owned = [some(size, start=50 * owner) for owner, size in enumerate(sizes)]
    test = digits()[1].select(digits()[1].labels < 3)
    outcome = train(arm, owned, [1.0] * len(sizes), test, classes=10, rng=Randomness(1), report=lambda row: None)
    executed = [[(event.sample_rate, event.steps) for event in own] for own in outcome.events]
    assert executed == [[(plan.sample_rate, plan.steps)] for plan in plans(arm, sizes)]
    assert [plan.out_of for plan in plans(arm, sizes)] == sizes
