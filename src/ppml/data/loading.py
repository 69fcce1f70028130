"""The official train and test files as arrays, and the digits fallback."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppml.data.catalogue import CATALOGUE, DIGITS
from ppml.data.sources import published_files, require_checksum

DIGITS_TRAIN = 1_437
"""Images of the fixed split of scikit-learn's 1,797 digits that train; the last 360 test."""

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Types of values by the number that a file has for them."""


@dataclass(frozen=True)
class Split:
    """One official file.

    Parameters
    ----------
    images : uint8 array, shape ``(n, 28, 28)``
    labels : int64 array, shape ``(n,)``
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load_splits(dataset: str, raw: Sequence[Path], parts: Sequence[str] = ("train", "test")) -> list[Split]:
    """Return the official splits of ``dataset`` that ``parts`` names; the files of another are not opened.

    torchvision's classes would not do: whichever split is asked for, they unpack all four files.

    Parameters
    ----------
    dataset : str
        A name from the catalogue.
    raw : sequence of Path
        The published files of these parts, which are checked; others may be among them. None for the digits, which are
        inside scikit-learn.
    parts : sequence of {"train", "test"}
        What to load.

    Raises
    ------
    UserError
        A file does not have the published checksum.
    """
    if dataset == DIGITS:
        digits = _load_digits()
        return [digits[part] for part in parts]
    files = {part: CATALOGUE[dataset].files_of(part) for part in parts}
    paths = {path.name: path for path in raw if any(path.name in names for names in files.values())}
    published = {file.name: file for file in published_files(dataset)}
    for name, path in paths.items():
        require_checksum(path, published[name])
    splits = []
    for names in files.values():
        images, labels = (paths[name] for name in names)
        classes = _read(labels)
        # QMNIST keeps eight columns of provenance; the first is the class.
        classes = classes[:, 0] if classes.ndim == 2 else classes
        splits.append(Split(_read(images).astype(np.uint8), classes.astype(np.int64)))
    return splits


def _read(path: Path) -> NDArray[np.generic]:
    """Return the array that a packed file holds: two zeros, the type, the number of axes, their lengths, the values.

    The format is that of http://yann.lecun.com/exdb/mnist. torchvision's reader takes unpacked files by their name
    alone, and a temporary one may not fit on its disk.
    """
    with gzip.open(path) as packed:
        content = packed.read()
    kind, axes = struct.unpack_from(">2xBB", content)
    shape = struct.unpack_from(f">{axes}I", content, 4)
    values = np.frombuffer(content, _TYPES[kind], math.prod(shape), 4 + 4 * axes)
    return values.reshape(shape)


def _load_digits() -> dict[str, Split]:
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None] * (255.0 / 16.0)
    # 8x8 -> 20x20 in a frame of 4, as MNIST centres its digits.
    large = functional.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    images = functional.pad(large, (4, 4, 4, 4)).round().clamp(0, 255).to(torch.uint8)[:, 0].numpy()
    labels = digits.target.astype(np.int64)
    return {
        "train": Split(images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN]),
        "test": Split(images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:]),
    }
