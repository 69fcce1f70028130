"""The table of predictions on encrypted images."""

from __future__ import annotations

import pytest

from ppml.errors import UserError


def test_row_has_accuracy_cost_and_error(techniques):
    (row,) = techniques.table("inference").cells.to_dict("records")
    assert row["Technique"] == "Centralized" and row["Seeds"] == "3" and row["Images"] == "4,096"
    assert row["Accuracy, encrypted (%)"] == "98.90 ± 0.02"
    assert row["Accuracy, plaintext (%)"] == "98.93 ± 0.02"
    assert row["Must agree"] == "12,270 of 12,288" and row["Differ"] == "3"
    assert (row["Largest error"], row["Error over bound"]) == ("4.2e-04", "0.32")
    assert row["One image, client + server (s)"] == "0.040 + 0.16"
    # 4,096 images in 8 + 24 seconds of a core.
    assert row["Images an hour"] == "461,000"
    assert row["Up, down an image"] == "43.7 KB, 200 B"
    assert row["Ring"] == "N 8,192, 218 bits"


def test_notes_state_leakage(techniques):
    notes = " ".join(techniques.table("inference").notes)
    for part in ("Without circuit privacy", "can reveal its key", "Training is not encrypted", "decrypt nothing"):
        assert part in notes


def test_one_seed_has_the_interval_over_images(techniques):
    techniques.inferences = techniques.inferences[techniques.inferences["seed"] == 0]
    (row,) = techniques.table("inference").cells.to_dict("records")
    assert row["Accuracy, encrypted (%)"].startswith("98.88 [")


def test_table_without_encrypted_prediction_is_refused(techniques):
    techniques.inferences = techniques.inferences.assign(arm="another")
    with pytest.raises(UserError, match=r"table inference of .*: none of the arms .* predicts encrypted images"):
        techniques.table("inference")
