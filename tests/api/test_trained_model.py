"""A model that the workflow has trained predicts as in the workflow, and states its privacy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ppml
from ppml.config.arm import Arm
from ppml.io.atomic import read_json, write_json
from ppml.learning.evaluation import logits
from ppml.models.registry import build_model
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples
from tests.conftest import RealData

from .conftest import ARMS, Run


def expected(run: Run, arm: str, number: int = 0) -> torch.Tensor:
    """Return the scores of a model for the evaluation file, by the parts of the stage predict."""
    contract = read_contract(run.inputs["about"])
    model = build_model(Arm.model_validate(ARMS[arm]).model, contract, torch.Generator())
    weights = load_file(run.folder / "model.safetensors")
    model.load_state_dict(
        {name.partition(".")[2]: one for name, one in weights.items() if name.startswith(f"{number}.")}
    )
    return logits(model, read_examples(run.inputs["test"], contract).inputs).softmax(dim=1)


@pytest.mark.parametrize(("arm", "model"), [("dp", None), ("scattering", None), ("independent", 0), ("independent", 1)])
def test_raw_images_have_predictions_of_workflow(
    runs: dict[str, Run], real_data: RealData, arm: str, model: int | None
) -> None:
    found = ppml.load(runs[arm].folder, model=model).predict(real_data.test.inputs[:50])
    wanted = expected(runs[arm], arm, model or 0)[:50]
    assert torch.tensor(found.scores).allclose(wanted, atol=1e-5)
    assert found.labels.tolist() == wanted.argmax(dim=1).tolist()
    assert found.names == [real_data.contract.classes[label] for label in found.labels]
    # More than a guess, and not one class for all.
    assert len(set(found.labels.tolist())) > 3


def test_models_of_clients_differ(runs: dict[str, Run], real_data: RealData) -> None:
    first, second = (ppml.load(runs["independent"].folder, model=number) for number in (0, 1))
    assert (first.predict(real_data.test.inputs).scores != second.predict(real_data.test.inputs).scores).any()


def test_every_form_of_an_image_has_the_same_prediction(runs: dict[str, Run], real_data: RealData) -> None:
    model, images = ppml.load(runs["dp"].folder), real_data.test.inputs[:3]
    wanted = model.predict(images).scores
    mirrored = images[:, :, ::-1].copy()[:, :, ::-1]
    for form in (mirrored, images[:, 0], images / np.float32(255), images / 255.0, torch.tensor(images)):
        assert np.allclose(model.predict(form).scores, wanted, atol=1e-6)
    for form in (images[0], images[0, 0], images[:1, 0]):
        assert np.allclose(model.predict(form).scores, wanted[:1], atol=1e-6)
    assert model.predict(images[:0]).scores.shape == (0, 10)


def test_statement_is_that_of_account(runs: dict[str, Run]) -> None:
    model, content = ppml.load(runs["dp"].folder), read_json(runs["dp"].folder / "privacy.json")
    assert content["epsilon"] > 0
    assert model.privacy == ppml.PrivacyStatement(content["epsilon"], 1e-5, "example", "zero_out_one", "rdp", "seeded")
    assert model.predict(np.zeros(model.shape)).privacy == model.privacy
    assert ppml.load(runs["scattering"].folder).privacy == ppml.PrivacyStatement()


def test_statement_of_plan_is_that_of_training(runs: dict[str, Run]) -> None:
    content = read_json(runs["dp"].folder / "privacy.json")
    planned = ppml.account(
        sample_rate=content["sample_rate"],
        noise_multiplier=content["noise_multiplier"],
        steps=content["steps"],
        delta=content["delta"],
        accountant="rdp",
    )
    assert planned.epsilon == content["epsilon"]


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        (np.zeros((2, 27, 28), np.uint8), ["(2, 27, 28)", "(n, 28, 28)"]),
        (np.zeros((2, 3, 28, 28), np.uint8), ["(2, 3, 28, 28)"]),
        (np.zeros(784, np.uint8), ["(784,)"]),
        (np.zeros((28, 28), np.int64), ["int64", "uint8"]),
        (np.zeros((28, 28), bool), ["bool"]),
        (np.full((28, 28), 255.0), ["255", "0 to 1"]),
        (np.full((28, 28), -0.1), ["-0.1"]),
        (np.full((28, 28), np.nan), ["not finite"]),
        ("digit", ["()"]),
        ([[1.0], [1.0, 2.0]], ["inhomogeneous"]),
        (torch.zeros(28, 28, dtype=torch.bfloat16), ["BFloat16"]),
    ],
)
def test_unfit_example_is_refused_in_one_line(runs: dict[str, Run], examples: object, words: list[str]) -> None:
    with pytest.raises(ppml.UserError) as caught:
        ppml.load(runs["dp"].folder).predict(examples)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_stored_half_precision_is_loaded_as_float32(runs: dict[str, Run], real_data: RealData, tmp_path: Path) -> None:
    copy = shutil.copytree(runs["dp"].folder, tmp_path / "run")
    weights = load_file(copy / "model.safetensors")
    save_file({name: one.half() for name, one in weights.items()}, copy / "model.safetensors")
    model = ppml.load(copy)
    assert {one.dtype for one in model.network.parameters()} == {torch.float32}
    scores = [one.predict(real_data.test.inputs[:9]).scores for one in (model, ppml.load(runs["dp"].folder))]
    assert np.allclose(*scores, atol=0.01)


def edit(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """Return a function that changes a JSON file of a run."""

    def act(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        write_json(folder / name, content)

    return act


def spoil_a_weight(path: Path) -> None:
    """Make one weight of a file infinite."""
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = torch.inf
    save_file(weights, path)


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no weights": ("model.safetensors", lambda run: (run / "model.safetensors").unlink()),
    "short weights": ("model.safetensors", lambda run: (run / "model.safetensors").write_bytes(b"short")),
    "other weights": ("model.safetensors", lambda run: save_file({"0.x": torch.ones(1)}, run / "model.safetensors")),
    "weights not finite": ("model.safetensors", lambda run: spoil_a_weight(run / "model.safetensors")),
    "no configuration": ("config.json", lambda run: (run / "config.json").unlink()),
    "no JSON": ("config.json", lambda run: (run / "config.json").write_text("{")),
    "list": ("config.json", lambda run: (run / "config.json").write_text("[]")),
    "unknown model": ("config.json", edit("config.json", lambda one: one["arm"].update(model="x"))),  # type: ignore[attr-defined]
    "no contract": ("config.json", edit("config.json", lambda one: one["data"].pop("contract"))),  # type: ignore[attr-defined]
    "no statement": ("privacy.json", lambda run: (run / "privacy.json").unlink()),
    "statement without delta": ("privacy.json", edit("privacy.json", lambda one: one.pop("delta"))),
}


@pytest.mark.parametrize(("file", "spoil"), FAULTS.values(), ids=FAULTS)
def test_missing_or_damaged_file_is_named_in_one_line(
    runs: dict[str, Run], tmp_path: Path, file: str, spoil: Callable[[Path], object]
) -> None:
    copy = shutil.copytree(runs["dp"].folder, tmp_path / "run")
    spoil(copy)
    with pytest.raises(ppml.UserError) as caught:
        ppml.load(copy)
    assert str(caught.value).startswith(f"{copy / file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arm", "model"), [("independent", None), ("independent", 2), ("independent", -1), ("independent", True), ("dp", 1)]
)
def test_number_of_model_is_checked(runs: dict[str, Run], arm: str, model: int | None) -> None:
    with pytest.raises(ppml.UserError, match="model"):
        ppml.load(runs[arm].folder, model=model)


def test_absent_folder_is_named() -> None:
    with pytest.raises(ppml.UserError, match="nowhere"):
        ppml.load("nowhere")
