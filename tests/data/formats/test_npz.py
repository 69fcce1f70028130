"""Arrays of pictures in .npz and IDX files: right inputs, and one line for each fault."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ppml.config.datasets import NpzDataset, parse_dataset
from ppml.data.formats.idx import read_idx
from ppml.data.formats.npz import read_npz
from ppml.data.loading import load_splits
from ppml.data.raw_examples import RawExamples
from ppml.errors import UserError

from .tables import one_line

RNG = np.random.default_rng(0)
GRAY, COLOUR = RNG.integers(0, 256, (12, 28, 28), np.uint8), RNG.integers(0, 256, (12, 28, 28, 3), np.uint8)
LABELS = np.arange(12, dtype=np.int64)[:, None] % 3


def npz_spec(path: Path, shape: tuple[int, ...] = (1, 28, 28), **keys: Any) -> NpzDataset:
    """Return a data set of one file."""
    spec = parse_dataset({"kind": "npz", "files": [str(path)], "shape": list(shape), "classes": 3, **keys})
    assert isinstance(spec, NpzDataset)
    return spec


def load(path: Path, shape: tuple[int, ...] = (1, 28, 28), **keys: Any) -> list[RawExamples]:
    """Return training and test examples of a file."""
    return load_splits(npz_spec(path, shape, **keys), {str(path): path})


def save(path: Path, images: Any = GRAY, labels: Any = LABELS, **others: Any) -> Path:
    """Write a file in the layout of MedMNIST, and return its path."""
    parts = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, None)}
    arrays = {
        f"{part}_{kind}": values[rows]
        for part, rows in parts.items()
        for kind, values in (("images", images), ("labels", labels))
    }
    np.savez_compressed(path, **{**arrays, **others})
    return path


# --- right examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [GRAY, COLOUR], ids=["gray", "colour"])
def test_layout_of_medmnist_is_read(images: NDArray[np.uint8], tmp_path: Path) -> None:
    train, test = load(
        save(tmp_path / "a.npz", images), (images[..., None].shape[3] if images.ndim == 4 else 1, 28, 28)
    )
    expected = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    assert np.array_equal(train.inputs, expected[:6]) and np.array_equal(test.inputs, expected[8:])
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2] and test.labels.tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (GRAY, (1, 28, 28)),
        (GRAY.reshape(12, 784), (1, 28, 28)),
        (GRAY[:, None], (1, 28, 28)),
        (GRAY[..., None], (1, 28, 28)),
        (np.asfortranarray(GRAY), (1, 28, 28)),
    ],
)
def test_axes_may_have_any_order(images: NDArray[np.uint8], shape: tuple[int, ...], tmp_path: Path) -> None:
    train, _ = load(save(tmp_path / "a.npz", images), shape)
    assert np.array_equal(train.inputs[:, 0], GRAY[:6])


@pytest.mark.parametrize("kind", [">i8", "<i4", "u1", ">u2", "<u8"])
@pytest.mark.parametrize("axes", [1, 2])
def test_labels_of_every_type_are_read(kind: str, axes: int, tmp_path: Path) -> None:
    labels = LABELS.astype(kind) if axes == 2 else LABELS[:, 0].astype(kind)
    train, _ = load(save(tmp_path / "a.npz", labels=labels))
    assert train.labels.dtype == np.int64 and train.labels.dtype.isnative and train.labels[1] == 1


@pytest.mark.parametrize(
    ("images", "white"),
    [
        (GRAY.astype(np.float32) / 255, 1),
        (GRAY.astype(">f8") / 255, 1.0),
        (GRAY.astype(">u2") * 257, 65535),
        (GRAY.astype("<i4") * 4, 1020),
        (GRAY // 16, 15),
    ],
)
def test_white_may_be_another_number(images: NDArray[Any], white: float, tmp_path: Path) -> None:
    train, _ = load(save(tmp_path / "a.npz", images), white=white)
    expected = GRAY[:6] if white != 15 else (GRAY[:6] // 16) * 17
    assert train.inputs.dtype == np.uint8 and np.array_equal(train.inputs[:, 0], expected)


def test_pictures_are_resized_framed_and_transposed(tmp_path: Path) -> None:
    whole = load(save(tmp_path / "a.npz", COLOUR), (3, 28, 28), transpose=True)[0].inputs
    assert np.array_equal(whole, COLOUR[:6].transpose(0, 3, 2, 1))
    framed = load(tmp_path / "a.npz", (3, 30, 30), border=1)[0].inputs
    assert np.array_equal(framed[:, :, 1:-1, 1:-1], COLOUR[:6].transpose(0, 3, 1, 2)) and not framed[:, :, 0].any()
    half = load(tmp_path / "a.npz", (3, 14, 14), resize=[14, 14])[0].inputs
    assert half.shape == (6, 3, 14, 14) and half.mean() == pytest.approx(COLOUR[:6].mean(), rel=0.02)


def test_numbers_of_a_table_without_columns_are_read(tmp_path: Path) -> None:
    numbers = RNG.normal(size=(12, 5)).astype(">f8")
    train, _ = load(save(tmp_path / "a.npz", numbers), (5,))
    assert train.inputs.dtype == np.float32 and np.array_equal(train.inputs, numbers[:6].astype(np.float32))
    numbers[9, 2] = np.nan
    one_line(tmp_path / "a.npz", lambda: load(save(tmp_path / "a.npz", numbers), (5,)), "row 2, column 3", "nan")
    one_line(tmp_path / "a.npz", lambda: load(save(tmp_path / "a.npz", numbers * 1e300), (5,)), "row 1, column 1")


def test_other_arrays_and_splits_are_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=GRAY, y=LABELS)
    train, test = load(path, train_arrays=["x", "y"], split={"kind": "last", "test": 5})
    assert np.array_equal(np.concatenate([train.inputs, test.inputs])[:, 0], GRAY) and len(test) == 5
    train, test = load(path, test_arrays=["val_images", "val_labels"])
    assert np.array_equal(test.inputs[:, 0], GRAY[6:8])


# --- faults ---------------------------------------------------------------------------------------------------------


class Trap:
    """An object whose pickle runs code."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize(
    ("images", "labels", "shape", "pieces"),
    [
        (GRAY.astype(np.float32), LABELS, (1, 28, 28), ["train_images", "float32", "uint8", "white"]),
        (GRAY.astype(np.int64), LABELS, (1, 28, 28), ["train_images", "int64", "white"]),
        (GRAY > 9, LABELS, (1, 28, 28), ["train_images", "bool"]),
        (GRAY.astype(np.complex64), LABELS, (1, 28, 28), ["train_images", "complex64"]),
        (GRAY.astype("U3"), LABELS, (1, 28, 28), ["train_images", "<U3"]),
        (np.zeros(12, [("a", "u1")]), LABELS, (1, 28, 28), ["train_images", "'a'"]),
        (GRAY, LABELS, (1, 28, 27), ["train_images", "28x28", "1x28x27", "resize"]),
        (GRAY, LABELS, (3, 28, 28), ["train_images", "28x28", "3x28x28"]),
        (COLOUR, LABELS, (1, 28, 28), ["train_images", "28x28x3", "1x28x28"]),
        (np.concatenate([COLOUR, COLOUR[..., :1]], 3), LABELS, (3, 28, 28), ["train_images", "28x28x4", "3x28x28"]),
        (GRAY[:, 0, 0], LABELS, (1, 28, 28), ["train_images", "()"]),
        (GRAY, LABELS.astype(float), (1, 28, 28), ["train_labels", "float64", "integers"]),
        (GRAY, LABELS.astype("U1"), (1, 28, 28), ["train_labels", "<U1"]),
        (GRAY, LABELS + 1, (1, 28, 28), ["train_labels", "example 3 has label 3", "3 classes, 0 to 2"]),
        (GRAY, LABELS - 1, (1, 28, 28), ["train_labels", "example 1 has label -1"]),
        (GRAY, np.eye(3, dtype=int)[LABELS[:, 0]], (1, 28, 28), ["train_labels", "6x3", "one for each example"]),
        (GRAY, LABELS[..., None], (1, 28, 28), ["train_labels", "6x1x1"]),
        (GRAY, LABELS[:, :0], (1, 28, 28), ["train_labels", "6x0"]),
        (GRAY, LABELS[:5], (1, 28, 28), ["has 6 examples", "has 5 labels"]),
    ],
)  # fmt: skip
def test_wrong_array_is_named(
    images: Any, labels: Any, shape: tuple[int, ...], pieces: list[str], tmp_path: Path
) -> None:
    path = save(tmp_path / "a.npz", images, labels)
    one_line(path, lambda: load(path, shape), *pieces)


