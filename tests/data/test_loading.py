import gzip
import math

import numpy as np
import pytest
import torch
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from ppml.data import loading
from ppml.data.catalogue import CATALOGUE, DIGITS, dataset_info
from ppml.data.loading import load_splits
from ppml.errors import UserError
from ppml.stages.example_files import read_examples, write_examples


def test_mnist_is_read_as_published(published):
    train, test = load_splits("mnist", published("mnist"))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (train.images.shape, test.images.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)


KINDS = {torch.uint8: 8, torch.int8: 9, torch.int16: 11, torch.int32: 12, torch.float32: 13, torch.float64: 14}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (3, 8), (2, 5, 4)])
def test_a_file_of_every_type_is_read_as_torchvision_reads_it(kind, shape, tmp_path):
    count = math.prod(shape)
    values = (torch.arange(count) * 977 - 300).to(kind).reshape(shape)
    head = bytes([0, 0, KINDS[kind], len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
    content = head + values.numpy().astype(values.numpy().dtype.newbyteorder(">")).tobytes()
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "file.gz").write_bytes(gzip.compress(content))
    expected = read_sn3_pascalvincent_tensor(str(tmp_path / "file")).numpy()
    found = loading._read(tmp_path / "file.gz")
    assert np.array_equal(found, expected) and np.array_equal(found, values.numpy())
    assert found.dtype.newbyteorder("=") == expected.dtype


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_published_files_are_read_as_torchvision_reads_them(dataset, published, tmp_path):
    test = [path for path in published(dataset) if path.name.startswith("t10k-")]
    (split,) = load_splits(dataset, test, ["test"])
    for path, values in zip(sorted(test), (split.images, split.labels), strict=True):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        assert np.array_equal(read_sn3_pascalvincent_tensor(str(tmp_path / path.stem)).numpy(), values)


def test_no_temporary_file_is_needed(published, monkeypatch):
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: pytest.fail("a temporary file was made"))
    (test,) = load_splits("mnist", published("mnist"), ["test"])
    assert test.images.shape == (10_000, 28, 28)


def test_files_stay_as_they_were_published(published, tmp_path):
    folder = published("mnist")[0].parent
    before = sorted(path.name for path in folder.iterdir())
    load_splits("mnist", published("mnist"), ["train"])
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_part_needs_the_files_of_no_other(published, tmp_path):
    train_files = [path for path in published("mnist") if path.name.startswith("train-")]
    absent = [tmp_path / name for name in CATALOGUE["mnist"].files_of("test")]
    (train,) = load_splits("mnist", train_files, ["train"])
    (same,) = load_splits("mnist", [*absent, *train_files], ["train"])
    assert np.array_equal(train.images, same.images) and len(train.labels) == 60_000
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        load_splits("mnist", [*absent, *train_files], ["train", "test"])


def test_corrupted_file_is_refused_before_it_is_read(published, tmp_path):
    files = []
    for path in published("mnist"):
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes() if "labels" in path.name else gzip.compress(b"not the images"))
        files.append(copy)
    with pytest.raises(UserError) as caught:
        load_splits("mnist", files)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/train-images-idx3-ubyte.gz: has MD5 ")
    assert "is published with f68b3c2dcbeaaa9fbdd348bbdeb94873; it is corrupted, truncated or another file" in message
    assert message.endswith("; move it elsewhere, and run again")


def test_digits_have_a_fixed_split_of_real_images():
    train, test = load_splits(DIGITS, [])
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert train.labels[:10].tolist() == list(range(10))
    assert train.images.shape == (1437, 28, 28) and train.images.dtype == np.uint8
    again, _ = load_splits(DIGITS, [])
    assert np.array_equal(train.images, again.images)


def test_digits_fill_the_range_of_pixels_inside_a_frame_of_four():
    train, test = load_splits(DIGITS, [])
    images = np.concatenate([train.images, test.images])
    assert (images.min(), images.max()) == (0, 255)
    frame = np.ones((28, 28), dtype=bool)
    frame[4:-4, 4:-4] = False
    assert not images[:, frame].any()
    assert images[:, ~frame].any(axis=0).mean() > 0.9


def test_no_digit_is_in_both_splits():
    train, test = load_splits(DIGITS, [])
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


@pytest.mark.parametrize("dataset", ["mnist", DIGITS])
@pytest.mark.parametrize("pixel", [0, 51, 255])
def test_normalisation_uses_public_constants_whatever_the_other_images_are(dataset, pixel, tmp_path):
    info = dataset_info(dataset)
    expected = torch.full((28, 28), (pixel / 255 - info.mean) / info.deviation)
    planted = np.full((28, 28), pixel, dtype=np.uint8)
    for number, others in enumerate((0, 255)):
        images = np.full((50, 28, 28), others, dtype=np.uint8)
        images[0] = planted
        path = tmp_path / f"{number}.safetensors"
        write_examples(path, images, np.zeros(50, dtype=np.int64))
        torch.testing.assert_close(read_examples(path, dataset).images[0, 0], expected, rtol=0, atol=1e-6)
