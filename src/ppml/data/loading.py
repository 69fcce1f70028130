"""The official training and test files of a data set as arrays."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import DatasetSpec
from ppml.contract import DataContract
from ppml.data.sources import published_files, require_checksum
from ppml.errors import UserError

DTYPES = {"image": np.uint8, "table": np.float32}
"""Type of the raw inputs by kind of data: pixels from 0 to 255, or numbers."""

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Type code in an IDX file -> type of its values."""


@dataclass(frozen=True)
class Split:
    """The examples of one official file, before normalisation.

    Parameters
    ----------
    inputs : array, shape ``(n, *contract.shape)``
        uint8 pixels of images, or float32 numbers of a table.
    labels : int64 array, shape ``(n,)``
        Numbers of classes.
    """

    inputs: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]


def load_splits(spec: DatasetSpec, raw: Sequence[Path], parts: Sequence[str] = ("train", "test")) -> list[Split]:
    """Return the official splits that ``parts`` names; the files of other parts are not opened.

    The classes of torchvision do not do that: for either split they unpack all four files.

    Parameters
    ----------
    spec : DatasetSpec
        The data set.
    raw : sequence of Path
        The published files of these parts, perhaps among others. Empty for the digits, which lie inside scikit-learn.
    parts : sequence of {"train", "test"}
        The parts to load.

    Raises
    ------
    UserError
        A file does not have the published checksum, or its content does not fit the contract.
    """
    if spec.format == "digits":
        digits = _load_digits(spec)
        return [digits[part] for part in parts]
    files = {part: spec.files_of(part) for part in parts}
    paths = {path.name: path for path in raw if any(path.name in names for names in files.values())}
    published = {file.name: file for file in published_files(spec)}
    for name, path in paths.items():
        require_checksum(path, published[name])
    return [_split(spec.contract, *(paths[name] for name in names)) for names in files.values()]


def _split(contract: DataContract, inputs: Path, labels: Path) -> Split:
    values, columns = _read_idx(inputs), _read_idx(labels)
    if columns.ndim not in (1, 2) or not np.issubdtype(columns.dtype, np.integer):
        raise UserError(
            f"{labels}: has values of type {columns.dtype.name} and shape {'x'.join(map(str, columns.shape))}; labels "
            "are integers, one for each example"
        )
    # QMNIST has eight columns of provenance; the first one is the class.
    classes: NDArray[np.int64] = (columns[:, 0] if columns.ndim == 2 else columns).astype(np.int64)
    if math.prod(values.shape[1:]) != contract.size:
        raise UserError(
            f"{inputs}: has examples of shape {'x'.join(map(str, values.shape[1:]))}, but the contract of the data set "
            f"states {contract}; correct the contract's shape"
        )
    if len(values) != len(classes):
        raise UserError(f"{inputs}: has {len(values)} examples, and {labels} has {len(classes)} labels")
    count = len(contract.classes)
    if len(classes) and not (classes.min() >= 0 and classes.max() < count):
        raise UserError(
            f"{labels}: has labels from {classes.min()} to {classes.max()}, but the contract of the data set states "
            f"{count} classes, 0 to {count - 1}; correct the contract's classes"
        )
    if contract.kind == "image" and values.dtype != np.uint8:
        raise UserError(f"{inputs}: has values of type {values.dtype.name}; an image needs uint8, or state kind: table")
    with np.errstate(over="ignore"):
        examples = values.reshape(-1, *contract.shape).astype(DTYPES[contract.kind])
    if contract.kind != "image" and not np.isfinite(examples).all():
        raise UserError(f"{inputs}: has values that are not finite in float32; replace them before they are used")
    return Split(examples, classes)


def _read_idx(path: Path) -> NDArray[np.generic]:
    """Return the array of a packed IDX file: two zeros, the type, the number of axes, their lengths, the values.

    http://yann.lecun.com/exdb/mnist describes the format. The reader of torchvision takes unpacked files, and a
    temporary one may not fit on the disk.

    Raises
    ------
    UserError
        The file is no packed IDX file.
    """
    try:
        with gzip.open(path) as packed:
            content = packed.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is no complete gzip file ({error}); pack it again") from None
    try:
        kind, axes = struct.unpack_from(">2xBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
        return np.frombuffer(content, _IDX_TYPES[kind], math.prod(shape), 4 + 4 * axes).reshape(shape)
    except (struct.error, KeyError, ValueError) as error:
        raise UserError(f"{path}: is no IDX file ({error}); give one in the format of MNIST's files") from None


def _load_digits(spec: DatasetSpec) -> dict[str, Split]:
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None] * (255.0 / 16.0)
    # 8x8 -> 20x20 in a frame of 4, as MNIST centres its digits.
    large = functional.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    inputs = functional.pad(large, (4, 4, 4, 4)).round().clamp(0, 255).to(torch.uint8).numpy()
    labels = digits.target.astype(np.int64)
    count = spec.examples
    return {"train": Split(inputs[:count], labels[:count]), "test": Split(inputs[count:], labels[count:])}
