"""Metrics of classes, compared with scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from ppml.results.class_metrics import (
    METRICS,
    area_under_curve,
    class_metrics,
    confusion_matrix,
    f1_scores,
    precisions,
    recalls,
)

CLASSES = 7
RNG = np.random.default_rng(3)
LABELS = RNG.choice(CLASSES, size=400, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]).astype(np.uint8)
PREDICTED = np.where(RNG.random(400) < 0.7, LABELS, RNG.integers(0, CLASSES, 400)).astype(np.uint8)


def test_matrix_and_class_values_are_those_of_scikit_learn():
    matrix = confusion_matrix(LABELS, PREDICTED, CLASSES)
    assert np.array_equal(matrix, metrics.confusion_matrix(LABELS, PREDICTED, labels=range(CLASSES)))
    expected = metrics.precision_recall_fscore_support(LABELS, PREDICTED, labels=range(CLASSES))
    for found, values in zip((precisions(matrix), recalls(matrix), f1_scores(matrix)), expected, strict=False):
        assert found == pytest.approx(values)


def test_means_are_those_of_scikit_learn():
    found = class_metrics(confusion_matrix(LABELS, PREDICTED, CLASSES)[None])
    assert found["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(LABELS, PREDICTED))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(LABELS, PREDICTED, average="macro"))
    recall = metrics.recall_score(LABELS, PREDICTED, average=None)
    assert found["worst_class_recall"].value == pytest.approx(recall.min())
    assert all(one.low < one.value < one.high for one in found.values())


def test_class_without_a_test_example_counts_in_no_mean():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    matrix = confusion_matrix(labels, predicted, 3)
    assert np.isnan(recalls(matrix)[2]) and np.isnan(f1_scores(matrix)[2])
    found = class_metrics(matrix[None])
    assert found["balanced_accuracy"].value == 0.75 and found["worst_class_recall"].value == 0.5
    assert found["macro_f1"].value == pytest.approx((2 / 3 + 1) / 2)


def test_class_that_is_never_predicted_counts_with_recall_zero():
    matrix = confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 0]), 2)
    assert np.isnan(precisions(matrix)[1]) and f1_scores(matrix)[1] == 0
    assert class_metrics(matrix[None])["worst_class_recall"].value == 0


def test_metrics_of_several_models_are_means():
    one, other = (confusion_matrix(LABELS, found, CLASSES) for found in (PREDICTED, LABELS))
    both, alone = class_metrics(np.stack([one, other])), class_metrics(one[None])
    for name in METRICS:
        assert both[name].value == pytest.approx((alone[name].value + 1) / 2)
        assert both[name].high - both[name].low < alone[name].high - alone[name].low


def test_intervals_repeat_and_cover_other_samples_of_test_examples():
    rng = np.random.default_rng(9)
    population = rng.choice(3, size=20_000, p=[0.6, 0.3, 0.1])
    found = np.where(rng.random(20_000) < 0.8, population, rng.integers(0, 3, 20_000))
    truth = float(METRICS["balanced_accuracy"](confusion_matrix(population, found, 3)))
    covered = 0
    for _ in range(40):
        chosen = rng.choice(20_000, 500, replace=False)
        matrix = confusion_matrix(population[chosen], found[chosen], 3)[None]
        interval = class_metrics(matrix)["balanced_accuracy"]
        assert interval == class_metrics(matrix)["balanced_accuracy"]
        covered += interval.low <= truth <= interval.high
    assert covered >= 34


@pytest.mark.parametrize("digits", [1, 8])
def test_area_is_that_of_scikit_learn_with_ties(digits):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 300)
    scores = np.round(labels + rng.normal(size=300), digits)
    found = area_under_curve(labels, scores)
    assert found.value == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert found.low < found.value < found.high


def test_interval_of_the_area_is_as_wide_as_resampling_says():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 400)
    scores = labels + rng.normal(size=400)
    found = area_under_curve(labels, scores)
    areas = [metrics.roc_auc_score(labels[one], scores[one]) for one in (rng.integers(0, 400, 400) for _ in range(400))]
    low, high = np.quantile(areas, [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.2)


def test_area_of_one_class_is_not_defined():
    assert np.isnan(area_under_curve(np.ones(3, dtype=int), np.arange(3.0)).value)
