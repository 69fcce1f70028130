import numpy as np
import pytest
import torch

from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.stages.example_files import owned_by, read_examples, read_partition, write_examples


@pytest.fixture
def written(real_data, tmp_path):
    path = tmp_path / "train.safetensors"
    write_examples(path, real_data.train.images, real_data.train.labels)
    return path


def test_examples_come_back_as_one_channel_with_their_labels(written, real_data):
    examples = read_examples(written, real_data.dataset)
    assert examples.images.shape == (1200, 1, 28, 28) and examples.images.dtype == torch.float32
    assert np.array_equal(examples.labels.numpy(), real_data.train.labels)
    order = np.argsort(real_data.train.images[5].ravel(), kind="stable")
    assert np.all(np.diff(examples.images[5, 0].numpy().ravel()[order]) >= 0)


def test_equal_examples_are_equal_bytes(written, real_data, tmp_path):
    write_examples(tmp_path / "again", real_data.train.images, real_data.train.labels)
    assert (tmp_path / "again").read_bytes() == written.read_bytes()


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"\xff" * 64])
def test_damaged_file_is_refused_in_one_line(damage, written):
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(UserError) as caught:
        read_examples(written, "mnist")
    assert str(caught.value).startswith(f"{written}: is damaged (") and "\n" not in str(caught.value)


def test_each_owner_gets_its_records_in_the_order_of_the_partition(written, real_data, tmp_path):
    examples = read_examples(written, real_data.dataset)
    write_json(tmp_path / "p.json", {"clients": [[4, 1], [0]], "labels": []})
    assert [part.tolist() for part in read_partition(tmp_path / "p.json")] == [[4, 1], [0]]
    first, second = owned_by(examples, str(tmp_path / "p.json"))
    assert torch.equal(first.images, examples.images[[4, 1]]) and torch.equal(second.labels, examples.labels[[0]])


def test_one_owner_holds_everything_without_a_partition(written, real_data):
    examples = read_examples(written, real_data.dataset)
    assert owned_by(examples, None) == [examples]
