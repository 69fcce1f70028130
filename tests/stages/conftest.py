"""What the tests of the stages that train share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ppml.io.atomic import write_json


@pytest.fixture(scope="package")
def subset(real_data, tmp_path_factory):
    """Return the files of a subset of 400 images and two clients."""
    from ppml.stages.example_files import write_examples

    folder = tmp_path_factory.mktemp("subset")
    files = SimpleNamespace(
        train=folder / "train", test=folder / "test", about=folder / "about", partition=folder / "p"
    )
    write_examples(files.train, real_data.train.inputs[:400], real_data.train.labels[:400])
    write_examples(files.test, real_data.test.inputs, real_data.test.labels)
    about = {"n_train": 400, "n_test": 100, "n_test_all": 300, "classes": 10, "evaluate_on": "test", "digest": "d" * 16}
    about |= {"dataset": real_data.dataset, "selection": "first"}
    write_json(files.about, about)
    parts = [list(range(100)), list(range(100, 400))]
    labels = [np.bincount(real_data.train.labels[part], minlength=10).tolist() for part in parts]
    write_json(files.partition, {"clients": parts, "labels": labels})
    return files


@pytest.fixture
def torch_as_it_was():
    """Undo what a stage that trains sets in this process."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
