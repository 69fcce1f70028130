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

TRAINING = TrainingSpec(epochs=3, batch_size=17, learning_rate=0.3, momentum=0.5, decay="constant", shift=2)


@pytest.mark.parametrize(
    ("privacy", "noise"), [(NoPrivacy(), None), (ClientLevel(epsilon=1.0), 2.5)], ids=["none", "client"]
)
def test_without_privacy_of_examples_the_learner_is_plain_and_walks_as_configured(privacy, noise):
    learner = build_learner(TRAINING, privacy, noise)
    assert isinstance(learner, SgdLearner)
    assert asdict(learner.settings) == TRAINING.model_dump()


@pytest.mark.parametrize("noise_source", ["seeded", "secure"])
def test_a_private_learner_gets_the_calibrated_noise_and_the_configured_norm_and_source(noise_source):
    privacy = ExampleLevel(epsilon=1.0, max_grad_norm=0.3, noise_source=noise_source)
    learner = build_learner(TRAINING, privacy, 2.5)
    assert isinstance(learner, DpSgdLearner)
    assert (learner.noise_multiplier, learner.max_grad_norm, learner.noise_source) == (2.5, 0.3, noise_source)
    assert asdict(learner.settings) == TRAINING.model_dump()


def test_a_private_learner_without_calibrated_noise_is_refused():
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
def test_owners_train_at_once_where_nothing_is_private_and_the_model_allows_it(model, privacy, kind):
    built = build_model(model, 10, torch.Generator().manual_seed(1))
    assert isinstance(build_cohort_trainer(TRAINING, privacy, [1.0, 1.0], [None, None], built), kind)
