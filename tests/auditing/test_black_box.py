"""The released model against a worst-case record: 200 trainings with the record, 200 without it.

The observer knows all other records, the root seed of the configuration and every setting; noise comes from the
operating system, but for the last test, where two models are released with noise of a seed that the observer does not
know. The record is taken out as the relation says: its contribution is 0, and the number of records is public.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from ppml import training as techniques
from ppml.accounting.gdp import exact_epsilon
from ppml.config.arm import Arm
from ppml.config.features import Scattering
from ppml.data.examples import Examples
from ppml.data.transforms import extractor
from ppml.data.transforms.extractor import ScatteringFeatures
from ppml.mechanism import Value
from ppml.randomness import Randomness
from ppml.training import train

from ..federation.runs import ignore_row
from ..learning.digits import one_thread, some, vector

__all__ = ["one_thread"]

RUNS, RECORDS, STEPS, DELTA = 200, 150, 5, 1e-5
MU = {0.563: 0.1595, 2.9: 0.6985, 10.0: 2.0}
"""Of Gaussian differential privacy, about; :func:`mu_of` is exact."""
FEATURES = Scattering(components=100, strokes=200, copies=4)
ROOT = Randomness(2024)


def mu_of(epsilon: float) -> float:
    """Return the mu whose epsilon is ``epsilon``."""
    low, high = 0.01, 5.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if exact_epsilon(middle, DELTA) < epsilon else (low, middle)
    return low


def arm(epsilon: float, source: str = "secure") -> Arm:
    """Return a linear model on features, whose noise gives ``epsilon`` over all steps."""
    return Arm.model_validate(
        {
            "features": FEATURES.to_json(),
            "model": "linear",
            "privacy": {
                "kind": "example",
                "noise_multiplier": math.sqrt(STEPS) / mu_of(epsilon),
                "max_grad_norm": 0.1,
                "noise_source": source,
            },
            "training": {
                "epochs": STEPS,
                "batch_size": "all",
                "learning_rate": 4.0,
                "momentum": 0.0,
                "decay": "constant",
            },
        }
    )


@cache
def rule() -> ScatteringFeatures:
    return ScatteringFeatures(FEATURES, ROOT.child("features"))


def digits_with_a_wrong_first_label() -> tuple[torch.Tensor, torch.Tensor]:
    """Return ink, shape ``(n, 1, 28, 28)``, and labels, of which the first is wrong: the record that is looked for."""
    records = some(RECORDS)
    ink = records.images - records.images.amin()
    labels = records.labels.clone()
    labels[0] = (labels[0] + 5) % 10
    return ink / ink.amax(), labels


def with_and_without() -> tuple[Examples, Examples]:
    """Return the features with the record, and those of all others with a null record in its place."""
    ink, labels = digits_with_a_wrong_first_label()
    present = rule().copies(ink)
    others = rule().copies(ink[1:])
    # The gradient of a record that is not finite counts as 0.
    null = torch.full_like(present[:1], torch.nan)
    return Examples(present, labels), Examples(torch.cat([null, others]), labels)


def fitted(spec: Arm, records: Examples, seed: int = 0, noise: float | None = None) -> np.ndarray:
    """Return the weights that a training releases."""
    multiplier = spec.privacy.noise_multiplier if noise is None else noise
    rng = ROOT.child("seed", seed)
    given = (spec, [records], [multiplier], Examples(records.images[1:3, 0], records.labels[1:3]))
    (model,) = train(*given, classes=10, rng=rng, data=("digits", RECORDS), report=ignore_row).models
    return vector(model).double().numpy()


@dataclass(frozen=True)
class Found:
    """What an observer finds: mu, lower bounds of mu, of epsilon by mu, and of epsilon by counting (99.99 %)."""

    estimate: float
    mu: float
    epsilon: float
    counted: float


def told_apart(inside: Sequence[float], outside: Sequence[float], middle: float, risk: float = 1e-4) -> Found:
    """Return what statistics of trainings with and without the record tell; ``middle`` was fixed beforehand."""
    runs = len(inside)
    deviation = math.sqrt((np.var(inside, ddof=1) + np.var(outside, ddof=1)) / 2)
    mu = (np.mean(inside) - np.mean(outside)) / deviation
    error = math.sqrt(2 / runs + mu**2 / (4 * runs))
    low = max(0.0, float(mu - stats.norm.isf(risk) * error))
    hits, alarms = (sum(value > middle for value in values) for values in (inside, outside))
    hit = stats.beta.ppf(risk / 2, hits, runs - hits + 1) if hits else 0.0
    alarm = stats.beta.isf(risk / 2, alarms + 1, runs - alarms) if alarms < runs else 1.0
    counted = math.log((hit - DELTA) / alarm) if hit > DELTA else 0.0
    return Found(float(mu), low, exact_epsilon(low, DELTA) if low else 0.0, max(0.0, counted))


def attack(epsilon: float, runs: int = RUNS) -> Found:
    """Train with and without the record, and tell them apart along the difference that the record makes."""
    spec, (inside, outside) = arm(epsilon), with_and_without()
    without_noise = [fitted(spec, records, noise=0.0) for records in (inside, outside)]
    direction = without_noise[0] - without_noise[1]
    middle = float(direction @ (without_noise[0] + without_noise[1]) / 2)
    scores = [[float(direction @ fitted(spec, records)) for _ in range(runs)] for records in (inside, outside)]
    return told_apart(*scores, middle)


@pytest.mark.parametrize("epsilon", MU)
def test_a_worst_case_record_stays_under_the_claim_though_the_root_seed_is_known(epsilon):
    found = attack(epsilon)
    assert found.epsilon <= epsilon and found.counted <= epsilon
    assert found.mu <= mu_of(epsilon)
    # The attack is no straw man: it finds a good part of what may be found.
    assert found.estimate > 0.5 * mu_of(epsilon) or epsilon < 1


def by_position(rng: Randomness, number: int, digests: Sequence[bytes], count: int) -> np.ndarray:
    """Return draws of one generator that runs over the records in their order."""
    return rng.child(number).numpy().random((len(digests), count))


@pytest.mark.parametrize("epsilon", [2.9, 10.0])
def test_draws_by_position_break_the_claim(epsilon, monkeypatch):
    monkeypatch.setattr(extractor, "draws_of_records", by_position)
    found = attack(epsilon, runs=60)
    assert found.epsilon > epsilon


# Two models of the same records.


def freed_of_noise(models: Sequence[np.ndarray], noises: Sequence[float]) -> np.ndarray:
    """Return the combination of two models in which noise that they share cancels."""
    (one, other), (less, more) = models, noises
    return (more * one - less * other) / (more - less)


def pair_attack(draw: Callable[..., tuple[Randomness, str | None]] | None, monkeypatch, runs: int = 60) -> Found:
    """Release models of two epsilons, with noise of a seed that the observer does not know, and combine them."""
    if draw is not None:
        monkeypatch.setattr(techniques, "draws_of", draw)
    specs = [arm(5.0, "seeded"), arm(2.9, "seeded")]
    noises = [spec.privacy.noise_multiplier for spec in specs]

    def combined(records: Examples, seed: int, factor: float = 1.0) -> np.ndarray:
        fits = [fitted(spec, records, seed, noise * factor) for spec, noise in zip(specs, noises, strict=True)]
        return freed_of_noise(fits, noises)

    inside, outside = with_and_without()
    clean = [combined(records, 0, factor=0.0) for records in (inside, outside)]
    direction = clean[0] - clean[1]
    middle = float(direction @ (clean[0] + clean[1]) / 2)
    scores = [
        [float(direction @ combined(records, seed)) for seed in seeds]
        for records, seeds in ((inside, range(runs)), (outside, range(runs, 2 * runs)))
    ]
    return told_apart(*scores, middle)


def test_two_models_of_the_same_records_stay_under_their_joint_claim(monkeypatch):
    joint = exact_epsilon(math.hypot(mu_of(5.0), mu_of(2.9)), DELTA)
    found = pair_attack(None, monkeypatch)
    assert found.epsilon <= joint and found.counted <= joint


def test_noise_that_two_models_share_breaks_their_joint_claim(monkeypatch):
    def of_the_seed_alone(arm, sizes, noises, limits, model, rng: Randomness, data: Sequence[Value]):
        return rng, "one"

    joint = exact_epsilon(math.hypot(mu_of(5.0), mu_of(2.9)), DELTA)
    assert pair_attack(of_the_seed_alone, monkeypatch).epsilon > joint
