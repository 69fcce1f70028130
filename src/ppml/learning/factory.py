"""From the configuration to a learner."""

from __future__ import annotations

from ppml.config.arm import TrainingSpec
from ppml.config.technique import ClientLevel, ExampleLevel, NoPrivacy
from ppml.data.transforms.deformation import Deformation
from ppml.learning.learner import LocalLearner, OnRelease, Settings, ignore_release


def build_learner(
    training: TrainingSpec,
    privacy: NoPrivacy | ExampleLevel | ClientLevel,
    noise_multiplier: float | None,
    on_release: OnRelease = ignore_release,
) -> LocalLearner:
    """Return the learner of one owner.

    Parameters
    ----------
    training : TrainingSpec
        Epochs, batch and learning rate.
    privacy : NoPrivacy, ExampleLevel or ClientLevel
        The guarantee.
    noise_multiplier : float or None
        What calibration found for the owner, None without privacy.
    on_release : callable
        Called with what each step of a private learner releases, for an auditor.
    """
    settings = settings_of(training)
    match privacy:
        # Client-level noise is added to what a client sends; its own training has none.
        case NoPrivacy() | ClientLevel():
            from ppml.learning.sgd import SgdLearner

            return SgdLearner(settings)
        case ExampleLevel():
            from ppml.learning.dpsgd import DpSgdLearner

            if noise_multiplier is None:
                raise ValueError("a private learner needs the noise multiplier that calibration found")
            return DpSgdLearner(
                settings,
                noise_multiplier=noise_multiplier,
                max_grad_norm=privacy.max_grad_norm,
                noise_source=privacy.noise_source,
                on_release=on_release,
            )


def settings_of(training: TrainingSpec) -> Settings:
    """Return how a learner walks through its records."""
    far = training.deformation
    return Settings(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        decay=training.decay,
        shift=training.shift,
        deformation=Deformation(far.rotation, far.shear, far.scale, far.shift),
    )
