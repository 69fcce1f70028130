"""The tables summary and published, and their formats."""

import dataclasses
import io
import math

import pandas as pd
import pytest

from ppml.errors import UserError
from ppml.reporting.writers import to_csv, to_latex, to_markdown

from .made_up import COMPARE, TECHNIQUES, MadeUpArm, collect


@pytest.fixture
def published_cells(techniques, published):
    return techniques.table("published", published)


def test_summary_shows_mean_and_deviation_of_both_test_sets(techniques):
    cells = techniques.table("summary").cells.set_index("Technique")
    runs = techniques.records[techniques.records["arm"] == "fl_dp_he"]
    for column, heading in (("accuracy", "first 2,000"), ("accuracy_all", "all 10,000")):
        shown = f"{100 * runs[column].mean():.2f} ± {100 * runs[column].std(ddof=1):.2f}"
        assert cells.loc["FL + DP + HE", f"Accuracy, {heading} (%)"] == shown
    assert list(cells.index) == [arm.label for arm in TECHNIQUES.values()]
    assert (cells["Seeds"] == "3").all()


def test_summary_shows_guarantee_and_cost(techniques):
    cells = techniques.table("summary").cells.set_index("Technique")
    private, public = cells.loc["FL + DP + HE"], cells.loc["Centralized"]
    assert private["ε"] == "2.90"
    assert private["Unit; δ; accountant; noise"] == "example; 1e-5; PRV; local, seeded"
    assert private["Upload, client and round"] == "1.13 MB"
    assert private["Expansion"] == "10.9\N{MULTIPLICATION SIGN}"
    assert cells.loc["FL", "Upload, client and round"] == "105 KB"
    assert (public["ε"], public["Expansion"], public["Unit; δ; accountant; noise"]) == ("∞", "—", "—")


def test_epsilon_is_the_largest_over_seeds(techniques):
    records = techniques.records
    records.loc[(records["arm"] == "dp") & (records["seed"] == 1), "epsilon"] = 3.14
    assert techniques.table("summary").cells.set_index("Technique").loc["Centralized + DP", "ε"] == "3.14"


def test_single_seed_has_binomial_interval():
    table = collect(TECHNIQUES, seeds=1).table("summary")
    row = table.raw.set_index("arm").loc["dp"]
    low, high = 100 * row["accuracy_low"], 100 * row["accuracy_high"]
    shown = table.cells.set_index("Technique").loc["Centralized + DP", "Accuracy, first 2,000 (%)"]
    assert shown == f"{100 * row['accuracy_mean']:.2f} [{low:.2f}, {high:.2f}]"
    assert row["accuracy_interval"] == "wilson"
    notes = "\n".join(table.notes)
    assert "Wilson" in notes and "±" not in notes


def test_notes_explain_the_numbers(techniques):
    notes = "\n".join(techniques.table("summary").notes)
    for part in (
        "MNIST, 10,000 training images",
        "± is the standard deviation over seeds (n - 1)",
        "δ 1e-5",
        "accountant: PRV",
        "replaced by a null example that contributes 0; the number of examples is public",
        "each party draws from its own seed",
        "mean over the clients' models",
    ):
        assert part in notes
    assert "FALLBACK" not in notes and "†" not in notes


def test_notes_name_held_out_images(techniques):
    techniques.records["evaluated_on"] = "holdout"
    notes = "\n".join(techniques.table("summary").notes)
    assert "held-out training images" in notes and "test" not in notes


def test_notes_name_fallback_data():
    digits = {name: dataclasses.replace(arm, dataset="digits") for name, arm in TECHNIQUES.items()}
    sizes = {"n_train": 1200, "n_test": 500, "n_test_all": 597}
    table = collect(digits, fallback=True, **sizes).table("summary")
    assert any("FALLBACK DATA" in note and "not comparable" in note for note in table.notes)
    assert "Accuracy, all 597 (%)" in table.cells.columns
    assert "FALLBACK" not in "".join(collect(digits, **sizes).table("summary").notes)


def test_large_delta_has_dagger_and_footnote():
    arms = {
        "weak": MadeUpArm("Weak", 0.9, "federated", 2.9, "plaintext", 8, "iid-8", delta=1 / 1250),
        "fine": MadeUpArm("Fine", 0.9, epsilon=2.9),
    }
    table = collect(arms).table("summary")
    cells = table.cells.set_index("Technique")
    assert cells.loc["Weak", "ε"] == "2.90†"
    assert "0.0008†" in cells.loc["Weak", "Unit; δ; accountant; noise"]
    assert "†" not in "".join(cells.loc["Fine"])
    footnote = next(note for note in table.notes if note.startswith("†"))
    assert "Weak: δ 0.0008, n = 1,250" in footnote and "Fine" not in footnote


