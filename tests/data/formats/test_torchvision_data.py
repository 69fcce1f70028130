"""The classes of torchvision.datasets: each reads its own files, which are made here in the published layout."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat
from torchvision import datasets
from torchvision.datasets import mnist

from ppml.config.datasets import EMNIST_SPLITS, PARTS, TorchvisionDataset, parse_dataset
from ppml.data.formats.pictures import picture_examples
from ppml.data.formats.torchvision_data import read_torchvision, torchvision_folder

from .tables import one_line


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def spec_of(dataset: str, files: Mapping[str, Path], classes: int, shape: list[int], **keys: Any) -> TorchvisionDataset:
    """Return a data set whose files have their own checksums."""
    listed = [{"name": name, "md5": md5(path.read_bytes())} for name, path in files.items()]
    content = {"kind": "torchvision", "dataset": dataset, "classes": classes, "shape": shape, "files": listed}
    spec = parse_dataset({**content, **keys})
    assert isinstance(spec, TorchvisionDataset)
    return spec


def read(spec: TorchvisionDataset, files: Mapping[str, Path], part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return pictures and labels of one part."""
    with torchvision_folder(spec, files, (part,)) as folder:
        return read_torchvision(spec, folder, part)


def write(path: Path, content: bytes) -> dict[str, Path]:
    """Write a file, and return it by its name."""
    path.write_bytes(content)
    return {path.name: path}


def empty_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("gzip/", "")
    return content.getvalue()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail in place of a download."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *arguments, **options: pytest.fail("a file is downloaded"))


