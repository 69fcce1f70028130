"""The training and test examples of a data set, from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppml.config.columns import TableFields
from ppml.config.datasets import (
    CsvDataset,
    Dataset,
    FolderDataset,
    IdxDataset,
    NpzDataset,
    ParquetDataset,
    SklearnDataset,
    TorchvisionDataset,
)
from ppml.config.splits import OfficialSplit
from ppml.data.raw_examples import RawExamples
from ppml.data.sources import file_key, require_checksum
from ppml.data.splits import divide
from ppml.errors import UserError

DECODED = "decoded"
"""The name of the input of pictures that an earlier stage has decoded."""


def load_splits(
    spec: Dataset, files: Mapping[str, Path], parts: Sequence[str] = ("train", "test")
) -> list[RawExamples]:
    """Return the examples of ``parts``; the files of other parts of an official split are not opened.

    Parameters
    ----------
    spec : Dataset
        The data set.
    files : mapping
        Name of a published file, or path of a file of the user's own -> the file; ``decoded`` -> the decoded pictures.
    parts : sequence of {"train", "test"}
        The parts to load.

    Raises
    ------
    UserError
        A file does not have the stated checksum, or its content does not fit the data set.
    """
    if isinstance(spec.split, OfficialSplit):
        loaded = [_load(spec, files, part) for part in parts]
    else:
        whole = _load(spec, files, "train")
        train, test = divide(spec, whole)
        sides = {"train": whole.select(train), "test": whole.select(test)}
        loaded = [sides[part] for part in parts]
    for part, examples in zip(parts, loaded, strict=True):
        _check_examples(spec, part, examples)
    return loaded


def _load(spec: Dataset, files: Mapping[str, Path], part: str) -> RawExamples:
    """Return the examples of an official part; all of them without an official split."""
    for file in spec.files_of(part):
        if path := files.get(file_key(file)):
            require_checksum(path, file)
    # Imports in the branches, so that the code digest of a subset counts the format of its data alone.
    match spec:
        case IdxDataset():
            from ppml.data.formats.idx import read_idx
            from ppml.data.formats.pictures import picture_examples

            inputs, labels = (files[file_key(file)] for file in spec.files_of(part))
            return picture_examples(spec, read_idx(inputs), read_idx(labels), (inputs, labels))
        case NpzDataset():
            from ppml.data.formats.npz import read_npz
            from ppml.data.formats.pictures import picture_examples

            path = files[file_key(spec.files[0])]
            names = spec.test_arrays if part == "test" else spec.train_arrays
            values, classes = read_npz(path, names)
            return picture_examples(spec, values, classes, (f"{path}: {names[0]}", f"{path}: {names[1]}"))
        case FolderDataset() | TorchvisionDataset():
            from safetensors import safe_open

            with safe_open(files[DECODED], framework="numpy") as decoded:
                return RawExamples(decoded.get_tensor(f"{part}_images"), decoded.get_tensor(f"{part}_labels"))
        case SklearnDataset():
            from ppml.data.formats.sklearn_data import load_sklearn

            return load_sklearn(spec)
        case CsvDataset() | ParquetDataset():
            from ppml.data.formats.table_encoding import encode_table
            from ppml.data.formats.table_files import read_table_file

            found = [
                encode_table(spec, read_table_file(spec, file, files[file_key(file)])) for file in spec.files_of(part)
            ]
            return concatenate(found)


def concatenate(parts: Sequence[RawExamples]) -> RawExamples:
    """Return the examples of several files as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return RawExamples(
        np.concatenate([part.inputs for part in parts]),
        np.concatenate([part.labels for part in parts]),
        {name: np.concatenate([part.groups[name] for part in parts]) for name in first.groups},
        None if first.times is None else np.concatenate([part.times for part in parts if part.times is not None]),
        None if first.units is None else np.concatenate([part.units for part in parts if part.units is not None]),
    )


def _check_examples(spec: Dataset, part: str, examples: RawExamples) -> None:
    """Raise a :class:`UserError` if training has no example, one class, or a constant column."""
    if part != "train":
        return
    classes = np.unique(examples.labels)
    if len(classes) < 2:
        names = ", ".join(repr(spec.contract.classes[label]) for label in classes) or "none"
        raise UserError(f"training has the examples of one class only, {names}; at least two are needed")
    if isinstance(spec, TableFields) and (found := constant_columns(spec, examples.inputs)):
        raise UserError(
            f"column {found[0]!r} has one value in all {len(examples)} rows for training, which no model can use; "
            "give it role ignored"
        )


def constant_columns(spec: TableFields, inputs: NDArray[np.float32]) -> list[str]:
    """Return the names of input columns with one value in all rows."""
    found, start = [], 0
    for name, column in spec.inputs.items():
        block = inputs[:, start : start + column.width]
        if (block == block[:1]).all():
            found.append(name)
        start += column.width
    return found
