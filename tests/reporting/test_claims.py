"""Verdicts on made-up numbers: each claim holds, fails, or is undecided."""

import json

import pytest

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.statistics import difference
from ppml.reporting.table_claims import KEPT, findings
from ppml.reporting.writers import to_latex, to_markdown

from .made_up import MadeUpArm, collect

ARMS = {
    "none": MadeUpArm("No privacy", 0.98),
    "eps10": MadeUpArm("ε 10", 0.94, epsilon=10),
    "eps1": MadeUpArm("ε 1", 0.80, epsilon=1),
    "eps5": MadeUpArm("ε 5", 0.91, epsilon=5),
}
STARTS = {"none": 0.93, "eps10": 0.80, "eps5": 0.70, "eps1": 0.40}


def anonymizer(criterion, final=None, starts=None, *, seeds=1):
    """Return four arms with accuracies from ``starts`` to ``final`` in four epochs, and one claim about them."""
    final = {name: arm.accuracy for name, arm in ARMS.items()} | (final or {})
    starts = STARTS | (starts or {})
    collected = collect(ARMS, seeds=seeds)
    records, history = collected.records, collected.history
    drift = 0.001 * records["seed"]
    records["accuracy_all"] = records["arm"].map(final) + drift
    history = history[history["step"].between(1, 4)].copy()
    share = (history["step"] - 1) / 3
    history["accuracy"] = (1 - share) * history["arm"].map(starts) + share * history["arm"].map(final)
    history["accuracy"] += 0.001 * history["seed"]
    claim = {"quote": "They say so.", "criterion": criterion, "arms": list(ARMS)}
    others = {name: arm.label for name, arm in ARMS.items() if name != "none"}
    given = {"title": "Claims", "arms": {"none": "No privacy"}, "claims": [claim], "others": others}
    collected.view, collected.history = ExperimentView.model_validate_json(json.dumps(given)), history
    return collected


def found(*given, **named):
    collected = anonymizer(*given, **named)
    return findings(collected.view, collected.records, collected.history)[0]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("criterion", "final", "starts", "verdict"),
    [
        ("rises_with_epsilon", {}, {}, "held"),
        ("rises_with_epsilon", {"eps10": 0.90}, {}, "not held"),
        ("rises_with_epsilon", {"none": 0.93}, {}, "not held"),
        ("starts_higher", {}, {}, "held"),
        ("starts_higher", {}, {"eps10": 0.96}, "not held"),
        ("trains_easier", {}, {}, "held"),
        ("trains_easier", {"eps10": 0.995}, {}, "not held"),
        ("starts_low_and_improves", {}, {}, "held"),
        ("starts_low_and_improves", {}, {"eps1": 0.75}, "not held"),
        ("starts_low_and_improves", {"eps5": 0.60}, {}, "not held"),
        ("keeps_accuracy", {"eps1": 0.90}, {}, "held"),
        ("keeps_accuracy", {}, {}, "not held"),
    ],
)
def test_verdict_follows_numbers(criterion, final, starts, verdict, seeds):
    assert found(criterion, final, starts, seeds=seeds).verdict == verdict


@pytest.mark.parametrize(
    ("criterion", "final", "starts"),
    [
        ("rises_with_epsilon", {"eps10": 0.911}, {}),
        ("starts_higher", {}, {"eps10": 0.925}),
        ("trains_easier", {"eps10": 0.979}, {}),
        ("starts_low_and_improves", {}, {"eps1": 0.69}),
        ("keeps_accuracy", {"eps1": KEPT * 0.98 + 0.002}, {}),
    ],
)
def test_small_difference_is_undecided(criterion, final, starts):
    assert found(criterion, final, starts).verdict == "undecided"


def test_criterion_makes_all_comparisons():
    assert [len(found(criterion).comparisons) for criterion in ("rises_with_epsilon", "starts_higher")] == [3, 3]
    assert len(found("trains_easier").comparisons) == 3 * 4
    assert [comparison.text().split(":")[0] for comparison in found("starts_low_and_improves").comparisons] == [
        "ε 5 over ε 1, epoch 1",
        "ε 10 over ε 5, epoch 1",
        "ε 1, epoch 4 over epoch 1",
        "ε 5, epoch 4 over epoch 1",
        "ε 10, epoch 4 over epoch 1",
    ]


@pytest.mark.parametrize(
    ("first", "second", "trials", "published"),
    [(9 / 10, 3 / 10, 10, (0.1705, 0.8090)), (6 / 7, 2 / 7, 7, (0.0582, 0.8062))],
)
def test_one_seed_has_newcombes_interval(first, second, trials, published):
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10.
    result = difference([first], [second], trials=trials)
    assert result.kind == "wilson"
    assert (round(result.low, 4), round(result.high, 4)) == published


def test_several_seeds_are_compared_seed_by_seed():
    together = difference([0.90, 0.80, 0.70], [0.89, 0.79, 0.69], trials=2000)
    assert (together.low, together.value, together.high) == pytest.approx((0.01, 0.01, 0.01))
    crossed = difference([0.90, 0.80, 0.70], [0.69, 0.79, 0.89], trials=2000)
    assert crossed.low < 0 < crossed.high


def test_only_common_seeds_are_compared():
    collected = anonymizer("rises_with_epsilon", seeds=3)
    one = collected.records["arm"] != "none"
    collected.records = collected.records[~one | (collected.records["seed"] == 2)]
    result = findings(collected.view, collected.records, collected.history)[0]
    assert {comparison.difference.n for comparison in result.comparisons} == {1}
    collected.records = collected.records[~((collected.records["arm"] == "none") & (collected.records["seed"] == 2))]
    with pytest.raises(UserError, match="no seed in common"):
        findings(collected.view, collected.records, collected.history)


def test_arms_with_other_images_are_refused():
    collected = anonymizer("keeps_accuracy")
    collected.records.loc[collected.records["arm"] == "eps1", "n_test_all"] = 500
    with pytest.raises(UserError, match="n_test_all differs between"):
        findings(collected.view, collected.records, collected.history)


def test_row_has_quote_criterion_numbers_and_verdict():
    collected = anonymizer("keeps_accuracy")
    table = collected.table("claims")
    row = table.cells.iloc[0]
    assert row["Claim"] == '"They say so."'
    assert row["Verdict"] == "not held"
    assert "kept: 81.6 %" in row["Ours (%; differences in points)"]
    assert "90 %" in row["Our criterion"]
    notes = " ".join(table.notes)
    assert "n = 1 seeds" not in notes and "n = 1 seed;" in notes and "Newcombe" in notes and "10,000" in notes
    assert table.raw["verdict"].tolist() == ["not held"] and table.raw["high"].iloc[0] < 0
    assert "They say so." in to_markdown(table) and to_latex(table).isascii()


def test_weakest_of_many_comparisons_is_shown():
    collected = anonymizer("trains_easier")
    table = collected.table("claims")
    figures = table.cells.iloc[0]["Ours (%; differences in points)"]
    assert figures.startswith("12 of 12 differences above 0; the smallest lower end: No privacy over ")
    assert len(table.raw) == 12


def test_table_without_claim_is_refused():
    with pytest.raises(UserError, match="has none"):
        collect(ARMS).table("claims")
