"""The choice of the examples of a subset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.data.subset import select_subset


def test_first_takes_first_examples(real_data):
    assert select_subset(real_data.train.labels, 100, "first").tolist() == list(range(100))


@pytest.mark.parametrize("count", [10, 100, 777])
def test_stratified_has_class_proportions_to_less_than_one_example(count, real_data):
    labels = real_data.train.labels
    chosen = select_subset(labels, count, "stratified")
    assert len(chosen) == count
    exact = count * np.bincount(labels, minlength=10) / len(labels)
    assert np.all(np.abs(np.bincount(labels[chosen], minlength=10) - exact) < 1)


def test_stratified_takes_first_examples_of_every_class():
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    assert select_subset(labels, 4, "stratified").tolist() == [0, 1, 2, 3]


def test_stratified_differs_from_first_on_sorted_classes():
    labels = np.repeat(np.arange(10), 20)
    assert np.bincount(labels[select_subset(labels, 50, "stratified")]).tolist() == [5] * 10
    assert np.bincount(labels[select_subset(labels, 50, "first")]).tolist() == [20, 20, 10]


@pytest.mark.parametrize("selection", ["first", "stratified"])
def test_all_examples_are_taken_if_there_are_fewer(selection):
    assert select_subset(np.array([2, 0, 1]), 10, selection).tolist() == [0, 1, 2]


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=200), count=st.integers(1, 250))
def test_selection_has_requested_size_ascends_and_repeats(labels, count):
    for selection in ("first", "stratified"):
        chosen = select_subset(np.array(labels), count, selection)
        assert len(chosen) == min(count, len(labels))
        assert np.all(np.diff(chosen) > 0)
        assert np.array_equal(chosen, select_subset(np.array(labels), count, selection))
