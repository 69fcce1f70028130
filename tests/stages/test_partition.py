"""The stage partition: the positions of each client's examples."""

import numpy as np
import pytest

from ppml.contract import DataContract
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


SITES = np.array([2, 0, 2, 3, 0, 2])
"""The site of each example; site b has none."""


@pytest.fixture
def divide_by_site(tmp_path):
    """Return a function that divides six examples of four sites by their natural owners."""
    contract = DataContract(kind="table", shape=(1,), classes=2, groups={"site": tuple("abcd")})
    inputs = {"train": tmp_path / "train", "about": tmp_path / "about.json"}
    write_examples(inputs["train"], np.zeros((6, 1)), np.arange(6) % 2, contract, {"site": SITES})
    write_json(inputs["about"], {"contract": contract.to_json()})

    def call(*groups, seed=0):
        content = {"partition": {"kind": "natural", "by": "site", "groups": list(groups)}, "root_seed": 2024}
        run_stage("partition", content, inputs, {"partition": tmp_path / "p"}, seed=seed, notes={"name": "mine"})
        return read_json(tmp_path / "p")

    return call


def test_natural_clients_are_chosen_groups_in_order_of_list(divide_by_site):
    found = divide_by_site("d", "c", "a")
    assert found == {
        "clients": [[1, 4], [0, 2, 5], [3]],
        "labels": [[1, 1], [2, 1], [0, 1]],
        "names": ["a", "c", "d"],
    }
    assert divide_by_site("d", "a", "c", seed=1) == found
    assert divide_by_site("d")["clients"] == [[3]]


def test_natural_client_without_examples_is_refused(divide_by_site):
    with pytest.raises(UserError, match=r"^partitions\.mine: groups: 'b' has no example among the 6 \(1 of 4 groups"):
        divide_by_site()
