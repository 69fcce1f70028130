"""The possible meanings of a published epsilon, from the noise of its arm."""

from __future__ import annotations

import math

import pytest

from ppml.errors import UserError
from ppml.reporting.formatting import epsilon_bound

from ..accounting.reference import exact_epsilon_of_gaussians, renyi_epsilon_of_gaussians
from .made_up import COMPARE, TECHNIQUES, collect


@pytest.fixture
def paper(published):
    """Return the table for an arm with PRIVATE-AI's noise multiplier of 4 and its epsilon of 2.90."""
    collected = collect({"fl_dp": TECHNIQUES["fl_dp"]}, compare=[{"published": "private-ai/4/fl-dp", "arm": "fl_dp"}])
    collected.records["noise_multiplier"] = 4.0
    return collected.table("epsilon_interpretations", published)


def test_steps_without_sampling_approximate_published_epsilon(paper):
    (row,) = paper.raw.to_dict("records")
    for name, reference in (("exact", exact_epsilon_of_gaussians), ("rdp", renyi_epsilon_of_gaussians)):
        gaps = {steps: abs(reference(4.0, steps, 1e-5) - 2.9) for steps in range(1, 30)}
        assert row[f"unsampled_steps_{name}"] == min(gaps, key=gaps.__getitem__)
        assert row[f"unsampled_epsilon_{name}"] == pytest.approx(2.9, abs=min(gaps.values()) + 0.001)
    assert (row["unsampled_steps_exact"], row["unsampled_steps_rdp"]) == (8, 7)
    assert paper.cells["Steps without sampling for their ε"][0] == "8 (exact: 2.95), 7 (RDP: 2.96)"


def test_row_has_epsilon_of_every_accountant(paper):
    (row,) = paper.raw.to_dict("records")
    shown = dict(part.split() for part in paper.cells["ε of all steps"][0].split(", "))
    assert list(shown) == ["RDP", "PRV", "PLD"]
    assert all(float(shown[name]) >= row[f"epsilon_{name.lower()}"] for name in shown)


def test_rows_are_private_arms_with_published_epsilon(techniques, published):
    raw = techniques.table("epsilon_interpretations", published).raw
    assert list(zip(raw["published"], raw["arm"], strict=True)) == [
        ("private-ai/1/ml-dp", "dp"),
        ("private-ai/4/fl-dp", "fl_dp"),
    ]


@pytest.mark.parametrize(
    ("compare", "problem"),
    [([COMPARE[4]], "no private arm answers a published epsilon"), ([], "no published row of .* names an arm")],
)
def test_table_without_private_arm_is_refused(published, compare, problem):
    with pytest.raises(UserError, match=problem):
        collect({"fl": TECHNIQUES["fl"]}, compare=compare).table("epsilon_interpretations", published)


@pytest.mark.parametrize("value", [2.896, 2.9, 2.9000001, 2.904, 0.0123456, 99.999, 12345.6, 9.996])
def test_epsilon_is_rounded_up(value):
    shown = float(epsilon_bound(value).replace(",", ""))
    assert value <= shown <= value + 10 ** (math.floor(math.log10(value)) - 2) + 1e-9 or shown == math.ceil(value)
