"""From the configuration to what trains owners without each other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ppml.config.arm import TrainingSpec
from ppml.config.technique import ClientLevel, ExampleLevel, NoPrivacy
from ppml.learning.factory import build_learner, settings_of
from ppml.learning.sequential import Cohort, OneByOne


def build_cohort(
    training: TrainingSpec,
    privacy: NoPrivacy | ExampleLevel | ClientLevel,
    noise_multipliers: Sequence[float | None],
    limits: Sequence[int | None],
    model: nn.Module,
) -> Cohort:
    """Return what trains copies of ``model`` for owners without each other, one for each noise multiplier.

    ``limits`` is how many steps each owner's privacy budget allows, None for all.
    """
    match privacy:
        case NoPrivacy():
            from ppml.learning.vectorized.cohort import SideBySide
            from ppml.learning.vectorized.training import trains_side_by_side

            if trains_side_by_side(model):
                return SideBySide(settings_of(training))
    return OneByOne([build_learner(training, privacy, noise) for noise in noise_multipliers], limits)
