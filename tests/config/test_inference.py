"""Prediction on encrypted images: the arms that may use it, and the errors of the others."""

from __future__ import annotations

import pytest

from ppml.config.load import parse_config

from .small import FEDERATED, PRIVATE, check_refused, one_arm, small

CKKS = {"kind": "ckks"}
LOCAL = {"kind": "independent", "partition": "iid8"}


@pytest.mark.parametrize("model", ["logistic", "square_cnn"])
def test_polynomial_models_predict_encrypted_images(model):
    arm = parse_config(one_arm(model=model, inference=CKKS), "my.yaml").arms["a"]
    assert (arm.inference.kind, arm.inference.images, arm.inference.single_images) == ("ckks", 4096, 10)
    assert "inference" not in arm.technique()


def test_federated_model_predicts_encrypted_images():
    assert parse_config(one_arm(model="logistic", topology=FEDERATED, inference=CKKS), "my.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            one_arm(inference=CKKS),
            "arms.a: inference 'ckks' with model 'tanh_cnn': it does more than add and multiply; allowed: logistic, "
            "square_cnn; or leave inference out",
        ),
        (
            one_arm(model="logistic", topology=LOCAL, inference=CKKS),
            "arms.a: inference 'ckks' with topology 'independent': there are several models; allowed with topology "
            "centralized or federated",
        ),
        (
            one_arm(model="square_cnn", privacy=PRIVATE),
            "arms.a: model 'square_cnn' with topology 'centralized' and privacy 'example': its batch normalisation "
            "mixes examples, and its statistics are in no update; allowed with topology centralized and privacy none",
        ),
        (
            one_arm(model="square_cnn", topology=FEDERATED),
            "arms.a: model 'square_cnn' with topology 'federated' and privacy 'none': its batch normalisation",
        ),
        (one_arm(inference={"kind": "bfv"}), "arms.a.inference.kind: got 'bfv'; allowed: none, ckks"),
        (
            one_arm(model="logistic", inference={**CKKS, "image": 3}),
            "arms.a.inference: unknown key 'image'; did you mean 'images'? allowed: images, kind, single_images",
        ),
        (
            one_arm(model="logistic", inference={**CKKS, "single_images": 0}),
            "arms.a.inference.single_images: got 0; input should be greater than or equal to 1",
        ),
        (
            small(experiments={"e": {"title": "T", "arms": ["fl"], "tables": ["inference"]}}),
            "experiments.e.tables: 'inference' shows arms that predict encrypted images, and none of fl does",
        ),
    ],
)
def test_invalid_inference_is_refused(content, message):
    check_refused(content, message)


@pytest.mark.parametrize("images", [0, "some", 1.5])
def test_images_are_a_number_or_all(images):
    content = one_arm(model="logistic", inference={**CKKS, "images": images})
    check_refused(content, f"arms.a.inference.images: got {images!r}", "integer of at least 1, or 'all'")
