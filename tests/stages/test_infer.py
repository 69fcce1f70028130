"""The stage infer: what it writes, and that it writes nothing that is not so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ppml.encrypted_inference import evaluation as trial
from ppml.encrypted_inference.error_bound import batch_bound
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.models.registry import build_model
from ppml.results.columns import INFERENCE_COLUMNS
from ppml.stages import infer
from ppml.stages.example_files import read_examples

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the file of a logistic regression with weights that say something of images."""
    weights = build_model("logistic", 10, torch.Generator())
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(weights[1].weight, std=0.05, generator=generator)  # type: ignore[index]
    save_file({f"0.{name}": value for name, value in weights.state_dict().items()}, tmp_path / "model")
    return tmp_path / "model"


def run(subset: SimpleNamespace, model: Path, **keys: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {"model": "logistic", "dataset": "mnist", "images": 20, "single_images": 3, **keys}
    result, cost = model.with_name("inference.json"), model.with_name("inference-cost.json")
    files = ["--test", subset.test, "--about", subset.about, "--model", model]
    infer.main(["--spec", json.dumps(spec), *map(str, files), "--output", str(result), "--output-cost", str(cost)])
    return read_json(result), read_json(cost)


def test_it_writes_what_collect_reads(subset, model, capsys):
    result, cost = run(subset, model)
    assert {"arm", "seed", *result, *cost} == set(INFERENCE_COLUMNS)
    assert (result["images"], result["single_images"], result["degree"], result["modulus_bits"]) == (20, 3, 4096, 98)
    assert cost["right"] == result["plain_right"] and cost["differ"] == 0
    assert 0 < cost["error"] < result["bound"]
    assert "20 of 20 images in batches" in capsys.readouterr().out


def test_the_first_images_are_predicted_and_all_of_them_if_that_is_asked(subset, model):
    test = read_examples(subset.test, "mnist")
    result, _ = run(subset, model, images="all", single_images=1)
    assert result["images"] == len(test)
    result, _ = run(subset, model, images=10_000, single_images=1)
    assert result["images"] == len(test)


def test_nothing_is_written_where_a_logit_is_off_by_more_than_its_bound(subset, model, monkeypatch):
    monkeypatch.setattr(trial, "batch_bound", lambda network, images: batch_bound(network, images) / 1e3)
    with pytest.raises(UserError, match="20 of 20 images in a batch"):
        run(subset, model)
    assert not list(model.parent.glob("inference*"))