# --- EMNIST ---------------------------------------------------------------------------------------------------------


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def emnist_pictures(split: str, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return made pictures and labels, others for each split and part."""
    rng = np.random.default_rng(len(split) * 10 + len(part))
    count = 6 + EMNIST_SPLITS.index(split) + (part == "train")
    return rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(1, 10, count).astype(np.uint8)


@pytest.fixture
def emnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Return an archive in the layout of EMNIST; the class knows its checksum."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for split in EMNIST_SPLITS:
            for part in ("train", "test"):
                pictures, labels = emnist_pictures(split, part)
                start = f"gzip/emnist-{split}-{part}"
                archive.writestr(f"{start}-images-idx3-ubyte.gz", gzip.compress(idx(pictures)))
                archive.writestr(f"{start}-labels-idx1-ubyte.gz", gzip.compress(idx(labels)))
                archive.writestr(f"gzip/emnist-{split}-mapping.txt", "0 48\n") if part == "train" else None
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(content.getvalue()))
    (tmp_path / "raw").mkdir()
    return write(tmp_path / "raw" / "gzip.zip", content.getvalue())


def test_splits_are_those_of_torchvision() -> None:
    assert datasets.EMNIST.splits == EMNIST_SPLITS


@pytest.mark.parametrize("split", EMNIST_SPLITS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_emnist_reads_its_own_files(split: str, part: str, emnist: dict[str, Path]) -> None:
    """The class inherits the list of MNIST's files, and reads other files."""
    spec = spec_of("EMNIST", emnist, 10, [1, 28, 28], options={"split": split}, transpose=True)
    pictures, labels = read(spec, emnist, part)
    expected, classes = emnist_pictures(split, part)
    assert np.array_equal(pictures, expected) and np.array_equal(labels, classes)
    examples = picture_examples(spec, pictures, labels, ("a", "b"))
    assert np.array_equal(examples.inputs[:, 0], expected.swapaxes(1, 2)) and examples.labels.dtype == np.int64


def test_no_file_remains_and_no_file_changes(emnist: dict[str, Path]) -> None:
    archive = emnist["gzip.zip"]
    before = archive.read_bytes()
    archive.chmod(0o444)
    read(spec_of("EMNIST", emnist, 10, [1, 28, 28], options={"split": "digits"}), emnist, "test")
    assert archive.read_bytes() == before and list(archive.parent.iterdir()) == [archive]


def test_archive_is_unpacked_once_for_both_parts(emnist: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls, unpack = [], mnist.download_and_extract_archive
    monkeypatch.setattr(
        mnist, "download_and_extract_archive", lambda *given, **keys: calls.append(given) or unpack(*given, **keys)
    )
    spec = spec_of("EMNIST", emnist, 10, [1, 28, 28], options={"split": "digits"})
    with torchvision_folder(spec, emnist, PARTS) as folder:
        for part in PARTS:
            assert np.array_equal(read_torchvision(spec, folder, part)[0], emnist_pictures("digits", part)[0])
    assert len(calls) == 1


def test_interrupted_unpacking_is_never_read(emnist: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    archive = emnist["gzip.zip"]
    spec = spec_of("EMNIST", emnist, 10, [1, 28, 28], options={"split": "digits"})
    # A killed job leaves its folder, here with a file cut short.
    left = archive.parent / ".unpacked-left" / "EMNIST" / "raw"
    left.mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        (left / f"emnist-digits-train-{kind}-ubyte").write_bytes(b"half")
    unpack = mnist.extract_archive

    def full_disk(source: str, target: str) -> str:
        if "digits-train-labels" in source:
            raise OSError(errno.ENOSPC, "no space left")
        return str(unpack(source, target))

    with monkeypatch.context() as patched:
        patched.setattr(mnist, "extract_archive", full_disk)
        with pytest.raises(OSError, match="no space left"):
            read(spec, emnist, "train")
    assert {path.name for path in archive.parent.iterdir()} == {archive.name, ".unpacked-left"}
    assert np.array_equal(read(spec, emnist, "train")[0], emnist_pictures("digits", "train")[0])


def test_other_archive_is_refused_before_the_class_replaces_it(emnist: dict[str, Path]) -> None:
    archive = emnist["gzip.zip"]
    archive.write_bytes(archive.read_bytes() + b"x")
    before = archive.read_bytes()
    spec = spec_of("EMNIST", emnist, 10, [1, 28, 28], options={"split": "digits"})
    one_line(archive, lambda: read(spec, emnist, "train"), md5(before), datasets.EMNIST.md5)
    assert archive.read_bytes() == before


@pytest.mark.parametrize("content", [b"no archive", empty_zip()], ids=["text", "empty"])
def test_archive_without_the_split_is_refused(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(content))
    files = write(tmp_path / "gzip.zip", content)
    spec = spec_of("EMNIST", files, 10, [1, 28, 28], options={"split": "digits"})
    place = Path("torchvision.datasets.EMNIST, train")
    one_line(place, lambda: read(spec, files, "train"), "cannot be read")
    assert list(tmp_path.iterdir()) == [tmp_path / "gzip.zip"]


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def cifar_batch(number: int, label_key: str) -> tuple[NDArray[np.uint8], list[int], bytes]:
    rng = np.random.default_rng(number)
    pictures, labels = rng.integers(0, 256, (4, 3, 32, 32), np.uint8), rng.integers(0, 10, 4).tolist()
    return pictures, labels, pickle.dumps({"data": pictures.reshape(4, -1), label_key: labels})


@pytest.mark.parametrize("dataset", ["CIFAR10", "CIFAR100"])
def test_cifar_is_read(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = getattr(datasets, dataset)
    names = [name for name, _ in (*cls.train_list, *cls.test_list)]
    batches = {
        name: cifar_batch(place, "labels" if dataset == "CIFAR10" else "fine_labels")
        for place, name in enumerate(names)
    }
    contents = {name: batch[2] for name, batch in batches.items()}
    contents[cls.meta["filename"]] = pickle.dumps({cls.meta["key"]: list("0123456789")})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{cls.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    files = write(tmp_path / cls.filename, packed.getvalue())
    spec = spec_of(dataset, files, 10, [3, 32, 32])
    one_line(tmp_path / cls.filename, lambda: read(spec, files, "train"), cls.tgz_md5)
    monkeypatch.setattr(cls, "tgz_md5", md5(packed.getvalue()))
    one_line(Path(f"torchvision.datasets.{dataset}, train"), lambda: read(spec, files, "train"), "corrupted")
    for key in ("train_list", "test_list"):
        monkeypatch.setattr(cls, key, [[name, md5(contents[name])] for name, _ in getattr(cls, key)])
    monkeypatch.setitem(cls.meta, "md5", md5(contents[cls.meta["filename"]]))
    for part, listed in (("train", cls.train_list), ("test", cls.test_list)):
        pictures, labels = read(spec, files, part)
        assert np.array_equal(pictures.transpose(0, 3, 1, 2), np.concatenate([batches[name][0] for name, _ in listed]))
        assert labels.tolist() == [label for name, _ in listed for label in batches[name][1]]
    assert list(tmp_path.iterdir()) == [tmp_path / cls.filename]


# --- files without an archive ---------------------------------------------------------------------------------------


def test_svhn_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, files, lists = np.random.default_rng(0), {}, {}
    expected = {}
    for part in ("train", "test"):
        pictures, labels = (
            rng.integers(0, 256, (32, 32, 3, 5), np.uint8),
            np.array([[1], [10], [2], [9], [10]], np.uint8),
        )
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": pictures, "y": labels})
        files[path.name], expected[part] = path, pictures.transpose(3, 0, 1, 2)
        lists[part] = ["http://nowhere", path.name, md5(path.read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    spec = spec_of("SVHN", files, 10, [3, 32, 32])
    for part in ("train", "test"):
        pictures, classes = read(spec, files, part)
        assert np.array_equal(pictures, expected[part]) and classes.tolist() == [1, 0, 2, 9, 0]
    only = {name: path for name, path in files.items() if name.startswith("train")}
    one_line(Path("files"), lambda: read(spec_of("SVHN", only, 10, [3, 32, 32]), only, "test"), "test_32x32.mat")


def test_usps_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, files, lists = np.random.default_rng(0), {}, {}
    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        rows = (
            f"{label} " + " ".join(f"{place + 1}:{value}" for place, value in enumerate(rng.choice([-1, 1], 256)))
            for label in (1, 10)
        )
        files |= write(tmp_path / name, bz2.compress("\n".join(rows).encode()))
        lists[part] = ["http://nowhere", name, md5(files[name].read_bytes())]
    monkeypatch.setattr(datasets.USPS, "split_list", lists)
    spec = spec_of("USPS", files, 10, [1, 16, 16])
    for part in ("train", "test"):
        pictures, classes = read(spec, files, part)
        assert pictures.shape == (2, 16, 16) and {*np.unique(pictures)} == {0, 255} and classes.tolist() == [0, 9]
    files["usps.bz2"].write_bytes(files["usps.bz2"].read_bytes()[:-4])
    lists["train"][2] = md5(files["usps.bz2"].read_bytes())
    one_line(Path("torchvision.datasets.USPS, train"), lambda: read(spec, files, "train"), "cannot be read")
