"""The rows of each class of one run in the tidy tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppml.results.class_metrics import f1_scores, precisions, recalls
from ppml.results.rows import Run


def class_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of classes.csv: the number of test examples of each class, and its metrics, the mean over models.

    A metric that is not defined is None, for instance the recall of a class without a test example.
    """
    matrices = run.confusion
    columns = {"recall": recalls(matrices), "precision": precisions(matrices), "f1": f1_scores(matrices)}
    means = {name: values.mean(axis=0) for name, values in columns.items()}
    counts = matrices[0].sum(axis=1)
    return [
        {
            "arm": run.arm,
            "seed": run.config["seed"],
            "class": name,
            "examples": int(counts[label]),
            **{key: None if np.isnan(values[label]) else float(values[label]) for key, values in means.items()},
        }
        for label, name in enumerate(run.classes)
    ]


def confusion_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of confusion.csv: the number of test examples of a true class with a predicted class.

    The number is the mean over the models of the run; cells without an example have no row.
    """
    mean = run.confusion.mean(axis=0)
    return [
        {
            "arm": run.arm,
            "seed": run.config["seed"],
            "true": run.classes[true],
            "predicted": run.classes[predicted],
            "examples": float(mean[true, predicted]),
        }
        for true, predicted in np.argwhere(mean > 0)
    ]
