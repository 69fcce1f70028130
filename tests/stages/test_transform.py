"""The stage transform, and training and prediction on its outputs."""

import pytest
import torch
from safetensors.torch import load_file

from ppml.config.transforms import Scattering
from ppml.data.transforms.extractor import ImageFeatures
from ppml.io.atomic import read_json, write_json
from ppml.randomness import Randomness
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_examples, read_raw_examples

from .conftest import run_job, run_stage, train_job

SCATTERING = {"kind": "scattering", "components": 40, "strokes": 50, "copies": 2, "views": 3}
SETTINGS = Scattering.model_validate(SCATTERING)
ARM = {
    "transforms": [SCATTERING],
    "model": "linear",
    "privacy": {"kind": "example", "noise_multiplier": 2.0, "accountant": "rdp", "max_grad_norm": 0.3},
    "training": {"epochs": 12, "batch_size": "all", "learning_rate": 100.0},
}


@pytest.fixture(scope="module")
def transformed(subset, real_data, tmp_path_factory):
    """Return the transformed files of the subset."""
    folder = tmp_path_factory.mktemp("transformed")
    inputs = {name: subset[name] for name in ("train", "test", "about")}
    outputs = {name: folder / name for name in inputs}
    contract = SETTINGS.output(real_data.contract).to_json()
    run_stage("transform", {"transform": SETTINGS.to_json(), "root_seed": 7, "contract": contract}, inputs, outputs)
    return outputs


def test_files_have_features_of_each_image_in_half_precision(transformed, subset, real_data):
    contract = read_contract(transformed["about"])
    assert (contract.kind, contract.shape, contract.classes) == ("features", (41,), real_data.contract.classes)
    features = ImageFeatures(SETTINGS, Randomness(7).child("features"))
    for name, transform in (("train", features.copies), ("test", features.viewed)):
        raw = read_raw_examples(subset[name], real_data.contract)
        assert load_file(transformed[name])["inputs"].dtype == torch.float16
        examples = read_examples(transformed[name], contract)
        assert examples.inputs.dtype == torch.float32
        torch.testing.assert_close(examples.inputs, transform(raw.inputs), atol=2**-12, rtol=2**-11)
        assert torch.equal(examples.labels, raw.labels)


def test_about_differs_from_subset_in_contract_only_and_keeps_the_raw_one(transformed, subset):
    before, after = read_json(subset["about"]), read_json(transformed["about"])
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"contract", "raw"} and after["raw"] == before["contract"]


def test_training_and_prediction_take_transformed_examples(transformed, real_data, tmp_path):
    noise = tmp_path / "noise.json"
    write_json(noise, {"noise_multipliers": [2.0]})
    job = train_job(tmp_path, ARM, {**transformed, "noise": noise}, real_data.dataset)
    run_job("train", job)
    ((event,),) = read_json(job.outputs["events"])["owners"]
    assert (event["sample_rate"], event["steps"]) == (1.0, 12)
    assert load_file(job.outputs["model"])["0.0.weight"].shape == (10, 41)

    inputs = {"test": transformed["test"], "about": transformed["about"], "model": job.outputs["model"]}
    run_stage("predict", {"model": "linear", "device": "cpu"}, inputs, {"predictions": tmp_path / "predictions"})
    predictions = load_file(tmp_path / "predictions")
    # 400 images with noise: a network on pixels learns nothing in 12 steps.
    assert (predictions["predicted"][0] == predictions["labels"]).double().mean() > 0.7
