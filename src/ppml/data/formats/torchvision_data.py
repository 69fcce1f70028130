"""The classes of torchvision.datasets, which read their own published files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import TorchvisionDataset

PART_OPTIONS: Mapping[str, Any] = {
    "SVHN": lambda part: {"split": part},
}
"""Class -> options of a part, for the classes without the option ``train``."""
FOLDERS = {"EMNIST": "EMNIST/raw"}
"""Class -> the folder of its archive; the others have it at the top."""


def read_torchvision(
    spec: TorchvisionDataset, files: Mapping[str, Path], part: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pictures, as the class yields them, and the labels of one official part.

    The class unpacks its archive in a temporary folder beside the files, so that no folder of a mirror changes. Its
    checksums of unpacked files are checked as well.
    """
    from torchvision import datasets

    beside = next(iter(files.values())).parent
    with tempfile.TemporaryDirectory(dir=beside, prefix=".unpacked-") as folder:
        archive_folder = Path(folder, FOLDERS.get(spec.dataset, ""))
        archive_folder.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            (archive_folder / name).symlink_to(path.resolve())
        own = PART_OPTIONS.get(spec.dataset, lambda part: {"train": part == "train"})(part)
        # The archive is there and has its checksum, so nothing is downloaded.
        found = getattr(datasets, spec.dataset)(folder, download=True, **own, **spec.options)
        pictures, labels = [], []
        for picture, label in found:
            pictures.append(np.asarray(picture))
            labels.append(int(label))
        return np.stack(pictures), np.asarray(labels, dtype=np.int64)
