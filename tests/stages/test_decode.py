"""The stage decode: pictures of archives and folders as arrays, which the subsets are chosen from."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torchvision import datasets

from ppml.config.datasets import Dataset, parse_dataset
from ppml.data.loading import DECODED, load_splits
from ppml.errors import UserError
from tests.data.formats.pictures import CLASSES, encode, pixels, write_archive, write_folder

from .conftest import run_stage

FILES = {
    f"{cls}/{number}.png": encode(pixels(10 * place + number))
    for place, cls in enumerate(CLASSES)
    for number in range(8)
}
ENTRY = {"kind": "folder", "shape": [3, 4, 6], "classes": list(CLASSES), "split": {"kind": "last", "test": 4}}


def published(path: Path, **keys: Any) -> Dataset:
    """Return a data set of pictures in a published archive."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return parse_dataset({**ENTRY, "files": [{"name": path.name, "sha256": sha256}], **keys})


def decode(spec: Dataset, place: Path, inputs: dict[str, Path], **notes: str) -> dict[str, NDArray[Any]]:
    """Run the stage as the workflow does, and return the tensors that it writes."""
    source = spec.model_dump(mode="json", exclude={"folder"})
    run_stage("decode", {"source": source}, inputs, {"decoded": place / "decoded"}, notes=notes)
    return load_file(place / "decoded")


def test_decoded_archive_is_what_subsets_read(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "pictures.tar.xz", FILES)
    spec = published(path)
    found = decode(spec, tmp_path, {path.name: path})
    assert found["train_images"].shape == (16, 3, 4, 6) and {*found} == {"train_images", "train_labels"}
    train, test = load_splits(spec, {DECODED: tmp_path / "decoded"})
    assert np.array_equal(np.concatenate([train.inputs, test.inputs]), found["train_images"])
    assert (len(train), len(test), train.labels.dtype) == (12, 4, np.int64)


def test_official_parts_are_decoded(tmp_path: Path) -> None:
    files = {
        f"{part}/{name}": FILES[name] for name in FILES for part in ("train", "test") if part == "train" or "1" in name
    }
    path = write_archive(tmp_path / "pictures.zip", files)
    spec = published(path, split={"kind": "official"})
    decode(spec, tmp_path, {path.name: path})
    train, test = load_splits(spec, {DECODED: tmp_path / "decoded"})
    assert len(train) == 16 and sorted(test.labels.tolist()) == [0, 1]
    (only,) = load_splits(spec, {DECODED: tmp_path / "decoded"}, ("test",))
    assert np.array_equal(only.inputs, test.inputs)


def test_folder_of_a_user_is_decoded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pictures", FILES)
    spec = parse_dataset({**ENTRY, "folder": str(folder)})
    found = decode(spec, tmp_path, {}, folder=str(folder))
    assert found["train_images"].shape == (16, 3, 4, 6)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "pictures.tar.gz", FILES)
    decode(published(path), tmp_path, {path.name: path})
    first = (tmp_path / "decoded").read_bytes()
    decode(published(path), tmp_path, {path.name: path})
    assert (tmp_path / "decoded").read_bytes() == first


def test_archive_with_other_checksum_is_not_opened(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "pictures.zip", FILES)
    spec = published(path)
    write_archive(path, {"cat/0.png": b"x"})
    with pytest.raises(UserError, match=r"has SHA-256 .* is not used") as caught:
        decode(spec, tmp_path, {path.name: path})
    assert str(caught.value).startswith(f"{path}: ") and not (tmp_path / "decoded").exists()


def test_bad_picture_leaves_no_file(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "pictures.zip", {**FILES, "cat/9.png": b"x"})
    with pytest.raises(UserError, match=r"cat/9\.png is no PNG or JPEG"):
        decode(published(path), tmp_path, {path.name: path})
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_emnist_is_decoded_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    labels = np.arange(6, dtype=np.uint8)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
            for kind, values in (("images-idx3", pictures[rows]), ("labels-idx1", labels[rows])):
                head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
                packed = gzip.compress(head + values.tobytes())
                archive.writestr(f"gzip/emnist-balanced-{part}-{kind}-ubyte.gz", packed)
    path = tmp_path / "gzip.zip"
    path.write_bytes(content.getvalue())
    md5 = hashlib.md5(content.getvalue(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(datasets.EMNIST, "md5", md5)
    entry = {"kind": "torchvision", "dataset": "EMNIST", "options": {"split": "balanced"}, "transpose": True}
    spec = parse_dataset({**entry, "shape": [1, 28, 28], "classes": 6, "files": [{"name": "gzip.zip", "md5": md5}]})
    found = decode(spec, tmp_path, {"gzip.zip": path})
    assert np.array_equal(found["train_images"][:, 0], pictures[:4].swapaxes(1, 2))
    assert np.array_equal(found["test_images"][:, 0], pictures[4:].swapaxes(1, 2))
    assert (found["train_labels"].tolist(), found["test_labels"].tolist()) == ([0, 1, 2, 3], [4, 5])


def test_small_archive_of_the_real_pictures_is_decoded(tmp_path: Path) -> None:
    """The layout of the archive with CIFAR-10 as JPEG pictures, with the pixels of Pillow."""
    classes = ("airplane", "automobile")
    contents = {f"{part}/{cls}/{number:04}.jpg": encode(pixels(number + len(cls), 32, 32), "JPEG", quality=75)
                for part in ("train", "test") for cls in classes for number in range(5)}  # fmt: skip
    path = write_archive(tmp_path / "cifar10-jpeg.tar.xz", contents)
    spec = published(path, shape=[3, 32, 32], classes=list(classes), split={"kind": "official"})
    found = decode(spec, tmp_path, {path.name: path})
    assert found["train_images"].shape == found["test_images"].shape == (10, 3, 32, 32)
    assert np.bincount(found["train_labels"]).tolist() == [5, 5]
