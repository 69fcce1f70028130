"""From what the auditor sees of a training to the noise of its releases: a step of an owner, or a sum of a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.plaintext import unseal_plain
from ppml.aggregation.protocol import Sealed
from ppml.attacks.reference import Reference, along, clipping_factor, length, square
from ppml.attacks.scale import Scaled
from ppml.attacks.statistics import Coins, Noise
from ppml.attacks.watch import Step, Watcher
from ppml.config.technique import ClientLevel, ExampleLevel, Federated
from ppml.federation.global_state import GlobalState
from ppml.federation.messages import INITIAL, SUMS, UPDATE, record_of, unpack_status, unpack_sums, unpack_update
from ppml.federation.messages import unpack_vector as vector_in
from ppml.federation.work import LocalWork

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

    added: Added
    noise: Noise | None
    coins: dict[int, Coins]
    faults: list[str]

    def step(self, step: Step) -> None:
        """Take a step of an optimiser."""
        ...

    def message(self, direction: str, message: Message) -> None:
        """Take a message on its way."""
        ...

    def counted(self) -> list[int]:
        """Return how many releases each owner's records, or each client, entered."""
        ...


def owners_of(sizes: Sequence[int]) -> list[int]:
    """Return the owner of each record, numbered through."""
    return [owner for owner, size in enumerate(sizes) for _ in range(size)]


class OwnersNoise:
    """Steps of owners, each of which has noise: one owner, owners who train alone, or clients of a federation.

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
        self._walks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def step(self, step: Step) -> None:
        """Take the step of one owner."""
        self._owner = self._owner_of(step)
        owner, claim = self._owner, self._claim
        self._counts[owner] += 1
        if isinstance(claim.scaled.arm.topology, Federated):
            start = step.before.clone() if step.fresh or owner not in self._walks else self._walks[owner][0]
            self._walks[owner] = start, step.after.clone()
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

    def message(self, direction: str, message: Message) -> None:
        """Compare what a client sends with how its noisy steps moved its weights: nothing else may leave it."""
        if direction != "up" or not message.has_content() or UPDATE not in message.content:
            return
        arm, client = self._claim.scaled.arm, unpack_status(message.content).client
        assert isinstance(arm.topology, Federated)
        sizes = self._claim.scaled.sizes
        weight = sizes[client] / max(sizes) if arm.topology.weighting == "examples" else 1.0
        codec = FixedPointCodec(arm.aggregation.clip, arm.aggregation.fractional_bits)
        sent = codec.decode(unseal_plain(unpack_update(record_of(message.content, ArrayRecord, UPDATE))))[:-1]
        if client not in self._walks:
            self.faults.append("a client sends an update without a step")
            return
        start, end = (weights.cpu().numpy().astype(np.float64) for weights in self._walks[client])
        moved = np.clip(weight * (end - start), -codec.clip, codec.clip)
        if np.abs(sent - moved).max() > codec.step:
            self.faults.append("a client sends something else than what its noisy steps led to")

    def counted(self) -> list[int]:
        """Return how many steps there were with each owner's records."""
        return list(self._counts)


