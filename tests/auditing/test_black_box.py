"""A black-box attack on the released model with a worst-case example: 200 trainings with it, 200 without it.

The adversary knows all other examples, the root seed of the configuration and every setting. The noise comes from the
operating system. As in the neighbouring relation, a null example of contribution 0 replaces the example; the number of
examples is public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from ppml.accounting.gdp import exact_epsilon
from ppml.config.arm import Arm
from ppml.config.transforms import Scattering
from ppml.data.examples import Examples
from ppml.data.transforms import extractor
from ppml.data.transforms.extractor import ImageFeatures
from ppml.randomness import Randomness
from ppml.training import train

from ..federation.runs import ignore_row
from ..learning.digits import one_thread, some, vector
from .arms import CONTRACT

__all__ = ["one_thread"]

RUNS, RECORDS, STEPS, DELTA = 200, 150, 5, 1e-5
MU = {0.563: 0.1595, 2.9: 0.6985, 10.0: 2.0}
"""Epsilon -> approximate mu of Gaussian differential privacy; :func:`mu_of` is exact."""
FEATURES = Scattering(components=100, strokes=200, copies=4)
ROOT = Randomness(2024)


def mu_of(epsilon: float) -> float:
    """Return the mu with exact epsilon ``epsilon``."""
    low, high = 0.01, 5.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if exact_epsilon(middle, DELTA) < epsilon else (low, middle)
    return low


def arm(epsilon: float) -> Arm:
    """Return a linear model on features, with noise for ``epsilon`` over all steps."""
    return Arm.model_validate(
        {
            "transforms": [FEATURES.to_json()],
            "model": "linear",
            "privacy": {
                "kind": "example",
                "noise_multiplier": math.sqrt(STEPS) / mu_of(epsilon),
                "max_grad_norm": 0.1,
                "noise_source": "secure",
            },
            "training": {
                "epochs": STEPS,
                "batch_size": "all",
                "learning_rate": 4.0,
                "momentum": 0.0,
                "learning_rate_schedule": "constant",
            },
        }
    )


@cache
def rule() -> ImageFeatures:
    return ImageFeatures(FEATURES, ROOT.child("features"))


def digits_with_a_wrong_first_label() -> tuple[torch.Tensor, torch.Tensor]:
    """Return ink, shape ``(n, 1, 28, 28)``, and labels; the attacked first example has a wrong label."""
    records = some(RECORDS)
    ink = records.inputs - records.inputs.amin()
    labels = records.labels.clone()
    labels[0] = (labels[0] + 5) % 10
    return ink / ink.amax(), labels


def with_and_without() -> tuple[Examples, Examples]:
    """Return the features with the example, and those with a null example in its place."""
    ink, labels = digits_with_a_wrong_first_label()
    present = rule().copies(ink)
    others = rule().copies(ink[1:])
    # DP-SGD counts a non-finite gradient as 0.
    null = torch.full_like(present[:1], torch.nan)
    return Examples(present, labels), Examples(torch.cat([null, others]), labels)


def train_weights(spec: Arm, records: Examples, noise: float | None = None) -> np.ndarray:
    """Return the released weights of a training."""
    multiplier = spec.privacy.noise_multiplier if noise is None else noise
    (model,) = train(
        spec,
        [records],
        [multiplier],
        Examples(records.inputs[1:3, 0], records.labels[1:3]),
        contract=CONTRACT.features(FEATURES.components + 1),
        rng=ROOT,
        data=("digits", RECORDS),
        report=ignore_row,
    ).models
    return vector(model).double().numpy()


@dataclass(frozen=True)
class AttackResult:
    """An estimate of mu, and lower bounds (99.99 %) of mu, of epsilon by mu, and of epsilon by counting."""

    estimate: float
    mu: float
    epsilon: float
    counted: float


def estimate_privacy(
    inside: Sequence[float], outside: Sequence[float], middle: float, risk: float = 1e-4
) -> AttackResult:
    """Return the estimates from scores with and without the example; the threshold ``middle`` is fixed."""
    runs = len(inside)
    deviation = math.sqrt((np.var(inside, ddof=1) + np.var(outside, ddof=1)) / 2)
    mu = (np.mean(inside) - np.mean(outside)) / deviation
    error = math.sqrt(2 / runs + mu**2 / (4 * runs))
    low = max(0.0, float(mu - stats.norm.isf(risk) * error))
    hits, alarms = (sum(value > middle for value in values) for values in (inside, outside))
    hit = stats.beta.ppf(risk / 2, hits, runs - hits + 1) if hits else 0.0
    alarm = stats.beta.isf(risk / 2, alarms + 1, runs - alarms) if alarms < runs else 1.0
    counted = math.log((hit - DELTA) / alarm) if hit > DELTA else 0.0
    return AttackResult(float(mu), low, exact_epsilon(low, DELTA) if low else 0.0, max(0.0, counted))


def attack(epsilon: float, runs: int = RUNS) -> AttackResult:
    """Train with and without the example, and score the models along the effect of the example."""
    spec, (inside, outside) = arm(epsilon), with_and_without()
    without_noise = [train_weights(spec, records, noise=0.0) for records in (inside, outside)]
    direction = without_noise[0] - without_noise[1]
    middle = float(direction @ (without_noise[0] + without_noise[1]) / 2)
    scores = [[float(direction @ train_weights(spec, records)) for _ in range(runs)] for records in (inside, outside)]
    return estimate_privacy(*scores, middle)


@pytest.mark.parametrize("epsilon", MU)
def test_attack_stays_below_the_claim(epsilon):
    found = attack(epsilon)
    assert found.epsilon <= epsilon and found.counted <= epsilon
    assert found.mu <= mu_of(epsilon)
    # The attack is strong: it finds at least half of mu.
    assert found.estimate > 0.5 * mu_of(epsilon) or epsilon < 1


def by_position(rng: Randomness, number: int, digests: Sequence[bytes], count: int) -> np.ndarray:
    """Return draws of one generator over the examples in their order."""
    return rng.child(number).numpy().random((len(digests), count))


@pytest.mark.parametrize("epsilon", [2.9, 10.0])
def test_draws_by_position_break_the_claim(epsilon, monkeypatch):
    monkeypatch.setattr(extractor, "draws_per_example", by_position)
    found = attack(epsilon, runs=60)
    assert found.epsilon > epsilon
