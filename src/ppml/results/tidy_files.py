"""The tidy CSV files, declared once for the stage collect, the plan, and the tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ppml.results.columns import INFERENCE_COLUMNS
from ppml.results.joint import JOINT_COLUMNS


@dataclass(frozen=True)
class TidyFile:
    """A CSV file with the results of all runs.

    Parameters
    ----------
    row : str
        The object that a row describes.
    stages : tuple of str
        Stages whose results are in the rows.
    columns : tuple of str
        Columns that tables and figures use; the file may have more.
    """

    row: str
    stages: tuple[str, ...]
    columns: tuple[str, ...]


def _words(*lines: str) -> Iterator[str]:
    for line in lines:
        yield from line.split()


TIDY_FILES = {
    "records": TidyFile(
        "an arm and seed",
        ("partition", "train", "predict", "account"),
        tuple(
            _words(
                "arm dataset data_kind transforms model parameters topology privacy_unit noise noise_source",
                "sampling_source aggregation update_opened_by sum_seen_by clients partition division rounds seed",
                "n_train n_test n_test_all evaluated_on duplicates_across_split largest_unit accuracy accuracy_all",
                "balanced_accuracy macro_f1 worst_class_recall auc",
                "epsilon epsilon_rdp epsilon_prv epsilon_pld epsilon_gdp",
                "epsilon_replace_one epsilon_if_opened budget delta accountant neighbouring noise_multiplier",
                "max_grad_norm sample_rate steps steps_planned device config_digest data_digest",
            )
        ),
    ),
    "costs": TidyFile(
        "an arm and seed",
        ("train",),
        tuple(_words("arm seed seconds cpu_seconds training_memory_mb rounds clients bytes_up bytes_down expansion")),
    ),
    "history": TidyFile(
        "an arm, seed, and epoch or round",
        ("train",),
        ("arm", "seed", "unit", "step", "accuracy", "loss", "train_loss"),
    ),
    # Columns label_0 and up count the training examples of each class; their number depends on the data.
    "clients": TidyFile(
        "an arm, seed and client",
        ("partition", "predict", "account"),
        ("arm", "seed", "client", "records", "epsilon"),
    ),
    "classes": TidyFile(
        "an arm, seed and class",
        ("predict",),
        ("arm", "seed", "class", "examples", "recall", "precision", "f1"),
    ),
    "confusion": TidyFile(
        "an arm, seed, true and predicted class, of the arms of a confusion matrix",
        ("predict",),
        ("arm", "seed", "true", "predicted", "examples"),
    ),
    "pictures": TidyFile(
        "an arm and one of its first test images, of the arms of a figure of predictions",
        ("predict",),
        ("arm", "seed", "example", "label", "predicted", "png"),
    ),
    "epsilons": TidyFile(
        "an arm, seed and step, of the client with the largest epsilon",
        ("account",),
        ("arm", "seed", "accountant", "step", "epoch", "epsilon"),
    ),
    "audits": TidyFile(
        "an audited arm",
        ("audit",),
        tuple(
            _words(
                "arm seed noise_multiplier estimate low high epsilon epsilon_low canary_norm max_grad_norm",
                "contribution releases measurements drawn coins parameters confidence family held faults unclear",
            )
        ),
    ),
    "inferences": TidyFile("an arm and seed with predictions on encrypted images", ("infer",), INFERENCE_COLUMNS),
    "joint": TidyFile("a private arm, or the private arms of a table, over all seeds", ("account",), JOINT_COLUMNS),
}
"""Each file by its name, without ``.csv``."""
