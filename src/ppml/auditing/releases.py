"""Statistics of the releases of a training: the noise of each owner's steps.

:mod:`ppml.auditing.federated_releases` measures the noise of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from ppml.auditing.audited_arm import ReducedArm
from ppml.auditing.observation import ObservedStep, TrainingObserver
from ppml.auditing.reference_gradients import (
    ReferenceGradients,
    clipping_factor,
    components_along,
    norm_of,
    squared_norm,
)
from ppml.auditing.statistics import Inclusions, NoiseStatistics
from ppml.config.technique import ClientLevel, ExampleLevel

MAX_DIRECTIONS, TARGET_MEASUREMENTS = 12, 2048
"""Largest number of gradient directions per release, and approximate number of measurements in total."""

MAX_RELATIVE_ROUNDING = 0.1
"""Largest rounding error of an informative noiseless step, as a fraction of the clipping norm."""


@dataclass(frozen=True)
class Claim:
    """The claimed mechanism of a training.

    Parameters
    ----------
    reduced : ReducedArm
        The arm, its sample rates and its steps.
    noise_multipliers : tuple of float
        The noise multiplier of each owner, or that of the sum, repeated for each owner.
    """

    reduced: ReducedArm
    noise_multipliers: tuple[float, ...]

    @property
    def privacy(self) -> ExampleLevel | ClientLevel:
        """The privacy of the arm."""
        privacy = self.reduced.arm.privacy
        assert isinstance(privacy, ExampleLevel | ClientLevel)
        return privacy

    @property
    def norm(self) -> float:
        """The clipping norm."""
        return self.privacy.max_update_norm if isinstance(self.privacy, ClientLevel) else self.privacy.max_grad_norm

    def directions(self, tensors: int) -> int:
        """Return the number of measured gradient directions per release of a model with so many ``tensors``."""
        releases = sum(self.reduced.steps) if self.privacy.noise == "local" else self.reduced.steps[0]
        return min(MAX_DIRECTIONS, math.ceil(TARGET_MEASUREMENTS / (releases * tensors)))

    @property
    def noiseless(self) -> bool:
        """Whether the training has no noise, so that its releases are sums of contributions."""
        return not any(self.noise_multipliers)


@dataclass
class Contributions:
    """Contributions of examples to noiseless releases.

    Attributes
    ----------
    deviation : float
        Largest distance of a release from the sum of clipped gradients, less the rounding error, in units of the
        clipping norm and per example of the sample.
    contribution : float
        Norm of one example's contribution: the clipping norm, times the regression slope of the release on the sum of
        clipped gradients, for the release with the least relative rounding.
    norms : list of float
        Norms of the examples' gradients before clipping.
    """

    deviation: float = 0.0
    contribution: float = math.nan
    norms: list[float] = field(default_factory=list)
    _least_rounding: float = math.inf

    def add(self, release: torch.Tensor, expected: torch.Tensor, count: int, norm: float, rounding: float) -> None:
        """Compare the ``release`` of ``count`` examples with the ``expected`` sum, up to an error of ``rounding``."""
        if rounding > MAX_RELATIVE_ROUNDING * norm * max(1, count):
            return
        distance = norm_of(release - expected)
        self.deviation = max(self.deviation, max(0.0, distance - rounding) / (norm * max(1, count)))
        relative = rounding / norm_of(expected) if expected.any() else math.inf
        if relative < self._least_rounding:
            self._least_rounding = relative
            self.contribution = norm * float(release.double() @ expected.double()) / squared_norm(expected)


class ReleaseCollector(Protocol):
    """Collector of the releases of one training."""

    observer: TrainingObserver | None
    contributions: Contributions
    noise: NoiseStatistics | None
    inclusions: dict[int, Inclusions]
    violations: list[str]

    def step(self, step: ObservedStep) -> None:
        """Process one step of an optimiser."""
        ...

    def release_counts(self) -> list[int]:
        """Return the number of releases of each owner's examples, or of each client."""
        ...


def owner_by_example(sizes: Sequence[int]) -> list[int]:
    """Return the owner of each example; the numbers of examples run over all owners."""
    return [owner for owner, size in enumerate(sizes) for _ in range(size)]


class StepReleases:
    """Noisy steps of owners: one owner, independent owners, or clients of a federation.

    Parameters
    ----------
    claim : Claim
        The claimed mechanism.
    reference : ReferenceGradients
        The auditor's gradients.
    """

    def __init__(self, claim: Claim, reference: ReferenceGradients) -> None:
        self.contributions = Contributions()
        self.noise: NoiseStatistics | None = None
        self.violations: list[str] = []
        self._claim, self._reference = claim, reference
        sizes = claim.reduced.sizes
        self._owners = owner_by_example(sizes)
        self._firsts = [sum(sizes[:owner]) for owner in range(len(sizes))]
        self.inclusions = {owner: Inclusions(rate) for owner, rate in enumerate(claim.reduced.rates)}
        self._counts = [0] * len(sizes)
        self._owner = -1
        self._next_example = 0
        self.observer: TrainingObserver | None = None

    def step(self, step: ObservedStep) -> None:
        """Process the step of one owner."""
        self._owner = self._owner_of(step)
        owner, claim = self._owner, self._claim
        self._counts[owner] += 1
        size, rate = claim.reduced.sizes[owner], claim.reduced.rates[owner]
        positions = [example - self._firsts[owner] for example in step.sample]
        included = np.zeros(size, dtype=bool)
        included[[position for position in positions if 0 <= position < size]] = True
        self.inclusions[owner].rows.append(included)
        self._reference.load(step.before)
        count = 0 if claim.noiseless else claim.directions(len(step.shapes))
        others = self._other_examples(step.sample, count)
        gradients = self._reference.gradients([*step.sample, *others])
        total = torch.zeros_like(step.release)
        norms = [norm_of(gradient) for gradient in gradients[: len(step.sample)]]
        for gradient, norm in zip(gradients, norms, strict=False):
            total.add_(gradient, alpha=clipping_factor(norm, claim.norm))
        release = step.release.mul_(rate * size)
        if claim.noiseless:
            self.contributions.norms += norms
            self.contributions.add(release, total, len(norms), claim.norm, step.rounding * rate * size)
            return
        noise = release.sub_(total).div_(claim.noise_multipliers[owner] * claim.norm)
        self.noise = self.noise or NoiseStatistics(step.shapes)
        components = components_along(gradients[:count], noise, step.shapes)
        self.noise.add_release(noise, components, size=len(norms), signal=total)
        self.noise.add_party_noise(noise, owner)

    def _owner_of(self, step: ObservedStep) -> int:
        """Return the owner of the sample; the owners of empty samples follow from the order of training."""
        if step.sample:
            return self._owners[step.sample[0]]
        return (self._owner + step.fresh) % len(self._claim.reduced.sizes)

    def _other_examples(self, sample: Sequence[int], count: int) -> list[int]:
        """Return further examples of the owner, in rotation, that fill ``sample`` up to ``count`` examples."""
        size, first = self._claim.reduced.sizes[self._owner], self._firsts[self._owner]
        missing = max(0, min(count, size) - len(sample))
        candidates = [first + (self._next_example + place) % size for place in range(size)]
        self._next_example += missing
        return [example for example in candidates if example not in sample][:missing]

    def release_counts(self) -> list[int]:
        """Return the number of steps of each owner."""
        return list(self._counts)
