import json

import numpy as np
import pytest

from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.stages import partition
from ppml.stages.example_files import write_examples


@pytest.fixture
def divide(real_data, tmp_path):
    """Return a function that runs the stage and returns the content of its file."""
    write_examples(tmp_path / "train", real_data.train.inputs, real_data.train.labels)

    def call(spec, *, seed=0, name="p", root_seed=2024):
        given = json.dumps({"partition": spec, "root_seed": root_seed})
        files = ["--train", str(tmp_path / "train"), "--output", str(tmp_path / "p.json")]
        partition.main(["--spec", given, "--name", name, "--seed", str(seed), *files])
        return read_json(tmp_path / "p.json")

    return call


IID = {"kind": "iid", "clients": 4}


def test_file_has_each_clients_positions_and_label_counts(divide, real_data):
    content = divide(IID)
    assert sorted(record for part in content["clients"] for record in part) == list(range(1200))
    for part, counts in zip(content["clients"], content["labels"], strict=True):
        assert counts == np.bincount(real_data.train.labels[part], minlength=10).tolist()


def test_partition_depends_on_seed_and_root_seed_and_not_on_its_name(divide):
    base = divide(IID)
    assert divide(IID, name="other") == base
    assert divide(IID, seed=1) != base
    assert divide(IID, root_seed=1) != base


def test_as_many_records_are_the_same_ones_in_every_division_of_a_seed(divide):
    def owned(seed, **spec):
        return sorted(record for part in divide({"sample_size": 100, **spec}, seed=seed)["clients"] for record in part)

    base = owned(0, kind="iid", clients=1)
    assert owned(0, kind="iid", clients=4) == owned(0, kind="shards", clients=8) == base
    assert owned(1, kind="iid", clients=4) != base


def test_refusal_names_the_partition(divide):
    with pytest.raises(UserError, match=r"^partitions\.mine: sample_size: got 1201, more than the 1200 samples"):
        divide({"kind": "iid", "clients": 4, "sample_size": 1201}, name="mine")
    with pytest.raises(UserError, match=r"^partitions\.mine: clients: got 1201, more than the 1200 samples"):
        divide({"kind": "iid", "clients": 1201}, name="mine")
    with pytest.raises(UserError, match=r"^partitions\.mine: dirichlet with 400 clients leaves client \d+ without"):
        divide({"kind": "dirichlet", "clients": 400, "alpha": 0.01}, name="mine")
