"""Learners from the configuration."""

from __future__ import annotations

from ppml.config.arm import TrainingSpec
from ppml.config.technique import ClientLevel, ExampleLevel, NoPrivacy
from ppml.data.transforms.deformation import Deformation
from ppml.learning.learner import LocalLearner, OnRelease, Settings, no_op


def build_learner(
    training: TrainingSpec,
    privacy: NoPrivacy | ExampleLevel | ClientLevel,
    noise_multiplier: float | None,
    on_release: OnRelease = no_op,
) -> LocalLearner:
    """Return the learner of one owner.

    Parameters
    ----------
    training : TrainingSpec
        Epochs, batch size and learning rate.
    privacy : NoPrivacy, ExampleLevel or ClientLevel
        The guarantee.
    noise_multiplier : float or None
        The calibrated value of the owner, None without privacy.
    on_release : callable
        Called with the release of each step of a private learner, for an auditor.
    """
    settings = training_settings(training)
    match privacy:
        # Client-level noise is added to the client's update, not to the gradients.
        case NoPrivacy() | ClientLevel():
            from ppml.learning.sgd import SgdLearner

            return SgdLearner(settings)
        case ExampleLevel():
            from ppml.learning.dpsgd import DpSgdLearner

            if noise_multiplier is None:
                raise ValueError("a private learner needs a calibrated noise multiplier")
            return DpSgdLearner(
                settings,
                noise_multiplier=noise_multiplier,
                max_grad_norm=privacy.max_grad_norm,
                noise_source=privacy.noise_source,
                on_release=on_release,
            )


def training_settings(training: TrainingSpec) -> Settings:
    """Return the learner's settings for a training configuration."""
    far = training.deformation
    return Settings(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        learning_rate_schedule=training.learning_rate_schedule,
        shift=training.shift,
        deformation=Deformation(far.rotation, far.shear, far.scale, far.shift),
    )
