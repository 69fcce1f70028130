"""How subsets, features and partitions lie on the disk, and how stages read them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ppml.data.catalogue import dataset_info
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_bytes


def write_examples(path: str | Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write raw pixels, uint8 ``(n, 28, 28)``, and labels, int64 ``(n,)``."""
    write_bytes(path, save({"images": torch.from_numpy(images.copy()), "labels": torch.from_numpy(labels.copy())}))


def write_features(path: str | Path, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Write features, ``(n, ..., features)``, as float16, and labels, int64 ``(n,)``.

    Half the bytes of float32: 20 MB for 10,000 images of 1,001 features. Features are below 1 in absolute value, and
    at most 2^-11 of each is rounded off.
    """
    write_bytes(path, save({"features": features.to(torch.float16), "labels": labels}))


def read_examples(path: str | Path, dataset: str, device: str = "cpu") -> Examples:
    """Return the examples of a file of :func:`write_features`, or of :func:`write_examples`.

    Images are normalised with the data set's public constants.

    Raises
    ------
    UserError
        The file is damaged.
    """
    tensors = _load(path)
    try:
        if "features" in tensors:
            return Examples(tensors["features"].to(torch.float32), tensors["labels"]).to(device)
        info = dataset_info(dataset)
        images = (tensors["images"][:, None].to(torch.float32) / 255.0 - info.mean) / info.deviation
        return Examples(images, tensors["labels"]).to(device)
    except KeyError as error:
        raise _damaged(path, error) from None


def read_ink(path: str | Path) -> Examples:
    """Return the examples of a file of :func:`write_examples` with pixels from 0 to 1, whatever the data set.

    Raises
    ------
    UserError
        The file is damaged.
    """
    tensors = _load(path)
    try:
        return Examples(tensors["images"][:, None].to(torch.float32) / 255.0, tensors["labels"])
    except KeyError as error:
        raise _damaged(path, error) from None


def _load(path: str | Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
        return tensors
    except SafetensorError as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: is damaged ({error}); delete it and run again")


def read_partition(path: str | Path) -> list[torch.Tensor]:
    """Return each client's positions in the training subset, int64."""
    return [torch.tensor(part, dtype=torch.int64) for part in read_json(path)["clients"]]


def owned_by(train: Examples, partition: str | None) -> list[Examples]:
    """Return each owner's examples; one owner holds all where there is no partition."""
    if not partition:
        return [train]
    return [train.select(part.to(train.labels.device)) for part in read_partition(partition)]