def test_published_row_has_our_numbers(published_cells, techniques):
    row = published_cells.cells.iloc[5]
    assert row["Paper"] == "PRIVATE-AI" and row["Table"] == "4"
    assert row["Accuracy (%)"] == "81.5" and row["ε"] == "2.90"
    assert row["Ours"] == "FL + DP"
    ours = techniques.records[techniques.records["arm"] == "fl_dp"]["accuracy"]
    assert row["First 2,000 (%)"] == f"{100 * ours.mean():.2f} ± {100 * ours.std(ddof=1):.2f}"
    assert row["Sent a round"] == "1.68 MB"
    assert published_cells.cells.iloc[3]["Accuracy (%)"] == "62.0 ± 6.0"


def test_published_row_without_an_arm_is_marked(published_cells):
    row = published_cells.cells.iloc[2]
    assert row["Ours"] == "— ‡"
    empty = ["First 2,000 (%)", "All 10,000 (%)", "Seeds", "Our ε", "CPU time a run (s)", "Sent a round"]
    assert (row[empty] == "—").all()
    assert "‡ not yet in this project." in published_cells.notes


def test_row_without_number_was_never_reported(published_cells):
    row = published_cells.cells.iloc[-1]
    assert row["Accuracy (%)"] == "never reported"
    assert row["Ours"] == "FL + DP + HE" and "±" in row["All 10,000 (%)"]


def test_equal_notes_have_one_number(published_cells):
    technique = published_cells.cells["Technique"]
    assert technique[3].endswith("[3]") and technique[4].endswith("[3]")
    assert sum(note.startswith("[3]") for note in published_cells.notes) == 1


def test_rows_without_arm_have_their_source(techniques, published):
    techniques.view = techniques.view.model_copy(update={"published": ("dpsur/1", "opacus/1.16/cnn")})
    table = techniques.table("published", published)
    paper = table.cells.iloc[-2]
    assert (paper["Paper"], paper["Accuracy (%)"], paper["Ours"]) == ("Fu et al. 2024", "97.9", "—")
    assert len(table.cells) == len(table.raw) == len(COMPARE) + 2
    assert table.raw["their_accuracy"].iloc[-1] == 0.9463
    sources = next(note for note in table.notes if note.startswith("Sources:"))
    assert "arXiv:2311.14056 (60,000 training images), ε disputed by arXiv:2606.04384" in sources
    assert "opacus/blob/main/examples/mnist_README.md" in sources


def test_unknown_published_row_is_named(techniques):
    with pytest.raises(UserError, match="unknown published row 'private-ai/1/ml-only'"):
        techniques.table("published", {})


def test_published_table_needs_an_arm(published):
    collected = collect(TECHNIQUES, compare=[COMPARE[2]])
    with pytest.raises(UserError, match="names an arm"):
        collected.table("published", published)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("dataset", "digits", "dataset differs between seeds: mnist, digits"), ("seed", 0, "two rows for seed 0")],
)
def test_inconsistent_rows_are_refused(techniques, column, value, message):
    records = techniques.records
    records.loc[(records["arm"] == "fl") & (records["seed"] == 1), column] = value
    with pytest.raises(UserError, match=message):
        techniques.table("summary")


def test_csv_holds_raw_numbers(published_cells, techniques):
    raw = pd.read_csv(io.StringIO(to_csv(published_cells)), keep_default_na=False, na_values=[""])
    assert list(raw["published"]) == [row["published"] for row in COMPARE]
    row = raw.set_index("arm").loc["fl_dp"]
    mine = techniques.records[techniques.records["arm"] == "fl_dp"]
    assert row["accuracy_all_mean"] == pytest.approx(mine["accuracy_all"].mean(), rel=1e-15)
    assert row["their_accuracy"] == 0.815
    assert math.isinf(raw.set_index("arm").loc["fl", "epsilon"])


def test_markdown_is_a_table_with_notes(techniques):
    lines = to_markdown(techniques.table("summary")).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert lines[0] == "### Techniques"
    assert len(table) == 2 + len(TECHNIQUES)
    assert len({line.count("|") for line in table}) == 1
    assert any(line.startswith("- Data: MNIST") for line in lines)


def test_latex_specials_are_escaped():
    arms = {"odd": MadeUpArm(r"50 % of {a_b} & $c^2 # ~ \d <e> [f]", 0.9, epsilon=2.9)}
    text = to_latex(collect(arms, title="100 % & more").table("summary"))
    assert r"\caption{100 \% \& more}" in text
    odd = r"50 \% of \{a\_b\} \& \$c\textasciicircum{}2 \# \textasciitilde{} \textbackslash{}d"
    assert rf"{odd} \textless{{}}e\textgreater{{}} {{[}}f{{]}} & " in text
    assert r"\toprule" in text and r"\bottomrule" in text
    assert text.isascii()


def test_latex_rows_have_all_columns(published_cells):
    text = to_latex(published_cells)
    columns = len(published_cells.cells.columns)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(COMPARE)
    assert {line.count(" & ") for line in rows} == {columns - 1}
    assert "never reported" in text