@pytest.mark.parametrize(
    ("images", "white"),
    [
        (GRAY, 1),
        (GRAY.astype(float) - 1, 255.5),
        (np.where(GRAY > 250, np.nan, 0.5), 1),
        (np.full(GRAY.shape, np.inf), 1),
    ],
)
def test_pixel_outside_black_and_white_is_refused(images: NDArray[Any], white: float, tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images)
    one_line(path, lambda: load(path, white=white), "train_images", "white")


def test_array_without_axes_and_without_examples_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", train_images=np.uint8(3))
    one_line(path, lambda: load(path), "train_images", "()")
    path = save(tmp_path / "a.npz", train_labels=np.int64(3))
    one_line(path, lambda: load(path), "train_labels", "()")
    path = save(tmp_path / "a.npz", train_images=GRAY[:0], train_labels=LABELS[:0])
    one_line(path, lambda: load(path), "train_labels", "0x1")


def test_missing_array_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train_image=GRAY, train_labels=LABELS)
    one_line(path, lambda: load(path), "no array 'train_images'", "did you mean 'train_image'", "train_arrays")
    with zipfile.ZipFile(path, "w"):
        pass
    one_line(path, lambda: load(path), "no array 'train_images'", "none")


@pytest.mark.parametrize("structured", [False, True])
def test_pickled_objects_are_not_loaded(structured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.array([Trap()] * 6, dtype=object)
    trap = np.array([(Trap(),)] * 6, dtype=[("a", object)]) if structured else trap
    path = save(tmp_path / "a.npz", train_images=trap)
    one_line(path, lambda: load(path), "train_images", "objects of Python")
    assert [one.name for one in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("damage", ["empty", "text", "array", "short", "content", "no array", "huge", "locked"])
def test_damaged_npz_is_one_line(damage: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    plain = path.read_bytes()
    single, huge = io.BytesIO(), io.BytesIO()
    np.save(single, GRAY)
    with zipfile.ZipFile(huge, "w") as archive:
        content = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            content, {"descr": "|u1", "fortran_order": False, "shape": (10**13, 28, 28)}
        )
        archive.writestr("train_images.npy", content.getvalue() if damage == "huge" else b"no array")
    locked = bytearray(plain)
    locked[plain.index(b"PK\x01\x02") + 8] |= 1
    half = len(plain) // 4
    path.write_bytes(
        {
            "empty": b"",
            "text": b"text",
            "array": single.getvalue(),
            "short": plain[:-1],
            "content": plain[:half] + bytes(byte ^ 255 for byte in plain[half : half + 100]) + plain[half + 100 :],
            "no array": huge.getvalue(),
            "huge": huge.getvalue(),
            "locked": bytes(locked),
        }[damage]
    )
    one_line(path, lambda: load(path))


def test_no_damaged_npz_ends_in_another_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, train_images=GRAY[:2, :4, :4], train_labels=LABELS[:2])
    plain = path.read_bytes()
    for number in range(200):
        rng, content = np.random.default_rng(number), bytearray(plain)
        for place in rng.integers(0, len(content), 2):
            content[place] = rng.integers(256)
        path.write_bytes(bytes(content))
        try:
            read_npz(path, ["train_images", "train_labels"])
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


# --- IDX ------------------------------------------------------------------------------------------------------------


def idx(kind: int, shape: tuple[int, ...], values: bytes) -> bytes:
    """Return an IDX file."""
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + values


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (idx(8, (2, 2), bytes(5)), ["17 bytes", "2x2 needs 16"]),
        (idx(8, (2, 2), bytes(3)), ["15 bytes", "2x2 needs 16"]),
        (idx(12, (2,), bytes(7)), ["15 bytes", "needs 16"]),
        (idx(8, (), b""), ["no IDX file"]),
        (idx(8, (2**32 - 1,) * 9, bytes(9)), ["no IDX file"]),
        (idx(8, (0, 28, 28), b"x"), ["0x28x28 needs 16"]),
        (idx(7, (2,), bytes(2)), ["type 7"]),
        (b"\1\0" + idx(8, (2,), bytes(2))[2:], ["no IDX file"]),
        (idx(8, (2, 2), b"")[:9], ["no IDX file"]),
        (b"\0\0\x08", ["no IDX file"]),
    ],
)
def test_damaged_idx_is_one_line(content: bytes, pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a"
    for packed in (content, gzip.compress(content)):
        path.write_bytes(packed)
        one_line(path, lambda: read_idx(path), *pieces)


def test_first_column_of_labels_is_the_class_in_idx_files_only(tmp_path: Path) -> None:
    """QMNIST has eight columns of labels, of which the first is the class."""
    names = ["train_x", "train_y", "test_x", "test_y"]
    labels = np.concatenate([LABELS, LABELS + 9], axis=1).astype(">i4")
    for name in names:
        content = idx(8, GRAY.shape, GRAY.tobytes()) if name.endswith("x") else idx(12, labels.shape, labels.tobytes())
        (tmp_path / name).write_bytes(content)
    files = {str(tmp_path / name): tmp_path / name for name in names}
    spec = parse_dataset({"kind": "idx", "files": [*files], "shape": [1, 28, 28], "classes": 3})
    train, test = load_splits(spec, files)
    assert train.labels.tolist() == LABELS[:, 0].tolist() and np.array_equal(test.inputs[:, 0], GRAY)
