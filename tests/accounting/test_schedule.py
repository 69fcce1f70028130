"""Training follows the schedule of the calibration, in every topology."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.accounting.schedule import MechanismSchedule, mechanism_schedules, poisson_schedule
from ppml.config.arm import Arm
from ppml.contract import DataContract
from ppml.randomness import Randomness
from ppml.training import train

from ..learning.digits import digits, some

CONTRACT = DataContract(shape=(1, 28, 28), classes=10)
TOPOLOGIES = {
    "centralized": {"kind": "centralized"},
    "local": {"kind": "independent", "partition": "three"},
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


@given(examples=st.integers(1, 100_000), batch_size=st.integers(1, 100_000))
@settings(deadline=None, derandomize=True)
def test_schedule_covers_the_examples_about_once(examples, batch_size):
    rate, steps = poisson_schedule(examples, batch_size)
    assert 0 < rate <= 1
    assert rate == batch_size / examples or batch_size >= examples
    assert steps >= 1
    assert abs(rate * steps - 1) <= rate / 2 + 1e-9


@pytest.mark.parametrize("examples", [1, 93, 60_000])
def test_full_batch_is_one_step_per_epoch(examples):
    assert poisson_schedule(examples, "all") == (1.0, 1)


@pytest.mark.parametrize(("topology", "factor"), [("centralized", 2), ("local", 2), ("federated", 6)])
def test_schedule_counts_epochs_and_rounds(topology, factor):
    assert mechanism_schedules(private_arm(TOPOLOGIES[topology]), [40]) == [MechanismSchedule(0.2, 5 * factor, 40)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_training_executes_the_schedule_of_every_owner(topology):
    sizes = [40] if topology == "centralized" else [40, 23, 5]
    arm = private_arm(TOPOLOGIES[topology])
    owned = [some(size, start=50 * owner) for owner, size in enumerate(sizes)]
    test = digits()[1].select(digits()[1].labels < 3)
    outcome = train(arm, owned, [1.0] * len(sizes), test, contract=CONTRACT, rng=Randomness(1), report=lambda row: None)
    schedules = mechanism_schedules(arm, sizes)
    executed = [[(event.sample_rate, event.steps) for event in own] for own in outcome.events]
    assert executed == [[(one.sample_rate, one.steps)] for one in schedules]
    assert [one.population for one in schedules] == sizes
