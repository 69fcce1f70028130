"""The division of all examples of a data set into training and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import Dataset
from ppml.config.splits import ColumnSplit, GroupSplit, LastSplit, RandomSplit, StratifiedSplit, TimeSplit
from ppml.data.raw_examples import RawExamples
from ppml.errors import UserError

Sides = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The positions of training examples and of test examples, ascending."""


def divide(spec: Dataset, examples: RawExamples) -> Sides:
    """Return the positions of training and test examples.

    Raises
    ------
    UserError
        One side would have no example.
    """
    is_test = np.zeros(len(examples), dtype=bool)
    match spec.split:
        case LastSplit(test=count):
            is_test[len(examples) - min(count, len(examples)) :] = True
        case RandomSplit(test=fraction, seed=seed):
            order = np.random.default_rng(seed).permutation(len(examples))
            is_test[order[: round(fraction * len(examples))]] = True
        case StratifiedSplit(test=fraction, seed=seed):
            rng = np.random.default_rng(seed)
            for cls in np.unique(examples.labels):
                members = rng.permutation(np.flatnonzero(examples.labels == cls))
                is_test[members[: round(fraction * len(members))]] = True
        case TimeSplit() as split:
            is_test = _latest(split, examples)
        case GroupSplit() as split:
            is_test = _groups(spec, split, examples)
        case ColumnSplit() as split:
            return _by_column(spec, split, examples)
    return _checked(spec, np.flatnonzero(~is_test), np.flatnonzero(is_test))


def _latest(split: TimeSplit, examples: RawExamples) -> NDArray[np.bool_]:
    assert examples.times is not None
    is_test = np.zeros(len(examples), dtype=bool)
    classes = examples.labels if split.within_class else np.zeros(len(examples), dtype=np.int64)
    for cls in np.unique(classes):
        members = np.flatnonzero(classes == cls)
        order = members[np.argsort(examples.times[members], kind="stable")]
        is_test[order[len(order) - round(split.test * len(order)) :]] = True
    return is_test


def _groups(spec: Dataset, split: GroupSplit, examples: RawExamples) -> NDArray[np.bool_]:
    groups = examples.groups.get(split.column)
    if groups is None:
        assert examples.units is not None
        groups = np.unique(examples.units, return_inverse=True)[1]
    # Groups of a closed list keep their places in it, also where the data lack one.
    names = spec.contract.groups.get(split.column)
    count = len(names) if names else int(groups.max()) + 1
    if split.folds > count:
        raise UserError(f"split.folds: got {split.folds}, and column {split.column!r} has {count} groups; take fewer")
    fold = np.arange(count) * split.folds // count if split.blocks else np.arange(count) % split.folds
    found: NDArray[np.bool_] = fold[groups] == split.fold
    return found


def _by_column(spec: Dataset, split: ColumnSplit, examples: RawExamples) -> Sides:
    names, groups = spec.contract.groups[split.column], examples.groups[split.column]
    test = np.isin(groups, [names.index(value) for value in split.test])
    train = np.isin(groups, [names.index(value) for value in split.train]) if split.train else ~test
    return _checked(spec, np.flatnonzero(train), np.flatnonzero(test))


def _checked(spec: Dataset, train: NDArray[np.int64], test: NDArray[np.int64]) -> Sides:
    for side, positions in (("training", train), ("the test", test)):
        if not len(positions):
            raise UserError(f"split: kind {spec.split.kind!r} leaves no example for {side}; change it")
    return train, test


def count_duplicates(train: RawExamples, test: RawExamples) -> int:
    """Return the number of test examples whose inputs are those of a training example."""
    seen = set(_digests(train))
    return sum(digest in seen for digest in _digests(test))


def _digests(examples: RawExamples) -> Iterator[bytes]:
    """Yield a digest of the inputs of each example: wide rows of a large table take more memory than the table."""
    for row in np.ascontiguousarray(examples.inputs):
        yield hashlib.blake2b(row.data, digest_size=16).digest()
