"""The official files of data sets as arrays."""

import gzip
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from ppml.config.datasets import DATASETS
from ppml.data.formats.idx import read_idx
from ppml.data.loading import load_splits
from ppml.errors import UserError
from ppml.stages.example_files import read_examples, write_examples

MNIST, DIGITS = DATASETS["mnist"], DATASETS["digits"]


def test_mnist_has_published_labels_and_shape(published):
    train, test = load_splits(MNIST, published("mnist"))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (train.inputs.shape, test.inputs.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert (train.inputs.dtype, train.labels.dtype) == (np.uint8, np.int64)


KINDS = {torch.uint8: 8, torch.int8: 9, torch.int16: 11, torch.int32: 12, torch.float32: 13, torch.float64: 14}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 5, 4)])
def test_every_idx_type_is_read_as_by_torchvision(kind, shape, tmp_path):
    count = math.prod(shape)
    values = (torch.arange(count) * 977 - 300).to(kind).reshape(shape)
    head = bytes([0, 0, KINDS[kind], len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
    content = head + values.numpy().astype(values.numpy().dtype.newbyteorder(">")).tobytes()
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "file.gz").write_bytes(gzip.compress(content))
    expected = read_sn3_pascalvincent_tensor(str(tmp_path / "file")).numpy()
    for name in ("file", "file.gz"):
        found = read_idx(tmp_path / name)
        assert np.array_equal(found, expected) and np.array_equal(found, values.numpy())
        assert found.dtype.newbyteorder("=") == expected.dtype


@pytest.mark.parametrize(
    "content",
    [
        b"plain",
        bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2, 3, 4]),
        gzip.compress(bytes(100), mtime=0)[:-9],
        gzip.compress(bytes(100), mtime=0)[:-8] + bytes(8),
        gzip.compress(b"short", mtime=0),
        b"",
    ],
    ids=["text", "short array", "truncated", "wrong sum", "no array", "empty"],
)
def test_unreadable_idx_file_is_one_line(content, tmp_path):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(UserError, match="is no ") as caught:
        read_idx(tmp_path / "file.gz")
    assert str(caught.value).startswith(f"{tmp_path / 'file.gz'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_published_files_are_read_as_by_torchvision(dataset, published, tmp_path):
    test = {name: path for name, path in published(dataset).items() if name.startswith("t10k-")}
    (split,) = load_splits(DATASETS[dataset], test, ["test"])
    for path, values in zip(sorted(test.values()), (split.inputs[:, 0], split.labels), strict=True):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        assert np.array_equal(read_sn3_pascalvincent_tensor(str(tmp_path / path.stem)).numpy(), values)


def test_loading_makes_no_temporary_file(published, monkeypatch):
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: pytest.fail("a temporary file is made"))
    (test,) = load_splits(MNIST, published("mnist"), ["test"])
    assert test.inputs.shape == (10_000, 1, 28, 28)


def test_loading_changes_no_folder(published):
    folder = next(iter(published("mnist").values())).parent
    before = sorted(path.name for path in folder.iterdir())
    load_splits(MNIST, published("mnist"), ["train"])
    assert sorted(path.name for path in folder.iterdir()) == before


def test_part_needs_its_own_files_only(published, tmp_path):
    train_files = {name: path for name, path in published("mnist").items() if name.startswith("train-")}
    absent = {file.name: tmp_path / file.name for file in MNIST.files_of("test")}
    (train,) = load_splits(MNIST, train_files, ["train"])
    (same,) = load_splits(MNIST, {**absent, **train_files}, ["train"])
    assert np.array_equal(train.inputs, same.inputs) and len(train.labels) == 60_000
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        load_splits(MNIST, {**absent, **train_files}, ["train", "test"])


def test_corrupted_file_is_refused_by_checksum(published, tmp_path):
    files = {}
    for name, path in published("mnist").items():
        files[name] = tmp_path / name
        files[name].write_bytes(path.read_bytes() if "labels" in name else gzip.compress(b"not the images"))
    with pytest.raises(UserError) as caught:
        load_splits(MNIST, files)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/train-images-idx3-ubyte.gz: has MD5 ")
    assert "f68b3c2dcbeaaa9fbdd348bbdeb94873" in message and message.endswith("; move it elsewhere, and run again")


def test_digits_have_fixed_split():
    train, test = load_splits(DIGITS, {})
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert train.labels[:10].tolist() == list(range(10))
    assert train.inputs.shape == (1437, 1, 28, 28) and train.inputs.dtype == np.uint8
    assert np.array_equal(np.concatenate([train.labels, test.labels]), load_digits().target)
    again, _ = load_splits(DIGITS, {})
    assert np.array_equal(train.inputs, again.inputs)


def test_digits_fill_pixel_range_inside_frame_of_four():
    train, test = load_splits(DIGITS, {})
    images = np.concatenate([train.inputs, test.inputs])
    assert (images.min(), images.max()) == (0, 255)
    frame = np.ones((28, 28), dtype=bool)
    frame[4:-4, 4:-4] = False
    assert not images[:, 0, frame].any()
    assert images[:, 0, ~frame].any(axis=0).mean() > 0.9


def test_splits_of_digits_are_disjoint():
    train, test = load_splits(DIGITS, {})
    seen = {image.tobytes() for image in train.inputs}
    assert not any(image.tobytes() in seen for image in test.inputs)


@pytest.mark.parametrize("spec", [MNIST, DIGITS], ids=["mnist", "digits"])
@pytest.mark.parametrize("pixel", [0, 51, 255])
def test_normalisation_uses_public_constants_only(spec, pixel, tmp_path):
    contract = spec.contract
    expected = torch.full((28, 28), (pixel / 255 - contract.mean[0]) / contract.deviation[0])
    planted = np.full((1, 28, 28), pixel, dtype=np.uint8)
    for number, others in enumerate((0, 255)):
        images = np.full((50, 1, 28, 28), others, dtype=np.uint8)
        images[0] = planted
        path = tmp_path / f"{number}.safetensors"
        write_examples(path, images, np.zeros(50, dtype=np.int64), contract)
        torch.testing.assert_close(read_examples(path, contract).inputs[0, 0], expected, rtol=0, atol=1e-6)
