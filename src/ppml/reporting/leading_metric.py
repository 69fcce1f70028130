"""The metric that an experiment leads with: its names, its column in records.csv, and its estimates."""

from __future__ import annotations

import pandas as pd

from ppml.config.experiment import MetricName
from ppml.reporting.statistics import Estimate, estimate

NAMES: dict[str, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "worst_class_recall": "recall of the worst class",
    "auc": "area under the ROC curve",
}
"""Metric -> name for readers."""


def metric_name(metric: str) -> str:
    """Return the name of a metric for readers."""
    return NAMES[metric]


def metric_title(metric: str) -> str:
    """Return the name of a metric at the beginning of a label.

    Examples
    --------
    >>> metric_title("macro_f1"), metric_title("auc")
    ('Macro-F1', 'Area under the ROC curve')
    """
    return NAMES[metric][0].upper() + NAMES[metric][1:]


def column_of(metric: MetricName) -> str:
    """Return the column of records.csv with a metric on all test examples."""
    return "accuracy_all" if metric == "accuracy" else metric


def estimate_metric(rows: pd.DataFrame, metric: MetricName) -> Estimate:
    """Return mean and interval of a metric on all test examples.

    Parameters
    ----------
    rows : pandas.DataFrame
        The rows of an arm in records.csv.
    metric : str
        The metric. It is a fraction; a single seed of accuracy has the binomial interval, and of another metric the
        interval over test examples that the row states.
    """
    values = rows[column_of(metric)]
    if metric == "accuracy":
        return estimate(values, trials=int(rows["n_test_all"].iloc[0]))
    found = estimate(values)
    if found.kind == "none":
        low, high = (float(rows[f"{metric}_{end}"].iloc[0]) for end in ("low", "high"))
        return Estimate(found.mean, found.deviation, 1, low, high, "examples")
    return Estimate(found.mean, found.deviation, found.n, max(0.0, found.low), min(1.0, found.high), found.kind)
