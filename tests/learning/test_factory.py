from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from ppml.config.arm import TrainingSpec
from ppml.config.technique import ClientLevel, ExampleLevel, NoPrivacy
from ppml.learning.cohort_factory import build_cohort_trainer
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.factory import build_learner
from ppml.learning.sequential import SequentialTrainer
from ppml.learning.sgd import SgdLearner
from ppml.learning.vectorized.cohort import VectorizedTrainer
from ppml.models.registry import build_model

from .digits import CONTRACT

TRAINING = TrainingSpec(
    epochs=3, batch_size=17, learning_rate=0.3, momentum=0.5, learning_rate_schedule="constant", shift=2
)


@pytest.mark.parametrize(
    ("privacy", "noise"), [(NoPrivacy(), None), (ClientLevel(epsilon=1.0), 2.5)], ids=["none", "client"]
)
def test_learner_without_example_privacy_is_plain_sgd(privacy, noise):
    learner = build_learner(TRAINING, privacy, noise)
    assert isinstance(learner, SgdLearner)
    assert asdict(learner.settings) == TRAINING.model_dump()


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_private_learner_gets_calibrated_noise(noise_source):
    privacy = ExampleLevel(epsilon=1.0, max_grad_norm=0.3, noise_source=noise_source)
    learner = build_learner(TRAINING, privacy, 2.5)
    assert isinstance(learner, DpSgdLearner)
    assert (learner.noise_multiplier, learner.max_grad_norm, learner.noise_source) == (2.5, 0.3, noise_source)
    assert asdict(learner.settings) == TRAINING.model_dump()


def test_private_learner_requires_calibrated_noise():
    with pytest.raises(ValueError, match="noise multiplier"):
        build_learner(TRAINING, ExampleLevel(epsilon=1.0), None)


@pytest.mark.parametrize(
    ("model", "privacy", "kind"),
    [
        ("tanh_cnn", NoPrivacy(), VectorizedTrainer),
        ("mlp", NoPrivacy(), VectorizedTrainer),
        ("square_cnn", NoPrivacy(), SequentialTrainer),
        ("tanh_cnn", ExampleLevel(noise_multiplier=1.0), SequentialTrainer),
    ],
)
def test_cohort_trainer_depends_on_model_and_privacy(model, privacy, kind):
    built = build_model(model, CONTRACT, torch.Generator().manual_seed(1))
    assert isinstance(build_cohort_trainer(TRAINING, privacy, [1.0, 1.0], [None, None], built), kind)
