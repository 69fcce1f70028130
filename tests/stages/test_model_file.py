"""The file of a run's models: its precision, and the values that a reader gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ppml.learning.parameters import digest_of, flatten
from ppml.stages.model_file import FLOAT32_BYTES, read_models, trained_digest, write_models


def network(outputs: int, seed: int = 0) -> nn.Module:
    """Return a network with statistics, of ``outputs`` * 1 KB."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(253, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False))


LIMIT = FLOAT32_BYTES // 1024
"""The number of outputs that nearly fills a file in float32."""


@pytest.mark.parametrize(
    ("models", "kind"),
    [
        ([network(LIMIT - 1)], torch.float32),
        ([network(LIMIT + 5)], torch.float16),
        ([network(LIMIT // 2, seed) for seed in range(3)], torch.float16),
    ],
    ids=["small", "large", "several"],
)
def test_large_file_has_half_precision(models: list[nn.Module], kind: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_models(path, models)
    stored = load_file(path)
    assert {value.dtype for name, value in stored.items() if not name.endswith("tracked")} == {kind}
    assert stored["0.1.num_batches_tracked"].dtype == torch.int64
    read = read_models(path)
    assert len(read) == len(models)
    for model, state in zip(models, read, strict=True):
        for name, value in model.state_dict().items():
            assert state[name].dtype == value.dtype
            expected = value.half().float() if kind == torch.float16 and value.is_floating_point() else value
            assert torch.equal(state[name], expected), name
    first = path.read_bytes()
    write_models(path, models)
    assert path.read_bytes() == first


@pytest.mark.parametrize("outputs", [LIMIT - 1, LIMIT + 5])
def test_digest_is_of_the_trained_model(outputs: int, tmp_path: Path) -> None:
    model = network(outputs)
    write_models(tmp_path / "model", [model])
    trained = digest_of(flatten(model))
    model.load_state_dict(read_models(tmp_path / "model")[0])
    assert trained_digest(tmp_path / "model", model) == trained
    assert (digest_of(flatten(model)) == trained) is (outputs < LIMIT)


@pytest.mark.parametrize("channels", [8, 200], ids=["small", "large"])
def test_memory_format_of_training_changes_no_bit(channels: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(channels, channels, 3))
    write_models(tmp_path / "contiguous", [model])
    expected = digest_of(flatten(model))
    model.to(memory_format=torch.channels_last)
    write_models(tmp_path / "channels last", [model])
    assert (tmp_path / "contiguous").read_bytes() == (tmp_path / "channels last").read_bytes()
    assert digest_of(flatten(model)) == expected == trained_digest(tmp_path / "channels last", model)


def test_value_beyond_half_precision_keeps_all_bits(tmp_path: Path) -> None:
    model = network(LIMIT + 5)
    model[1].running_var[3] = 70_000.0  # type: ignore[index]
    write_models(tmp_path / "model", [model])
    (state,) = read_models(tmp_path / "model")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_order_of_more_than_ten_models(tmp_path: Path) -> None:
    models = [nn.Linear(1, 1) for _ in range(12)]
    write_models(tmp_path / "model", models)
    assert [state["weight"].item() for state in read_models(tmp_path / "model")] == [
        model.weight.item() for model in models
    ]
