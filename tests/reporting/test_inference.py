"""The table of predictions on encrypted images."""

from __future__ import annotations

import pytest

from ppml.errors import UserError
from ppml.reporting.table_inference import inference_table
from ppml.reporting.table_summary import Table

from .made_up import Collected


def table(collected: Collected) -> Table:
    return inference_table(collected.selection, collected.records, collected.costs, collected.inferences)


def test_a_row_an_arm_says_what_was_right_what_it_cost_and_how_sure_it_is(techniques):
    (row,) = table(techniques).cells.to_dict("records")
    assert row["Technique"] == "Centralized" and row["Seeds"] == "3" and row["Images"] == "4,096"
    assert row["Accuracy, encrypted (%)"] == "98.90 ± 0.02"
    assert row["In the clear (%)"] == "98.93 ± 0.02"
    assert row["Must agree"] == "12,270 of 12,288" and row["Differ"] == "3"
    assert (row["Largest error"], row["Error over bound"]) == ("4.2e-04", "0.32")
    assert row["One image, client + server (s)"] == "0.040 + 0.16"
    # 4,096 images in 8 + 24 seconds of a core.
    assert row["Images an hour"] == "461,000"
    assert row["Up, down an image"] == "43.7 KB, 200 B"
    assert row["Ring"] == "N 8,192, 218 bits"


def test_notes_say_what_each_side_learns_and_that_training_is_not_encrypted(techniques):
    notes = " ".join(table(techniques).notes)
    for said in ("No circuit privacy", "can give its key away", "Training is not encrypted", "open nothing"):
        assert said in notes


def test_one_seed_has_the_interval_over_images(techniques):
    techniques.inferences = techniques.inferences[techniques.inferences["seed"] == 0]
    (row,) = table(techniques).cells.to_dict("records")
    assert row["Accuracy, encrypted (%)"].startswith("98.88 [")


def test_arms_that_predict_in_the_clear_have_no_row_and_without_any_there_is_no_table(techniques):
    techniques.inferences = techniques.inferences.assign(arm="another")
    with pytest.raises(UserError, match=r"inferences\.csv: none of the arms .* predicts encrypted images"):
        table(techniques)
