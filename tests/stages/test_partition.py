"""The stage partition: the positions of each client's examples."""

import numpy as np
import pytest

from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json
from ppml.stages.example_files import write_examples

from .conftest import run_stage


@pytest.fixture
def divide(real_data, tmp_path):
    """Return a function that runs the stage and returns the content of its file."""
    inputs = {"train": tmp_path / "train", "about": tmp_path / "about.json"}
    write_examples(inputs["train"], real_data.train.inputs, real_data.train.labels, real_data.contract)
    write_json(inputs["about"], {"contract": real_data.contract.to_json()})

    def call(spec, *, seed=0, name="p", root_seed=2024):
        content = {"partition": spec, "root_seed": root_seed}
        run_stage("partition", content, inputs, {"partition": tmp_path / "p.json"}, seed=seed, notes={"name": name})
        return read_json(tmp_path / "p.json")

    return call


IID = {"kind": "iid", "clients": 4}


def test_file_has_positions_and_label_counts_of_each_client(divide, real_data):
    content = divide(IID)
    assert sorted(position for part in content["clients"] for position in part) == list(range(1200))
    for part, counts in zip(content["clients"], content["labels"], strict=True):
        assert counts == np.bincount(real_data.train.labels[part], minlength=10).tolist()


def test_partition_depends_on_seeds_and_not_on_its_name(divide):
    base = divide(IID)
    assert divide(IID, name="other") == base
    assert divide(IID, seed=1) != base
    assert divide(IID, root_seed=1) != base


def test_equal_sample_sizes_of_a_seed_take_the_same_examples(divide):
    def owned(seed, **spec):
        clients = divide({"sample_size": 100, **spec}, seed=seed)["clients"]
        return sorted(position for part in clients for position in part)

    base = owned(0, kind="iid", clients=1)
    assert owned(0, kind="iid", clients=4) == owned(0, kind="shards", clients=8) == base
    assert owned(1, kind="iid", clients=4) != base


def test_refusal_names_partition(divide):
    with pytest.raises(UserError, match=r"^partitions\.mine: sample_size: got 1201, more than the 1200"):
        divide({"kind": "iid", "clients": 4, "sample_size": 1201}, name="mine")
    with pytest.raises(UserError, match=r"^partitions\.mine: clients: got 1201, more than the 1200"):
        divide({"kind": "iid", "clients": 1201}, name="mine")
    with pytest.raises(UserError, match=r"^partitions\.mine: dirichlet with 400 clients leaves client \d+ "):
        divide({"kind": "dirichlet", "clients": 400, "alpha": 0.01}, name="mine")
