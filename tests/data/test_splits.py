"""The division into training and test: every kind of split, and the limits of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from ppml.config.datasets import Dataset, parse_dataset
from ppml.data.loading import load_splits
from ppml.data.raw_examples import RawExamples
from ppml.data.splits import count_duplicates, divide
from ppml.errors import UserError

WARDS = [f"w{number}" for number in range(10)]
COLUMNS: dict[str, Any] = {
    "age": {"role": "feature", "scale": "none"},
    "ward": {"role": "group", "values": WARDS},
    "site": {"role": "site", "values": ["graz", "linz", "wien"]},
    "person": {"role": "unit"},
    "when": {"role": "time"},
    "ill": {"role": "label", "values": ["no", "yes", "unsure"]},
}


def spec_with(**split: Any) -> Dataset:
    """Return a table with a split."""
    return parse_dataset({"kind": "csv", "files": ["table.csv"], "columns": COLUMNS, "split": split})


def made(count: int = 200, seed: int = 0) -> RawExamples:
    """Return examples of three classes, ten wards, three sites and about forty persons."""
    rng = np.random.default_rng(seed)
    return RawExamples(
        rng.random((count, 1), dtype=np.float32),
        rng.choice(3, count, p=[0.7, 0.2, 0.1]),
        {"ward": rng.integers(0, 10, count), "site": rng.integers(0, 3, count)},
        rng.permutation(count).astype(float),
        rng.choice(rng.integers(-(2**62), 2**62, 40), count),
    )


EXAMPLES = made()
KINDS: dict[str, dict[str, Any]] = {
    "last": {"kind": "last", "test": 30},
    "random": {"kind": "random", "test": 0.3},
    "stratified": {"kind": "stratified", "test": 0.3},
    "time": {"kind": "time", "test": 0.3},
    "time within class": {"kind": "time", "test": 0.3, "within_class": True},
    "folds": {"kind": "group", "column": "ward", "fold": 2},
    "blocks": {"kind": "group", "column": "ward", "fold": 2, "blocks": True},
    "sites": {"kind": "group", "column": "site", "folds": 3},
    "persons": {"kind": "group", "column": "person", "folds": 4, "fold": 3},
    "column": {"kind": "column", "column": "site", "test": ["linz"]},
    "column of a part": {"kind": "column", "column": "ward", "test": ["w1", "w3"], "train": ["w2"]},
}


def sides(examples: RawExamples = EXAMPLES, **split: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of both sides."""
    return divide(spec_with(**split), examples)


