"""Metrics of predicted classes, from a confusion matrix, and the area under the ROC curve, from scores.

A class without a test example has no recall: it counts in no mean and is a dash in tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""Bootstrap samples of the test examples; their draws are fixed, so that an interval repeats."""
ENDS = (0.025, 0.975)

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric of one run on its test examples.

    Parameters
    ----------
    value : float
        A fraction, larger is better; nan if it is not defined.
    low, high : float
        Ends of the 95 % percentile interval over bootstrap samples of the test examples.
    """

    value: float
    low: float
    high: float


def confusion_matrix(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Counts:
    """Return the number of examples of each true class, by row, with each predicted class, by column."""
    cells = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def recalls(matrix: Counts) -> Values:
    """Return the recall of each class, shape ``(..., classes)``; nan for a class without a test example."""
    return _ratio(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1))


def precisions(matrix: Counts) -> Values:
    """Return the precision of each class, shape ``(..., classes)``; nan for a class that is never predicted."""
    return _ratio(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-2))


def f1_scores(matrix: Counts) -> Values:
    """Return the F1 of each class, shape ``(..., classes)``; nan for a class without a test example."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth, found = matrix.sum(axis=-1), matrix.sum(axis=-2)
    return np.where(truth > 0, _ratio(2 * right, truth + found), np.nan)


def balanced_accuracy(matrix: Counts) -> Values:
    """Return the mean recall over classes with a test example."""
    return np.asarray(np.nanmean(recalls(matrix), axis=-1))


def macro_f1(matrix: Counts) -> Values:
    """Return the mean F1 over classes with a test example."""
    return np.asarray(np.nanmean(f1_scores(matrix), axis=-1))


def worst_class_recall(matrix: Counts) -> Values:
    """Return the smallest recall of a class with a test example."""
    return np.asarray(np.nanmin(recalls(matrix), axis=-1))


METRICS = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "worst_class_recall": worst_class_recall,
}
"""Name -> function of confusion matrices, shape ``(..., classes, classes)``."""


def class_metrics(matrices: Counts) -> dict[str, Metric]:
    """Return each metric of :data:`METRICS`, the mean over the models of a run.

    Parameters
    ----------
    matrices : int64 array, shape ``(models, classes, classes)``
        The confusion matrix of each model, all of the same test examples.
    """
    sums = {name: np.zeros(RESAMPLES) for name in METRICS}
    for number, matrix in enumerate(matrices):
        samples = _resampled(matrix, np.random.default_rng(number))
        for name, function in METRICS.items():
            sums[name] += function(samples) / len(matrices)
    found = {}
    for name, function in METRICS.items():
        low, high = np.quantile(sums[name], ENDS)
        found[name] = Metric(float(function(matrices).mean()), float(low), float(high))
    return found


def _resampled(matrix: Counts, rng: np.random.Generator) -> Counts:
    """Return bootstrap samples of a confusion matrix, shape ``(RESAMPLES, classes, classes)``.

    Test examples are drawn within their classes, whose numbers are facts of the test set.
    """
    samples = np.zeros((RESAMPLES, *matrix.shape), dtype=np.int64)
    for label in np.flatnonzero(matrix.sum(axis=1)):
        row = matrix[label]
        samples[:, label] = rng.multinomial(row.sum(), row / row.sum(), size=RESAMPLES)
    return samples


def area_under_curve(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> Metric:
    """Return the area under the ROC curve of two classes, with DeLong's 95 % interval (Biometrics 44:837, 1988).

    Parameters
    ----------
    labels : integer array, shape ``(n,)``
        0 or 1.
    scores : float array, shape ``(n,)``
        Larger for examples that look more like class 1.
    """
    positive, negative = (scores[labels == label].astype(np.float64) for label in (1, 0))
    if not len(positive) or not len(negative):
        return Metric(np.nan, np.nan, np.nan)
    above = _shares_below(negative, positive)
    below = 1 - _shares_below(positive, negative)
    value = float(above.mean())
    variance = _variance(above) / len(above) + _variance(below) / len(below)
    reach = NormalDist().inv_cdf(ENDS[1]) * float(np.sqrt(variance))
    return Metric(value, max(0.0, value - reach), min(1.0, value + reach))


def _shares_below(reference: Values, values: Values) -> Values:
    """Return the fraction of ``reference`` below each value; equal ones count half."""
    ordered = np.sort(reference)
    both = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return np.asarray(both / (2 * len(reference)))


def _variance(values: Values) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))
