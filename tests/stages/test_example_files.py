"""The files of examples and partitions."""

import numpy as np
import pytest
import torch

from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.stages.example_files import read_examples, read_partition, split_by_owner, write_examples


@pytest.fixture
def written(real_data, tmp_path):
    path = tmp_path / "train.safetensors"
    write_examples(path, real_data.train.inputs, real_data.train.labels, real_data.contract)
    return path


def test_read_examples_have_shape_of_contract_and_their_labels(written, real_data):
    examples = read_examples(written, real_data.contract)
    assert examples.inputs.shape == (1200, 1, 28, 28) and examples.inputs.dtype == torch.float32
    assert np.array_equal(examples.labels.numpy(), real_data.train.labels)
    order = np.argsort(real_data.train.inputs[5].ravel(), kind="stable")
    assert np.all(np.diff(examples.inputs[5, 0].numpy().ravel()[order]) >= 0)


def test_equal_examples_have_equal_bytes(written, real_data, tmp_path):
    write_examples(tmp_path / "again", real_data.train.inputs, real_data.train.labels, real_data.contract)
    assert (tmp_path / "again").read_bytes() == written.read_bytes()


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"\xff" * 64])
def test_damaged_file_is_refused_in_one_line(damage, written, real_data):
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(UserError) as caught:
        read_examples(written, real_data.contract)
    assert str(caught.value).startswith(f"{written}: is damaged (") and "\n" not in str(caught.value)


def test_owner_gets_its_examples_in_order_of_partition(written, real_data, tmp_path):
    examples = read_examples(written, real_data.contract)
    write_json(tmp_path / "p.json", {"clients": [[4, 1], [0]], "labels": []})
    assert [part.tolist() for part in read_partition(tmp_path / "p.json")] == [[4, 1], [0]]
    first, second = split_by_owner(examples, str(tmp_path / "p.json"))
    assert torch.equal(first.inputs, examples.inputs[[4, 1]]) and torch.equal(second.labels, examples.labels[[0]])


def test_one_owner_has_all_examples_without_partition(written, real_data):
    examples = read_examples(written, real_data.contract)
    assert split_by_owner(examples, None) == [examples]