@pytest.mark.parametrize("name", KINDS)
def test_no_example_is_on_both_sides_or_moved(name: str) -> None:
    train, test = sides(**KINDS[name])
    both = np.concatenate([train, test])
    assert len(np.unique(both)) == len(both) and (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    assert len(both) == (200 if name != "column of a part" else np.isin(EXAMPLES.groups["ward"], [1, 2, 3]).sum())


@pytest.mark.parametrize("name", KINDS)
def test_split_depends_on_no_global_state(name: str) -> None:
    first = sides(**KINDS[name])
    np.random.seed(123)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    again = sides(**KINDS[name])
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_last_examples_are_those_of_the_end() -> None:
    assert sides(kind="last", test=30)[1].tolist() == list(range(170, 200))


@pytest.mark.parametrize("kind", ["random", "stratified"])
def test_seed_chooses_the_examples(kind: str) -> None:
    zero, one = (sides(kind=kind, test=0.3, seed=seed)[1] for seed in (0, 1))
    assert len(zero) == pytest.approx(60, abs=1) and not np.array_equal(zero, one)
    assert np.array_equal(zero, sides(kind=kind, test=0.3)[1])
    # A whole random half is not a run of neighbours.
    assert 20 < (np.diff(zero) == 1).sum() + 20 < 60


def test_random_split_is_uniform() -> None:
    counts = np.zeros(200)
    for seed in range(300):
        counts[sides(kind="random", test=0.5, seed=seed)[1]] += 1
    # 150 of 300 on average, with a deviation of 8.7.
    assert counts.min() > 110 and counts.max() < 190


def test_stratified_split_keeps_the_share_of_each_class() -> None:
    _, test = sides(kind="stratified", test=0.3)
    for cls in range(3):
        total = (EXAMPLES.labels == cls).sum()
        assert (EXAMPLES.labels[test] == cls).sum() == round(0.3 * total)


def test_time_split_has_the_latest_rows() -> None:
    assert EXAMPLES.times is not None
    train, test = sides(kind="time", test=0.3)
    assert EXAMPLES.times[train].max() < EXAMPLES.times[test].min() and len(test) == 60
    train, test = sides(kind="time", test=0.3, within_class=True)
    for cls in range(3):
        earlier, later = (EXAMPLES.times[side[EXAMPLES.labels[side] == cls]] for side in (train, test))
        assert earlier.max() < later.min() and len(later) == round(0.3 * (len(earlier) + len(later)))


def test_equal_times_are_taken_in_the_order_of_the_file() -> None:
    same = RawExamples(EXAMPLES.inputs, EXAMPLES.labels, EXAMPLES.groups, np.zeros(200), EXAMPLES.units)
    assert sides(same, kind="time", test=0.25)[1].tolist() == list(range(150, 200))


@pytest.mark.parametrize("column", ["ward", "site", "person"])
@pytest.mark.parametrize("blocks", [False, True])
def test_no_group_is_on_both_sides_and_each_is_tested_once(column: str, blocks: bool) -> None:
    groups = EXAMPLES.groups.get(column, EXAMPLES.units)
    assert groups is not None
    tested: list[int] = []
    for fold in range(3):
        train, test = sides(kind="group", column=column, folds=3, fold=fold, blocks=blocks)
        assert not set(groups[train]) & set(groups[test])
        tested += np.unique(groups[test]).tolist()
    assert sorted(tested) == np.unique(groups).tolist()


def test_folds_are_modulo_and_blocks_are_neighbours() -> None:
    wards = EXAMPLES.groups["ward"]
    assert np.unique(wards[sides(kind="group", column="ward", fold=1)[1]]).tolist() == [1, 6]
    assert np.unique(wards[sides(kind="group", column="ward", fold=1, blocks=True)[1]]).tolist() == [2, 3]
    assert np.unique(wards[sides(kind="group", column="ward", folds=3, fold=2, blocks=True)[1]]).tolist() == [7, 8, 9]


def test_absent_group_keeps_its_place() -> None:
    kept = EXAMPLES.select(np.flatnonzero(EXAMPLES.groups["ward"] != 0))
    assert np.unique(kept.groups["ward"][sides(kept, kind="group", column="ward", fold=1)[1]]).tolist() == [1, 6]


def test_rows_of_values_are_the_test() -> None:
    train, test = sides(kind="column", column="site", test=["linz", "graz"])
    assert np.unique(EXAMPLES.groups["site"][test]).tolist() == [0, 1]
    assert np.unique(EXAMPLES.groups["site"][train]).tolist() == [2]
    train, test = sides(kind="column", column="site", test=["linz"], train=["wien"])
    assert np.unique(EXAMPLES.groups["site"][train]).tolist() == [2] and len(train) + len(test) < 200


@pytest.mark.parametrize(
    ("split", "count", "pieces"),
    [
        ({"kind": "last", "test": 3}, 3, ["'last'", "training"]),
        ({"kind": "last", "test": 10**9}, 3, ["'last'", "training"]),
        ({"kind": "random", "test": 0.1}, 3, ["'random'", "the test"]),
        ({"kind": "random", "test": 0.9}, 3, ["'random'", "training"]),
        ({"kind": "stratified", "test": 0.01}, 30, ["'stratified'", "the test"]),
        ({"kind": "time", "test": 0.001}, 30, ["'time'", "the test"]),
        ({"kind": "group", "column": "site", "folds": 4}, 200, ["folds: got 4", "'site' has 3 groups"]),
        ({"kind": "group", "column": "person", "folds": 100}, 200, ["folds: got 100", "'person'"]),
        ({"kind": "group", "column": "ward", "folds": 10, "fold": 9}, 3, ["'group'", "the test"]),
    ],
)
def test_empty_side_is_refused(split: dict[str, Any], count: int, pieces: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        sides(EXAMPLES.select(np.arange(count)), **split)
    assert all(piece in str(caught.value) for piece in pieces) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "pieces"),
    [
        ({"kind": "random", "test": 0}, ["split.random.test"]),
        ({"kind": "random", "test": 1.0}, ["split.random.test"]),
        ({"kind": "random", "test": 30}, ["split.random.test"]),
        ({"kind": "last", "test": 0}, ["split.last.test"]),
        ({"kind": "last", "test": 0.2}, ["split.last.test"]),
        ({"kind": "group", "column": "ward", "folds": 3, "fold": 3}, ["fold: got 3 of 3 folds"]),
        ({"kind": "group", "column": "ward", "folds": 1}, ["split.group.folds"]),
        ({"kind": "group", "column": "age"}, ["split.column: got 'age'", "ward, site, person"]),
        ({"kind": "group", "column": "wards"}, ["split.column: got 'wards'"]),
        ({"kind": "column", "column": "person", "test": ["x"]}, ["split.column: got 'person'", "ward, site"]),
        ({"kind": "column", "column": "site", "test": ["rom"]}, ["got the value 'rom'", "graz, linz, wien"]),
        ({"kind": "column", "column": "site", "test": []}, ["split.column.test"]),
        ({"kind": "column", "column": "site", "test": ["graz"], "train": ["graz"]}, ["got 'graz', which test has"]),
        ({"kind": "official"}, ["official needs files with part train and part test"]),
    ],
)
def test_wrong_split_is_refused_in_the_configuration(split: dict[str, Any], pieces: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        spec_with(**split)
    assert all(piece in str(caught.value) for piece in pieces)


def test_values_of_a_split_may_be_numbers() -> None:
    columns = {**COLUMNS, "site": {"role": "site", "values": [1, 2]}}
    split = {"kind": "column", "column": "site", "test": [2]}
    spec = parse_dataset({"kind": "csv", "files": ["table.csv"], "columns": columns, "split": split})
    assert spec.split.test == ("2",)  # type: ignore[union-attr]


def test_official_parts_come_from_their_files(tmp_path: Path) -> None:
    columns = {"age": COLUMNS["age"], "ill": COLUMNS["ill"]}
    paths = {part: tmp_path / f"{part}.csv" for part in ("train", "test")}
    for place, path in enumerate(paths.values()):
        path.write_text(f"age,ill\n{place}1,no\n{place}2,yes\n")
    files = [{"path": str(path), "part": part} for part, path in paths.items()]
    spec = parse_dataset({"kind": "csv", "files": files, "columns": columns})
    given = {str(path): path for path in paths.values()}
    train, test = load_splits(spec, given)
    assert train.inputs[:, 0].tolist() == [1, 2] and test.inputs[:, 0].tolist() == [11, 12]
    paths["test"].unlink()
    assert len(load_splits(spec, given, ("train",))[0]) == 2


def test_duplicates_across_the_split_are_counted() -> None:
    inputs = np.arange(12, dtype=np.float32).reshape(6, 2)
    train = RawExamples(inputs[[0, 1, 1, 2]], np.zeros(4, np.int64))
    test = RawExamples(inputs[[1, 1, 3, 0]], np.ones(4, np.int64))
    assert count_duplicates(train, test) == 3 and count_duplicates(test, train) == 3
    backwards = RawExamples(test.inputs[:, ::-1][:, ::-1], test.labels)
    assert count_duplicates(train, backwards) == 3
    pictures = RawExamples(np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2), np.zeros(4, np.int64))
    assert count_duplicates(pictures, pictures.select(np.array([3]))) == 1
