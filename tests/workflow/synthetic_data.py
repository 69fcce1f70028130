"""Synthetic data sets in a local mirror; only the configuration declares them."""

from __future__ import annotations

import gzip
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDX_TYPES = {"u1": 8, "i4": 12, "f4": 13}
PARTS = ("train-inputs.gz", "train-labels.gz", "test-inputs.gz", "test-labels.gz")


@dataclass(frozen=True)
class SyntheticData:
    """A data set with a pattern for each class, and noise.

    Parameters
    ----------
    kind : {"image", "table"}
        The kind of an example.
    shape : tuple of int
        The shape of an example.
    classes : int
        The number of classes.
    train, test : int
        The numbers of examples.
    """

    kind: str
    shape: tuple[int, ...]
    classes: int
    train: int = 200
    test: int = 100

    def arrays(self) -> list[NDArray[Any]]:
        """Return inputs and labels for training, and for the test: pixels as uint8, columns as float32."""
        rng = np.random.default_rng(1)
        patterns = rng.normal(size=(self.classes, *self.shape))
        if self.kind == "image":
            # Squares of 4x4 pixels are equal: convolutions can learn them.
            small = rng.normal(size=(self.classes, self.shape[0], *(-(-side // 4) for side in self.shape[1:])))
            patterns = small.repeat(4, axis=2).repeat(4, axis=3)[..., : self.shape[1], : self.shape[2]]
        arrays: list[NDArray[Any]] = []
        for count in (self.train, self.test):
            labels = rng.permutation(np.arange(count) % self.classes)
            values = patterns[labels] + 0.5 * rng.normal(size=(count, *self.shape))
            pixels = (values * 40 + 128).clip(0, 255)
            arrays += [pixels.astype("u1") if self.kind == "image" else values.astype("f4"), labels.astype("u1")]
        return arrays

    def facts(self) -> dict[str, Any]:
        """Return shape, classes and normalisation for the configuration."""
        count = self.shape[0]
        pixels = {"mean": [0.5] * count, "deviation": [0.2] * count} if self.kind == "image" else {}
        return {"shape": list(self.shape), "classes": self.classes, **pixels}

    def write(self, mirror: Path, name: str) -> dict[str, Any]:
        """Write the files into ``mirror``, and return the entry of ``data.define``."""
        return write_dataset(mirror / name, self.arrays(), self.facts())


def write_dataset(folder: Path, arrays: list[NDArray[Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write inputs and labels for training and test as IDX files, and return the entry of ``data.define``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for file, array in zip(PARTS, arrays, strict=True):
        content = gzip.compress(encode_idx(array), mtime=0)
        (folder / file).write_bytes(content)
        files.append({"name": file, "md5": hashlib.md5(content).hexdigest()})
    return {"kind": "idx", "files": files, **facts}


def encode_idx(array: NDArray[Any]) -> bytes:
    """Return an array as an IDX file: two zeros, the type, the number of axes, their lengths, the values."""
    kind = array.dtype.str[1:]
    head = bytes([0, 0, IDX_TYPES[kind], array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.astype(f">{kind}").tobytes()


def parameter_count(model: str, shape: tuple[int, ...], classes: int) -> int:
    """Return the number of parameters of a model."""
    size = math.prod(shape)
    match model:
        case "logistic":
            return (size + 1) * classes
        case "mlp":
            return (size + 1) * 64 + (64 + 1) * classes
        case "square_cnn":
            outputs = 5 * math.prod((side - 10) // 3 + 1 for side in shape[1:])
            return 5 * (64 * shape[0] + 1) + 10 + (outputs + 1) * 64 + 128 + (64 + 1) * classes
        case _:
            outputs = 32 * math.prod(((side - 2) // 2 - 4) // 2 for side in shape[1:])
            return 16 * (64 * shape[0] + 1) + 32 + 32 * (256 + 1) + 64 + (outputs + 1) * 32 + (32 + 1) * classes
