"""The epsilons of the accountants have the proven order: exact, PLD, the upper end of the bracket of PRV, RDP."""

from __future__ import annotations

import itertools

import pytest

from ppml.accounting import pld, prv
from ppml.accounting.cross_check import epsilons_by_accountant, select_epsilon, stated_epsilon
from ppml.accounting.events import MechanismEvent

ROUNDING = 1e-6
FULL = list(itertools.product([1.0], [1.5, 40.0], [1, 60], [1e-11, 1e-5, 0.1]))
SAMPLED = [
    (0.1, 0.8, 20, 1e-5),
    (0.1, 4.0, 1, 1e-9),
    (0.5, 2.0, 60, 1e-5),
    (0.01, 0.6, 200, 1e-5),
    (0.01, 3.0, 1000, 1e-3),
    (0.3, 1.0, 3, 0.1),
    (0.001, 1.0, 50, 1e-11),
    (0.9, 30.0, 10, 1e-9),
]


def check_order(found: dict[str, float | None]) -> None:
    exact, by_pld, by_prv, by_rdp = (found[name] for name in ("gdp", "pld", "prv", "rdp"))
    assert by_pld is not None and by_prv is not None and by_rdp is not None
    assert by_pld <= by_prv + ROUNDING
    assert by_prv <= by_pld + 2 * prv.ERROR
    assert by_pld <= by_rdp + ROUNDING
    assert by_prv <= by_rdp + 2 * prv.ERROR
    if exact is not None:
        assert exact - ROUNDING <= by_pld <= exact + pld.ERROR
    # The stated epsilon is the tightest of them.
    tightest, name = select_epsilon(found, "tightest")
    assert tightest == found[name] == (by_pld if exact is None else exact)


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), [*FULL, *SAMPLED])
def test_accountants_are_in_their_proven_order(rate, noise, steps, delta):
    events = [MechanismEvent(rate, noise, steps, 1.0)]
    found = epsilons_by_accountant(events, delta)
    assert (found["gdp"] is None) == (rate < 1)
    check_order(found)
    assert stated_epsilon(events, delta, "tightest") == select_epsilon(found, "tightest")


@pytest.mark.parametrize(
    ("name", "factor"), [("pld", 0.97), ("pld", 1.02), ("prv", 0.97), ("prv", 1.05), ("rdp", 0.9), ("gdp", 1.02)]
)
def test_check_detects_a_wrong_accountant(name, factor):
    found = epsilons_by_accountant([MechanismEvent(1.0, 1.5, 4, 1.0)], 1e-5)
    check_order(found)
    with pytest.raises(AssertionError):
        check_order({**found, name: factor * found[name]})
