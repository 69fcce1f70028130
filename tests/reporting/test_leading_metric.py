"""Tables and figures lead with the metric of the experiment."""

import dataclasses

import numpy as np
import pytest

from ppml.reporting.figure_confusion import shares

from .made_up import COMPARE, TECHNIQUES, collect

TABLE_ROWS = {name: dataclasses.replace(arm, dataset="adult", data_kind="table") for name, arm in TECHNIQUES.items()}


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "worst_class_recall", "auc"])
def test_summary_has_the_metric_before_accuracy(metric):
    made = collect(TABLE_ROWS, metric=metric)
    found = made.table("summary")
    leading, accuracy = found.headings[1], next(one for one in found.headings if one.startswith("Accuracy"))
    assert found.headings.index(leading) < found.headings.index(accuracy)
    mean = 100 * made.records.groupby("arm", sort=False)[metric].mean()
    cells = [float(cell.split()[0]) for cell in found.cells[leading]]
    assert cells == pytest.approx(mean.tolist(), abs=0.006)
    assert found.raw["score_mean"].tolist() == pytest.approx((mean / 100).tolist())


def test_accuracy_alone_has_no_further_column():
    headings = collect(TECHNIQUES).table("summary").headings
    assert sum(heading.startswith("Accuracy") for heading in headings) == 2


def test_all_test_examples_have_one_column():
    headings = collect(TECHNIQUES, n_test=500, n_test_all=500).table("summary").headings
    assert [heading for heading in headings if heading.startswith("Accuracy")] == ["Accuracy, all 500 (%)"]


def test_interval_of_one_seed_is_that_of_the_row():
    made = collect(TABLE_ROWS, metric="auc", seeds=1)
    raw = made.table("summary").raw
    assert raw["score_low"].tolist() == pytest.approx(made.records["auc_low"].tolist())
    assert set(raw["score_interval"]) == {"examples"}


def test_figure_shows_the_metric_and_no_published_accuracy(published):
    made = collect(TABLE_ROWS, metric="macro_f1", compare=COMPARE)
    drawn = made.figure("privacy_utility", published)
    texts = [text.get_text() for text in drawn.findobj(lambda one: hasattr(one, "get_text"))]
    assert any("Macro-F1 on all 10,000 test rows" in text for text in texts)
    assert not any("PRIVATE-AI" in text for text in texts)


def test_recommendation_ranks_by_the_metric():
    made = collect(TABLE_ROWS, metric="macro_f1")
    plain = made.table("recommendations").raw
    private = made.records["arm"] == "dp"
    made.records.loc[private, "macro_f1"] = 0.1
    changed = made.table("recommendations").raw
    found = changed.loc[changed["arm"] == "dp", "score"]
    assert found.tolist() == pytest.approx([0.1] * len(found)) and plain.loc[plain["arm"] == "dp", "score"].min() > 0.9
    assert "Macro-F1 (%)" in made.table("recommendations").headings


def test_tables_of_rows_do_not_speak_of_images():
    for kind in ("summary", "recommendations", "classes", "threats"):
        notes = " ".join(collect(TABLE_ROWS).table(kind).notes)
        assert "image" not in notes, kind


def test_recall_of_each_class_is_a_row():
    made = collect(TECHNIQUES, classes=4)
    made.classes.loc[made.classes["class"] == "class 3", ["recall", "f1"]] = np.nan
    found = made.table("classes")
    assert found.cells["Class"].tolist() == [f"class {label}" for label in range(4)]
    assert found.cells["FL"].tolist()[3] == "—"
    mean = 100 * made.classes[(made.classes["arm"] == "fl") & (made.classes["class"] == "class 1")]["recall"].mean()
    assert float(found.cells["FL"][1].split()[0]) == pytest.approx(mean, abs=0.006)


def test_confusion_rows_are_shares_of_the_true_class():
    made = collect(TECHNIQUES, classes=3)
    rows = made.confusion[made.confusion["arm"] == "fl"]
    found = shares(rows[rows["true"] != "class 2"], ["class 0", "class 1", "class 2"])
    assert found[:2].sum(axis=1) == pytest.approx([1, 1]) and np.isnan(found[2]).all()
    assert found[0, 0] > 0.9
    drawn = made.figure("confusion")
    assert drawn.axes[0].get_title(loc="left") == "Centralized"


def test_wrong_predictions_are_in_parentheses():
    drawn = collect(TECHNIQUES).figure("predictions")
    texts = [text.get_text() for ax in drawn.axes for text in ax.texts]
    assert texts.count("(class 1)") == len(TECHNIQUES) and texts.count("class 0") == len(TECHNIQUES) + 2


def test_duplicates_and_large_units_are_stated():
    plain = " ".join(collect(TABLE_ROWS).table("summary").notes)
    assert "inputs of a training example" not in plain and "unit, for instance a person" not in plain
    arms = {name: dataclasses.replace(arm, duplicates=12, largest_unit=7) for name, arm in TABLE_ROWS.items()}
    notes = " ".join(collect(arms).table("summary").notes)
    assert "12 of 10,000 test examples" in notes and "up to 7 training rows" in notes
    public = {"fl": dataclasses.replace(arms["fl"], epsilon=None)}
    assert "training rows:" not in " ".join(collect(public).table("summary").notes)
