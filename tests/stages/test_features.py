"""The stage features writes what the stages train and predict read."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ppml.config.arm import Arm
from ppml.config.features import Scattering
from ppml.data.transforms.extractor import ScatteringFeatures
from ppml.io.atomic import read_json, write_json
from ppml.randomness import Randomness
from ppml.stages import features, predict, train
from ppml.stages.example_files import read_examples, read_ink

pytestmark = pytest.mark.usefixtures("torch_as_it_was")

FEATURES = {"kind": "scattering", "components": 40, "strokes": 50, "copies": 2, "views": 3}
ARM = {
    "features": FEATURES,
    "model": "linear",
    "privacy": {"kind": "example", "noise_multiplier": 2.0, "accountant": "rdp", "max_grad_norm": 0.3},
    "training": {"epochs": 12, "batch_size": "all", "learning_rate": 100.0},
}


@pytest.fixture(scope="module")
def made(subset, tmp_path_factory):
    """Return the files of the features of the subset."""
    folder = tmp_path_factory.mktemp("features")
    spec = {"features": Scattering.model_validate(FEATURES).to_json(), "root_seed": 7}
    given = ["--train", subset.train, "--test", subset.test]
    outputs = ["--output-train", folder / "train.safetensors", "--output-test", folder / "test.safetensors"]
    features.main(["--spec", json.dumps(spec), *map(str, [*given, *outputs])])
    return folder / "train.safetensors", folder / "test.safetensors"


def test_the_files_hold_the_features_of_each_image_in_its_place_in_half_precision(made, subset, real_data):
    train_file, test_file = made
    rule = ScatteringFeatures(Scattering.model_validate(FEATURES), Randomness(7).child("features"))
    for path, source, expected in (
        (train_file, subset.train, rule.copies(read_ink(subset.train).images[:1000])),
        (test_file, subset.test, rule.viewed(read_ink(subset.test).images)),
    ):
        assert load_file(path)["features"].dtype == torch.float16
        read = read_examples(path, real_data.dataset)
        assert read.images.dtype == torch.float32
        torch.testing.assert_close(read.images, expected, atol=2**-12, rtol=2**-11)
        assert torch.equal(read.labels, read_examples(source, real_data.dataset).labels)


def test_train_and_predict_read_them(made, subset, real_data, tmp_path):
    arm = Arm.model_validate(ARM).technique()
    spec = {"arm": arm, "dataset": real_data.dataset, "root_seed": 7, "device": "cpu"}
    write_json(tmp_path / "noise.json", {"noise_multipliers": [2.0]})
    given = ["--train", made[0], "--test", made[1], "--about", subset.about, "--noise", tmp_path / "noise.json"]
    for name in ("config", "model", "history", "events", "cost"):
        given += [f"--output-{name}", tmp_path / name]
    given += ["--progress", tmp_path / "progress", "--stamp", "code"]
    train.main(["--spec", json.dumps(spec), "--seed", "0", *map(str, given)])
    ((event,),) = read_json(tmp_path / "events")["owners"]
    assert (event["sample_rate"], event["steps"]) == (1.0, 12)
    assert load_file(tmp_path / "model")["0.0.weight"].shape == (10, 41)

    spec = {"model": "linear", "dataset": real_data.dataset, "device": "cpu"}
    given = ["--test", made[1], "--about", subset.about, "--model", tmp_path / "model", "--output", tmp_path / "said"]
    predict.main(["--spec", json.dumps(spec), *map(str, given)])
    said = load_file(tmp_path / "said")
    # 400 images, noise and all: a network that starts from the pixels has not learned anything by then.
    assert (said["log_probabilities"][0].argmax(dim=1) == said["labels"]).double().mean() > 0.7
