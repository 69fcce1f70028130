"""The noise of each owner, from its observed steps; for sums see :mod:`ppml.auditing.federated_releases`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from ppml.auditing.audited_arm import Scaled
from ppml.auditing.observation import Step, Watcher
from ppml.auditing.reference_gradients import Reference, along, clipping_factor, length, square
from ppml.auditing.statistics import Coins, Noise
from ppml.config.technique import ClientLevel, ExampleLevel

RECORDS, MEASUREMENTS = 12, 2048
"""Records, at most, that noise is measured along the gradients of in one release, and measurements in all, about."""

INFORMATIVE = 0.1
"""Of the clipping norm: a noiseless step whose rounding may reach more tells nothing of clipping."""


@dataclass(frozen=True)
class Claim:
    """What is claimed of a training.

    Parameters
    ----------
    scaled : Scaled
        The arm, its rates and its steps.
    noise_multipliers : tuple of float
        The noise of each owner, or of the sum, once for each.
    """

    scaled: Scaled
    noise_multipliers: tuple[float, ...]

    @property
    def privacy(self) -> ExampleLevel | ClientLevel:
        """The privacy of the arm."""
        privacy = self.scaled.arm.privacy
        assert isinstance(privacy, ExampleLevel | ClientLevel)
        return privacy

    @property
    def norm(self) -> float:
        """The clipping norm."""
        return self.privacy.max_update_norm if isinstance(self.privacy, ClientLevel) else self.privacy.max_grad_norm

    def records(self, tensors: int) -> int:
        """Return along how many records' gradients, of so many ``tensors``, noise is measured in one release."""
        releases = sum(self.scaled.steps) if self.privacy.noise_by == "owner" else self.scaled.steps[0]
        return min(RECORDS, math.ceil(MEASUREMENTS / (releases * tensors)))

    @property
    def noiseless(self) -> bool:
        """Whether there is no noise, so that what records add shows."""
        return not any(self.noise_multipliers)


@dataclass
class Added:
    """What records add to noiseless releases.

    Attributes
    ----------
    deviation : float
        Largest distance of a release from the sum of clipped gradients, beyond rounding, over the clipping norm and the
        number of records in the sample.
    contribution : float
        Norm of what a record adds: the clipping norm, times the slope of the release on the sum of clipped gradients
        where rounding is least.
    norms : list of float
        Of the records before clipping.
    """

    deviation: float = 0.0
    contribution: float = math.nan
    norms: list[float] = field(default_factory=list)
    _sharpest: float = math.inf

    def add(self, release: torch.Tensor, expected: torch.Tensor, count: int, norm: float, rounding: float) -> None:
        """Compare a ``release`` of ``count`` records with what is ``expected``; ``rounding`` is what it may be off."""
        if rounding > INFORMATIVE * norm * max(1, count):
            return
        distance = length(release - expected)
        self.deviation = max(self.deviation, max(0.0, distance - rounding) / (norm * max(1, count)))
        sharpness = rounding / length(expected) if expected.any() else math.inf
        if sharpness < self._sharpest:
            self._sharpest = sharpness
            self.contribution = norm * float(release.double() @ expected.double()) / square(expected)


class Listener(Protocol):
    """Collects what one training releases."""

    watcher: Watcher | None
    added: Added
    noise: Noise | None
    coins: dict[int, Coins]
    faults: list[str]

    def step(self, step: Step) -> None:
        """Take a step of an optimiser."""
        ...

    def counted(self) -> list[int]:
        """Return how many releases each owner's records, or each client, entered."""
        ...


def owners_of(sizes: Sequence[int]) -> list[int]:
    """Return the owner of each record, numbered through."""
    return [owner for owner, size in enumerate(sizes) for _ in range(size)]


class OwnersNoise:
    """Steps of owners, each of which has noise: one owner, owners that train alone, or clients of a federation.

    Parameters
    ----------
    claim : Claim
        What is claimed.
    reference : Reference
        Computes gradients.
    """

    def __init__(self, claim: Claim, reference: Reference) -> None:
        self.added, self.noise, self.faults = Added(), None, []  # type: tuple[Added, Noise | None, list[str]]
        self._claim, self._reference = claim, reference
        sizes = claim.scaled.sizes
        self._owners = owners_of(sizes)
        self._firsts = [sum(sizes[:owner]) for owner in range(len(sizes))]
        self.coins = {owner: Coins(rate) for owner, rate in enumerate(claim.scaled.rates)}
        self._counts = [0] * len(sizes)
        self._owner = -1
        self._turned = 0
        self.watcher: Watcher | None = None

    def step(self, step: Step) -> None:
        """Take the step of one owner."""
        self._owner = self._owner_of(step)
        owner, claim = self._owner, self._claim
        self._counts[owner] += 1
        size, rate = claim.scaled.sizes[owner], claim.scaled.rates[owner]
        places = [record - self._firsts[owner] for record in step.drawn]
        drawn = np.zeros(size, dtype=bool)
        drawn[[place for place in places if 0 <= place < size]] = True
        self.coins[owner].drawn.append(drawn)
        self._reference.load(step.before)
        wanted = 0 if claim.noiseless else claim.records(len(step.shapes))
        others = self._others(step.drawn, wanted)
        gradients = self._reference.gradients([*step.drawn, *others])
        total = torch.zeros_like(step.release)
        norms = [length(gradient) for gradient in gradients[: len(step.drawn)]]
        for gradient, norm in zip(gradients, norms, strict=False):
            total.add_(gradient, alpha=clipping_factor(norm, claim.norm))
        release = step.release.mul_(rate * size)
        if claim.noiseless:
            self.added.norms += norms
            self.added.add(release, total, len(norms), claim.norm, step.rounding * rate * size)
            return
        noise = release.sub_(total).div_(claim.noise_multipliers[owner] * claim.norm)
        self.noise = self.noise or Noise(step.shapes)
        found = along(gradients[:wanted], noise, step.shapes)
        self.noise.add_release(noise, found, size=len(norms), records=total)
        self.noise.add_share(noise, owner)

    def _owner_of(self, step: Step) -> int:
        """Return the owner of what was drawn; of an empty sample, the one whose turn it is."""
        if step.drawn:
            return self._owners[step.drawn[0]]
        return (self._owner + step.fresh) % len(self._claim.scaled.sizes)

    def _others(self, drawn: Sequence[int], wanted: int) -> list[int]:
        """Return further records of the owner, in turn, so that there are as many as are ``wanted``, if it has them."""
        size, first = self._claim.scaled.sizes[self._owner], self._firsts[self._owner]
        missing = max(0, min(wanted, size) - len(drawn))
        left = [first + (self._turned + place) % size for place in range(size)]
        self._turned += missing
        return [record for record in left if record not in drawn][:missing]

    def counted(self) -> list[int]:
        """Return how many steps there were with each owner's records."""
        return list(self._counts)
