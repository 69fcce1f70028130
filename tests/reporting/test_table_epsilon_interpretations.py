"""What a published epsilon can mean, computed from the noise of the arm that answers it."""

from __future__ import annotations

import math

import pytest

from ppml.errors import UserError
from ppml.reporting.formatting import epsilon_bound
from ppml.reporting.literature import load_published
from ppml.reporting.table_epsilon_interpretations import epsilon_interpretations_table

from ..accounting.reference import exact_epsilon_of_gaussians, renyi_epsilon_of_gaussians
from .made_up import COMPARE, TECHNIQUES, collect


def table(collected, published_path):
    return epsilon_interpretations_table(
        collected.view, collected.records, collected.costs, collected.joint, load_published(published_path)
    )


@pytest.fixture
def paper(published_path):
    """Return the table for an arm at PRIVATE-AI's noise multiplier of 4 beside its epsilon of 2.90."""
    collected = collect({"fl_dp": TECHNIQUES["fl_dp"]}, compare=[{"published": "private-ai/4/fl-dp", "arm": "fl_dp"}])
    collected.records["noise_multiplier"] = 4.0
    return table(collected, published_path)


def test_steps_without_sampling_come_nearest_to_the_published_epsilon(paper):
    (row,) = paper.raw.to_dict("records")
    for name, reference in (("exact", exact_epsilon_of_gaussians), ("rdp", renyi_epsilon_of_gaussians)):
        gaps = {steps: abs(reference(4.0, steps, 1e-5) - 2.9) for steps in range(1, 30)}
        assert row[f"unsampled_steps_{name}"] == min(gaps, key=gaps.__getitem__)
        assert row[f"unsampled_epsilon_{name}"] == pytest.approx(2.9, abs=min(gaps.values()) + 0.001)
    assert (row["unsampled_steps_exact"], row["unsampled_steps_rdp"]) == (8, 7)
    assert paper.cells["Steps without sampling for their ε"][0] == "8 (exact: 2.95), 7 (RDP: 2.96)"


def test_our_epsilon_stands_there_by_every_accountant_that_has_one_and_never_rounded_down(paper):
    (row,) = paper.raw.to_dict("records")
    shown = dict(part.split() for part in paper.cells["ε of all steps"][0].split(", "))
    assert list(shown) == ["RDP", "PRV", "PLD"]
    assert all(float(shown[name]) >= row[f"epsilon_{name.lower()}"] for name in shown)


def test_rows_are_the_private_arms_that_answer_an_epsilon(techniques, published_path):
    raw = table(techniques, published_path).raw
    assert list(zip(raw["published"], raw["arm"], strict=True)) == [
        ("private-ai/1/ml-dp", "dp"),
        ("private-ai/4/fl-dp", "fl_dp"),
    ]


def test_without_a_private_answer_there_is_no_table(published_path):
    with pytest.raises(UserError, match="no private arm answers a published epsilon"):
        table(collect({"fl": TECHNIQUES["fl"]}, compare=[COMPARE[4]]), published_path)


@pytest.mark.parametrize("value", [2.896, 2.9, 2.9000001, 2.904, 0.0123456, 99.999, 12345.6, 9.996])
def test_a_shown_epsilon_is_never_below_the_true_one_and_hardly_above(value):
    shown = float(epsilon_bound(value).replace(",", ""))
    assert value <= shown <= value + 10 ** (math.floor(math.log10(value)) - 2) + 1e-9 or shown == math.ceil(value)
