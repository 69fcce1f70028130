import os
import subprocess
import sys

import pytest
import torch

from ppml.config.datasets import DATASETS, DIGITS
from ppml.config.load import parse_config
from ppml.data import sources
from ppml.data.loading import load_splits
from ppml.errors import UserError
from ppml.pipeline.stages import SUBFOLDERS
from ppml.preflight import check_device, check_folders, check_last_batch, resolve_data

from .small import small

MNIST_FILES = DATASETS["mnist"].file_names


def config(**top):
    return parse_config(small(**top), "my.yaml")


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device: got cuda, .*; allowed on this machine: cpu$"):
        check_device(config(device="cuda"))


def test_cuda_with_a_device_is_accepted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device(config(device="cuda"))


def test_cpu_is_accepted_without_importing_torch(root):
    code = (
        "import sys; from ppml.config.load import load_config; from ppml.preflight import check_device\n"
        "check_device(load_config('config/smoke.yaml')); print([m for m in ('torch', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_folder_below_a_file_is_refused_with_its_key(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        check_folders({"artifacts": str(tmp_path / "file" / "runs")}, tmp_path, SUBFOLDERS)
    assert str(caught.value) == (
        f"folders.artifacts: {tmp_path}/file/runs cannot be made: Not a directory; name a folder that can be written"
    )


def test_folder_without_write_permission_is_refused_with_its_key(tmp_path, monkeypatch):
    # The superuser may write everywhere, so the answer of the operating system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(
        UserError, match=r"^folders\.logs: .* cannot be written, since .* cannot; name a folder that can"
    ):
        check_folders({"logs": str(tmp_path / "logs")}, tmp_path, SUBFOLDERS)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Return a folder for raw files, without any mirror."""
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)
    return tmp_path / "raw"


def without_source(**data):
    return config(data={"train": 1000, "mirrors": [], "download": False, **data})


def test_no_source_and_no_fallback_is_one_line_with_all_sources(nowhere):
    with pytest.raises(UserError) as caught:
        resolve_data(without_source(fallback=None, mirrors=["/no/such/mirror"]), nowhere)
    message = str(caught.value)
    assert message.startswith("data.dataset: no source has mnist") and "\n" not in message
    for source in (f"{nowhere}/mnist", "/no/such/mirror", "PPML_DATA_MIRROR", "data.download is false"):
        assert source in message


def test_no_source_takes_the_fallback(nowhere):
    assert resolve_data(without_source(), nowhere) == "digits"


@pytest.mark.parametrize(("answers", "fallback"), [(False, "digits"), (True, None)])
def test_silent_public_mirrors_take_the_fallback(answers, fallback, nowhere, monkeypatch):
    monkeypatch.setattr(sources, "_answers", lambda url: answers)
    assert resolve_data(without_source(download=True), nowhere) == fallback


@pytest.mark.parametrize("folder", ["raw/mnist", "mirror/mnist"])
def test_files_nearby_need_no_fallback(folder, nowhere):
    place = nowhere.parent / folder
    place.mkdir(parents=True)
    for name in MNIST_FILES:
        (place / name).touch()
    assert resolve_data(without_source(mirrors=[str(nowhere.parent / "mirror")]), nowhere) is None


def test_one_missing_file_takes_the_fallback(nowhere):
    (nowhere / "mnist").mkdir(parents=True)
    for name in MNIST_FILES[1:]:
        (nowhere / "mnist" / name).touch()
    assert resolve_data(without_source(), nowhere) == "digits"


def test_the_fallback_itself_needs_no_source(nowhere):
    assert resolve_data(without_source(dataset="digits", fallback=None), nowhere) is None


def test_data_set_of_a_single_arm_needs_a_source(nowhere):
    arms = {"a": {"dataset": "digits"}, "b": {"dataset": "kmnist"}}
    data = {"train": 1000, "dataset": "digits", "mirrors": [], "download": False, "fallback": None}
    with pytest.raises(UserError, match="no source has kmnist"):
        resolve_data(config(arms=arms, data=data), nowhere)


def normalised(train, batch_size, fallback=None):
    """Return whether a model with batch normalisation is refused; other models never are."""
    arms = {"a": {"model": "square_cnn", "training": {"batch_size": batch_size}}}
    asked = config(data={"train": train}, partitions={}, arms=arms)
    check_last_batch(
        config(data={"train": train}, partitions={}, arms={"a": {"training": {"batch_size": 1}}}), fallback
    )
    try:
        check_last_batch(asked, fallback)
    except UserError as error:
        assert str(error).startswith(f"arms.a.training.batch_size: got {batch_size!r} for ")
        return True
    return False


@pytest.mark.parametrize(
    ("train", "batch_size", "fallback", "refused"),
    [
        (1000, 64, None, False),
        (1025, 64, None, True),
        (1026, 64, None, False),
        (65, 64, None, True),
        (64, 64, None, False),
        (63, 64, None, False),
        (1, 64, None, True),
        (1, "all", None, True),
        (2, "all", None, False),
        (1000, 1, None, True),
        # The largest training sets of MNIST and of the digits.
        (70_000, 59_999, None, True),
        (10_000, 1_436, None, False),
        (10_000, 1_436, DIGITS, True),
    ],
)
def test_batch_normalisation_needs_two_examples_in_the_last_batch(train, batch_size, fallback, refused):
    assert normalised(train, batch_size, fallback) is refused


@pytest.mark.parametrize("dataset", [name for name, spec in DATASETS.items() if spec.examples and not spec.files])
def test_number_of_training_examples_is_as_assumed(dataset):
    (train,) = load_splits(DATASETS[dataset], {}, ["train"])
    assert len(train.labels) == DATASETS[dataset].examples
