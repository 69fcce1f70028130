"""Models of the same records, released together."""

from __future__ import annotations

import pytest

from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.joint import joint_epsilon
from ppml.results.joint import JOINT, joint, key, release


def privacy(noise, steps, *, mechanism="m", rate=1.0, unit="example", delta=1e-5):
    """Return what the stage account says of a run."""
    event = MechanismEvent(rate, noise, steps, 0.1)
    by = "gdp" if rate == 1 else "rdp"
    return {
        "unit": unit,
        "epsilon": epsilon([event], delta, by),
        "delta": delta,
        "accountant": by,
        "mechanism": mechanism,
        "max_grad_norm": 0.1,
        "dominating": [{"sample_rate": rate, "noise_multiplier": noise, "steps": steps}],
    }


def runs(**arms):
    """Return the releases of runs, each a list of privacy statements, a seed each."""
    found = [(arm, seed, one) for arm, said in arms.items() for seed, one in enumerate(said)]
    return [one for arm, seed, said in found if (one := release(arm, seed, said))]


def rows(releases, *tables):
    return {row["arms"]: row for row in joint(releases, tables, joint_epsilon)}


@pytest.mark.parametrize(("alone", "together"), [(0.563, 1.36), (2.9, 7.39), (10.0, 28.4)])
def test_five_seeds_of_an_arm_spend_what_their_composition_does(alone, together):
    noise, steps = {0.563: (39.888, 40), 2.9: (14.328, 100), 10.0: (5.0, 100)}[alone]
    row = rows(runs(dp=[privacy(noise, steps)] * 5))["dp"]
    assert row["epsilon"] == pytest.approx(together, rel=3e-3)
    assert (row["releases"], row["unit"], row["delta"], row["accountant"]) == (5, "example", 1e-5, "gdp")
    assert list(row) == list(JOINT)


def test_one_model_has_the_epsilon_that_is_stated_of_it():
    said = privacy(2.0, 30, rate=0.1)
    row = rows(runs(dp=[said]))["dp"]
    assert (row["epsilon"], row["accountant"], row["releases"]) == (said["epsilon"], "rdp", 1)


def test_arms_of_a_table_are_composed_and_arms_without_privacy_are_left_out():
    two = runs(dp=[privacy(10.0, 40)], strict=[privacy(40.0, 40, mechanism="n")])
    bare = release("plain", 0, {"unit": "none", "noise_by": "none", "epsilon": None})
    assert bare is None
    found = rows(two, ["dp", "strict", "plain"], ["plain"])
    assert set(found) == {"dp", "strict", "dp strict"}
    both = (MechanismEvent(1.0, 10.0, 40, 0.1), MechanismEvent(1.0, 40.0, 40, 0.1))
    assert found["dp strict"]["epsilon"] == pytest.approx(epsilon(both, 1e-5, "gdp"), rel=1e-6)
    assert found["dp strict"]["epsilon"] > max(found["dp"]["epsilon"], found["strict"]["epsilon"])


def test_arms_that_differ_in_aggregation_alone_release_the_same_models_which_count_once():
    said = [privacy(14.328, 100)] * 3
    found = rows(runs(fl=said, fl_he=said), ["fl", "fl_he"])
    assert found["fl fl_he"]["epsilon"] == found["fl"]["epsilon"]
    assert found["fl fl_he"]["releases"] == 3
    # Of noise from the operating system each run is another release.
    secure = runs(fl=[privacy(14.328, 100, mechanism="a")], fl_he=[privacy(14.328, 100, mechanism="b")])
    apart = rows(secure, ["fl", "fl_he"])
    assert apart["fl fl_he"]["epsilon"] > apart["fl"]["epsilon"] and apart["fl fl_he"]["releases"] == 2


def test_a_release_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"arm dp, seed 0: privacy\.json names no mechanism"):
        release("dp", 0, privacy(1.0, 1, mechanism=None))


def test_the_joint_delta_is_the_largest():
    found = rows(runs(a=[privacy(20.0, 10, delta=1e-6)], b=[privacy(20.0, 10, mechanism="n", delta=1e-4)]), ["a", "b"])
    assert (found["a b"]["delta"], found["a b"]["deltas"]) == (1e-4, 2)


def test_a_client_is_the_unit_only_of_arms_that_all_protect_clients():
    client = privacy(8.0, 30, unit="client")
    found = rows(runs(c=[client], d=[privacy(8.0, 20, mechanism="n", unit="client")]), ["c", "d"])
    assert {row["unit"] for row in found.values()} == {"client"}
    mixed = rows(runs(c=[client], e=[privacy(10.0, 40, mechanism="n")]), ["c", "e"])["c e"]
    # Another record moves the contribution of its client by up to twice the norm.
    expected = epsilon((MechanismEvent(1.0, 4.0, 30, 0.1), MechanismEvent(1.0, 10.0, 40, 0.1)), 1e-5, "gdp")
    assert mixed["unit"] == "example" and mixed["epsilon"] == pytest.approx(expected, rel=1e-6)


def test_the_sampling_of_clients_hides_no_record():
    mixed = rows(runs(c=[privacy(8.0, 30, unit="client", rate=0.1)], e=[privacy(10.0, 40, mechanism="n")]), ["c", "e"])
    unsampled = (MechanismEvent(1.0, 4.0, 30, 0.1), MechanismEvent(1.0, 10.0, 40, 0.1))
    assert mixed["c e"]["epsilon"] == pytest.approx(epsilon(unsampled, 1e-5, "gdp"), rel=1e-6)


def test_the_order_of_arms_makes_no_other_row():
    assert key(["b", "a", "b"]) == key(("a", "b")) == "a b"
