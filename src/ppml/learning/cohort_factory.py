"""Cohort trainers from the configuration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ppml.config.arm import TrainingSpec
from ppml.config.technique import ClientLevel, ExampleLevel, NoPrivacy
from ppml.learning.factory import build_learner, training_settings
from ppml.learning.sequential import CohortTrainer, SequentialTrainer


def build_cohort_trainer(
    training: TrainingSpec,
    privacy: NoPrivacy | ExampleLevel | ClientLevel,
    noise_multipliers: Sequence[float | None],
    affordable_steps: Sequence[int | None],
    model: nn.Module,
) -> CohortTrainer:
    """Return the trainer of independent copies of ``model``, one copy per noise multiplier.

    ``affordable_steps`` is the number of steps that each owner's privacy budget allows; None without a budget.
    """
    match privacy:
        case NoPrivacy():
            from ppml.learning.vectorized.cohort import VectorizedTrainer
            from ppml.learning.vectorized.training import can_vectorize

            if can_vectorize(model):
                return VectorizedTrainer(training_settings(training))
    return SequentialTrainer([build_learner(training, privacy, noise) for noise in noise_multipliers], affordable_steps)
