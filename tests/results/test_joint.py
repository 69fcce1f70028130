"""The joint epsilon of released models of the same examples."""

from __future__ import annotations

import pytest

from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.joint import joint_epsilon
from ppml.results.joint import JOINT_COLUMNS, joint_key, joint_rows, parse_release


def privacy(noise, steps, *, mechanism="m", rate=1.0, unit="example", delta=1e-5):
    """Return the privacy.json of a run."""
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
    """Return the releases of arms, each given by its privacy.json for every seed."""
    entries = [(arm, seed, one) for arm, statements in arms.items() for seed, one in enumerate(statements)]
    return [release for arm, seed, one in entries if (release := parse_release(arm, seed, one))]


def rows(releases, *tables):
    return {row["arms"]: row for row in joint_rows(releases, tables, joint_epsilon)}


@pytest.mark.parametrize(("single", "joint"), [(0.563, 1.36), (2.9, 7.39), (10.0, 28.4)])
def test_five_seeds_have_the_epsilon_of_their_composition(single, joint):
    noise, steps = {0.563: (39.888, 40), 2.9: (14.328, 100), 10.0: (5.0, 100)}[single]
    row = rows(runs(dp=[privacy(noise, steps)] * 5))["dp"]
    assert row["epsilon"] == pytest.approx(joint, rel=3e-3)
    assert (row["releases"], row["unit"], row["delta"], row["accountant"]) == (5, "example", 1e-5, "gdp")
    assert list(row) == list(JOINT_COLUMNS)


def test_one_model_has_its_stated_epsilon():
    statement = privacy(2.0, 30, rate=0.1)
    row = rows(runs(dp=[statement]))["dp"]
    assert (row["epsilon"], row["accountant"], row["releases"]) == (statement["epsilon"], "rdp", 1)


def test_private_arms_of_a_table_compose():
    two = runs(dp=[privacy(10.0, 40)], strict=[privacy(40.0, 40, mechanism="n")])
    public = parse_release("plain", 0, {"unit": "none", "noise_by": "none", "epsilon": None})
    assert public is None
    found = rows(two, ["dp", "strict", "plain"], ["plain"])
    assert set(found) == {"dp", "strict", "dp strict"}
    both = (MechanismEvent(1.0, 10.0, 40, 0.1), MechanismEvent(1.0, 40.0, 40, 0.1))
    assert found["dp strict"]["epsilon"] == pytest.approx(epsilon(both, 1e-5, "gdp"), rel=1e-6)
    assert found["dp strict"]["epsilon"] > max(found["dp"]["epsilon"], found["strict"]["epsilon"])


def test_arms_with_equal_mechanisms_count_once():
    statements = [privacy(14.328, 100)] * 3
    found = rows(runs(fl=statements, fl_he=statements), ["fl", "fl_he"])
    assert found["fl fl_he"]["epsilon"] == found["fl"]["epsilon"]
    assert found["fl fl_he"]["releases"] == 3
    # With noise from the operating system, each run is another release.
    secure = runs(fl=[privacy(14.328, 100, mechanism="a")], fl_he=[privacy(14.328, 100, mechanism="b")])
    separate = rows(secure, ["fl", "fl_he"])
    assert separate["fl fl_he"]["epsilon"] > separate["fl"]["epsilon"] and separate["fl fl_he"]["releases"] == 2


def test_release_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"arm dp, seed 0: privacy\.json names no mechanism"):
        parse_release("dp", 0, privacy(1.0, 1, mechanism=None))


def test_joint_delta_is_the_largest():
    found = rows(runs(a=[privacy(20.0, 10, delta=1e-6)], b=[privacy(20.0, 10, mechanism="n", delta=1e-4)]), ["a", "b"])
    assert (found["a b"]["delta"], found["a b"]["deltas"]) == (1e-4, 2)


def test_unit_is_the_client_only_if_all_arms_protect_clients():
    client = privacy(8.0, 30, unit="client")
    found = rows(runs(c=[client], d=[privacy(8.0, 20, mechanism="n", unit="client")]), ["c", "d"])
    assert {row["unit"] for row in found.values()} == {"client"}
    mixed = rows(runs(c=[client], e=[privacy(10.0, 40, mechanism="n")]), ["c", "e"])["c e"]
    # Without an example, the contribution of its client moves by up to twice the norm.
    expected = epsilon((MechanismEvent(1.0, 4.0, 30, 0.1), MechanismEvent(1.0, 10.0, 40, 0.1)), 1e-5, "gdp")
    assert mixed["unit"] == "example" and mixed["epsilon"] == pytest.approx(expected, rel=1e-6)


def test_sampling_of_clients_does_not_amplify_for_examples():
    mixed = rows(runs(c=[privacy(8.0, 30, unit="client", rate=0.1)], e=[privacy(10.0, 40, mechanism="n")]), ["c", "e"])
    unsampled = (MechanismEvent(1.0, 4.0, 30, 0.1), MechanismEvent(1.0, 10.0, 40, 0.1))
    assert mixed["c e"]["epsilon"] == pytest.approx(epsilon(unsampled, 1e-5, "gdp"), rel=1e-6)


def test_joint_key_is_independent_of_order():
    assert joint_key(["b", "a", "b"]) == joint_key(("a", "b")) == "a b"
