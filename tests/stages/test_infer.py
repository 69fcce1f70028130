"""The stage infer: its results, and its refusal of wrong predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ppml.encrypted_inference import evaluation as evaluation
from ppml.encrypted_inference.error_bound import batch_bound
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.models.registry import build_model
from ppml.results.columns import INFERENCE_COLUMNS
from ppml.stages.example_files import read_examples
from tests.conftest import RealData

from .conftest import Files, run_stage


@pytest.fixture
def model(real_data: RealData, tmp_path: Path) -> Path:
    """Return the file of a logistic regression with random weights."""
    weights = build_model("logistic", real_data.contract, torch.Generator())
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(weights[1].weight, std=0.05, generator=generator)  # type: ignore[index]
    save_file({f"0.{name}": value for name, value in weights.state_dict().items()}, tmp_path / "model")
    return tmp_path / "model"


def run(subset: Files, model: Path, **keys: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the stage, and return its results and its costs."""
    spec = {"model": "logistic", "images": 20, "single_images": 3, **keys}
    outputs = {"result": model.with_name("inference.json"), "cost": model.with_name("inference-cost.json")}
    run_stage("infer", spec, {"model": model, "test": subset["test"], "about": subset["about"]}, outputs)
    return read_json(outputs["result"]), read_json(outputs["cost"])


def test_stage_writes_all_columns_of_collect(subset, model, capsys):
    result, cost = run(subset, model)
    assert {"arm", "seed", *result, *cost} == set(INFERENCE_COLUMNS)
    assert (result["images"], result["single_images"], result["degree"], result["modulus_bits"]) == (20, 3, 4096, 98)
    assert cost["right"] == result["plain_right"] and cost["differ"] == 0
    assert 0 < cost["error"] < result["bound"]
    assert "20 of 20 images in batches" in capsys.readouterr().out


def test_stage_predicts_first_images_or_all(subset, model, real_data):
    test = read_examples(subset["test"], real_data.contract)
    result, _ = run(subset, model, images="all", single_images=1)
    assert result["images"] == len(test)
    result, _ = run(subset, model, images=10_000, single_images=1)
    assert result["images"] == len(test)


def test_logit_beyond_its_error_bound_writes_nothing(subset, model, monkeypatch):
    monkeypatch.setattr(evaluation, "batch_bound", lambda network, images: batch_bound(network, images) / 1e3)
    with pytest.raises(UserError, match="20 of 20 images in a batch"):
        run(subset, model)
    assert not list(model.parent.glob("inference*"))
