"""The official train and test files as arrays, through torchvision's loaders, and the digits fallback."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.data.catalogue import CATALOGUE, DIGITS
from ppml.data.sources import published_files, require_checksum

DIGITS_TRAIN = 1_437
"""Images of the fixed split of scikit-learn's 1,797 digits that train; the last 360 test."""


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
    """Return the official splits of ``dataset`` that ``parts`` names; no image or label of another is read.

    Parameters
    ----------
    dataset : str
        A name from the catalogue.
    raw : sequence of Path
        The published files, which are checked; none for the digits, which are inside scikit-learn.
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
    from torchvision import datasets

    cls: Any = getattr(datasets, CATALOGUE[dataset].torchvision_class)
    # torchvision unpacks beside the files it reads; a temporary folder keeps data/raw as it was published.
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / cls.__name__ / "raw"
        folder.mkdir(parents=True)
        published = {file.name: file for file in published_files(dataset)}
        for path in raw:
            require_checksum(path, published[path.name], str(path.parent))
            (folder / path.name).symlink_to(path.resolve())
        return [_split(cls(root, train=part == "train", download=True)) for part in parts]


def _split(dataset: Any) -> Split:
    labels = dataset.targets
    # QMNIST keeps eight columns of provenance; the first is the class.
    labels = labels[:, 0] if labels.ndim == 2 else labels
    return Split(dataset.data.numpy(), labels.numpy().astype(np.int64))


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
