"""The Python blocks of the documents run."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ppml.config.datasets import DATASETS
from ppml.config.load import load_config
from ppml.models.registry import build_model

from .markdown import DOCUMENTS, ROOT

RUNS = ("artifacts/runs/dp/seed0", "build/smoke/artifacts/runs/dp/seed0")
BLOCKS = [(document, block) for document in DOCUMENTS for block in document.blocks("python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with an untrained model of the arm dp, and the tidy files."""
    folder = tmp_path_factory.mktemp("documents")
    arm, contract = load_config(ROOT / "config" / "default.yaml").arms["dp"], DATASETS["mnist"].contract
    model = build_model(arm.model, contract, torch.Generator().manual_seed(0))
    privacy = {"epsilon": 2.897, "delta": 1e-5, "unit": "example", "neighbouring": "zero_out_one"}
    files = {
        "config.json": {"arm": arm.to_json(), "data": {"contract": contract.to_json()}, "root_seed": 2024},
        "privacy.json": {**privacy, "accountant": "pld", "noise_source": "seeded"},
    }
    for name in RUNS:
        run = folder / name
        run.mkdir(parents=True)
        save_file({f"0.{key}": value for key, value in model.state_dict().items()}, run / "model.safetensors")
        for file, content in files.items():
            (run / file).write_text(json.dumps(content), encoding="utf-8")
    (folder / "reports").mkdir()
    shutil.copy(ROOT / "reports" / "records.csv", folder / "reports")
    return folder


@pytest.mark.parametrize(("document", "block"), BLOCKS, ids=[document.name for document, _ in BLOCKS])
def test_block_prints_its_output(document, block, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    exec(block, {"images": np.zeros((2, 28, 28), dtype=np.uint8)})
    printed = capsys.readouterr().out
    after = document.text.partition(block)[2]
    if shown := re.match(r"```\n\n```text\n(.*?)```", after, flags=re.DOTALL):
        assert printed == shown[1]
    assert printed.strip()


def test_privacy_statement_of_readme_is_that_of_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (block,) = [block for document, block in BLOCKS if document.name == "README.md"]
    exec(block, {"images": np.zeros((2, 28, 28), dtype=np.uint8)})
    assert "epsilon=2.897" in capsys.readouterr().out