class NoiseInSums:
    """Sums of rounds, each of which has noise: from the clients, a share each, or from the server.

    Parameters
    ----------
    claim : Claim
        What is claimed.
    reference : Reference
        Computes gradients.
    work : LocalWork
        Says where a sum leads.
    shapes : tuple of int
        The size of each parameter tensor.
    """

    def __init__(self, claim: Claim, reference: Reference, work: LocalWork, shapes: tuple[int, ...]) -> None:
        self.added, self.faults = Added(), []  # type: tuple[Added, list[str]]
        self.noise: Noise | None = Noise(shapes)
        self._claim, self._reference, self._work = claim, reference, work
        self._values, self._shapes = sum(shapes), shapes
        self._directions: list[torch.Tensor] = []
        self._turned = 0
        self._owners = np.array(owners_of(claim.scaled.sizes))
        # Clients that may tell the server their shares, or fail, do not count.
        missing = claim.privacy.colluders + claim.privacy.dropouts if claim.privacy.noise_by == "shares" else 0
        self._counted = range(missing, len(claim.scaled.sizes))
        grid = claim.scaled.arm.aggregation
        self._codec = FixedPointCodec(grid.clip, grid.fractional_bits)
        self.coins = {0: Coins(claim.scaled.rates[0])}
        self.watcher: Watcher | None = None
        self._state: GlobalState | None = None
        self._sent: dict[int, Grid] = {}
        self._rounds = 0

    def step(self, step: Step) -> None:
        """Leave a step of a client alone: the sum is what has noise."""

    def message(self, direction: str, message: Message) -> None:
        """Take what clients send, and the sums that come back."""
        if not message.has_content():
            return
        content = message.content
        if direction == "up" and UPDATE in content:
            self._sent[unpack_status(content).client] = unseal_plain(
                unpack_update(record_of(content, ArrayRecord, UPDATE))
            )
        if direction == "down" and INITIAL in content and self._state is None:
            initial = vector_in(record_of(content, ArrayRecord, INITIAL))
            self._state = GlobalState(initial, self._work.start(len(initial)))
        if direction == "down" and SUMS in content:
            for number, total in unpack_sums(record_of(content, ArrayRecord, SUMS)).items():
                if number > self._rounds:
                    self._end(number, total)

    def _end(self, number: int, total: Sealed) -> None:
        """Take the sum of a round."""
        assert self._state is not None and self.watcher is not None
        self._rounds, opened = number, unseal_plain(total)
        weights = torch.from_numpy(self._state.parameters.copy())
        drawn = self.watcher.drawn()
        with self.watcher.away():
            parts, expected, drawn = self._parts(number, weights, drawn)
        sent = sum(self._sent.values())
        claim, codec = self._claim, self._codec
        if claim.noiseless:
            for client, part in enumerate(parts):
                rounding = math.sqrt(self._values) * codec.step / 2 + 2.0**-22 * float(weights.norm())
                count = int((self._owners[list(drawn)] == client).sum())
                self.added.add(part + expected[client], expected[client], count, claim.norm, rounding)
        else:
            self._measure(parts, expected, (opened - sent) * codec.step, len(drawn))
        if claim.privacy.noise_by == "shares" and not np.array_equal(opened, sent):
            self.faults.append("the sum that is released is not that of what the clients sent")
        self._sent.clear()
        self._state = self._work.apply(codec.decode(opened), self._state, number)

    def _parts(
        self, number: int, weights: torch.Tensor, drawn: tuple[int, ...]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], tuple[int, ...]]:
        """Return what each client sent beyond what its records add, what they add, and the records of the sample."""
        claim, scaled = self._claim, self._claim.scaled
        assert isinstance(scaled.arm.topology, Federated)
        clients, rounds = range(len(scaled.sizes)), scaled.arm.topology.rounds
        if isinstance(claim.privacy, ClientLevel):
            drawn, sign = tuple(clients), 1.0
            found = {
                client: self._reference.change(
                    weights, client, scaled.arm.training, (number - 1) / rounds, number / rounds
                )
                for client in clients
            }
        else:
            sign = -1.0
            self._reference.load(weights)
            found = {record: self._reference.gradient(record).double() for record in drawn}
            self.coins[0].drawn.append(np.isin(np.arange(len(self._reference)), drawn))
        expected = [torch.zeros(self._values, dtype=torch.float64) for _ in clients]
        for record, vector in found.items():
            norm = length(vector)
            if claim.noiseless:
                self.added.norms.append(norm)
            expected[self._owners[record]] += vector * clipping_factor(norm, claim.norm)
        self._directions = self._along(found, 0 if claim.noiseless else claim.records(len(self._shapes)))
        sent = [torch.from_numpy(sign * self._codec.decode(self._sent[client])) for client in clients]
        return [one - what for one, what in zip(sent, expected, strict=True)], expected, drawn

    def _along(self, found: Mapping[int, torch.Tensor], wanted: int) -> list[torch.Tensor]:
        """Return so many gradients, or changes: those that were ``found``, and those of further records, in turn."""
        records = list(found)[:wanted]
        for _ in range(min(wanted, len(self._reference)) - len(records)):
            while self._turned in records:
                self._turned = (self._turned + 1) % len(self._reference)
            records.append(self._turned)
            self._turned = (self._turned + 1) % len(self._reference)
        return [found[one] if one in found else self._reference.gradient(one).double() for one in records]

    def _measure(
        self, parts: list[torch.Tensor], expected: list[torch.Tensor], by_server: NDArray[np.floating], size: int
    ) -> None:
        """Add the noise that counts, in units of what is claimed of it."""
        assert self.noise is not None
        claim, codec = self._claim, self._codec
        # On a grid a record may change the sum by half a step more, twice, in each value.
        unit = claim.noise_multipliers[0] * (claim.norm + math.sqrt(self._values) * codec.step)
        if claim.privacy.noise_by == "shares":
            share = unit / math.sqrt(len(self._counted))
            for client, part in enumerate(parts):
                self.noise.add_share((part / share).float(), client)
            noise = torch.stack([parts[client] for client in self._counted]).sum(dim=0) / unit
        else:
            noise = torch.from_numpy(by_server / unit)
            self.noise.add_share(noise.float(), 0)
        noise = noise.float()
        records = torch.stack(expected).sum(dim=0).float()
        directions = torch.stack([*self._directions, torch.zeros(self._values)]).float()
        self.noise.add_release(noise, along(directions, noise, self._shapes), size=size, records=records)

    def counted(self) -> list[int]:
        """Return how many sums each client was in."""
        return [self._rounds] * len(self._claim.scaled.sizes)
