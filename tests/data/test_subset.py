import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.data.subset import choose


def test_first_takes_the_first(real_data):
    assert choose(real_data.train.labels, 100, "first").tolist() == list(range(100))


@pytest.mark.parametrize("count", [10, 100, 777])
def test_stratified_has_the_proportions_of_the_whole_to_less_than_one_image(count, real_data):
    labels = real_data.train.labels
    chosen = choose(labels, count, "stratified")
    assert len(chosen) == count
    exact = count * np.bincount(labels, minlength=10) / len(labels)
    assert np.all(np.abs(np.bincount(labels[chosen], minlength=10) - exact) < 1)


def test_stratified_takes_the_first_of_every_class():
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    assert choose(labels, 4, "stratified").tolist() == [0, 1, 2, 3]


def test_stratified_differs_from_first_where_classes_come_in_order():
    labels = np.repeat(np.arange(10), 20)
    assert np.bincount(labels[choose(labels, 50, "stratified")]).tolist() == [5] * 10
    assert np.bincount(labels[choose(labels, 50, "first")], minlength=10).tolist() == [20, 20, 10, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("selection", ["first", "stratified"])
def test_all_are_taken_where_there_are_fewer(selection):
    assert choose(np.array([2, 0, 1]), 10, selection).tolist() == [0, 1, 2]


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=200), count=st.integers(1, 250))
def test_choice_has_the_size_asked_for_ascends_and_repeats(labels, count):
    for selection in ("first", "stratified"):
        chosen = choose(np.array(labels), count, selection)
        assert len(chosen) == min(count, len(labels))
        assert np.all(np.diff(chosen) > 0)
        assert np.array_equal(chosen, choose(np.array(labels), count, selection))
