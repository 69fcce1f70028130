"""From the messages of a federation that the auditor sees to the noise of its sums, and of what its clients send."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.aggregation.plaintext import from_plaintext
from ppml.auditing.observation import ObservedStep, TrainingObserver
from ppml.auditing.reference_gradients import ReferenceGradients, along, clipping_factor, norm_of
from ppml.auditing.releases import Claim, Contributions, StepReleases, owner_by_example
from ppml.auditing.statistics import Inclusions, NoiseStatistics
from ppml.config.technique import ClientLevel, Federated
from ppml.federation.algorithms import FederatedAlgorithm
from ppml.federation.factory import build_algorithm
from ppml.federation.global_state import GlobalState


def federated_collector(claim: Claim, reference: ReferenceGradients, shapes: tuple[int, ...]) -> ClientReleases | SumReleases:
    """Return what listens to a federation: to its clients' steps, or to its sums, wherever the noise is.

    Parameters
    ----------
    claim : Claim
        What is claimed.
    reference : Reference
        Computes gradients.
    shapes : tuple of int
        The size of each parameter tensor.
    """
    if claim.privacy.noise == "local":
        return ClientReleases(claim, reference)
    arm = claim.reduced.arm
    codec = FixedPointCodec(arm.aggregation.clip, arm.aggregation.fractional_bits)
    work = build_algorithm(arm, codec, sum(shapes), claim.reduced.sizes, claim.noise_multipliers)
    return SumReleases(claim, reference, work, shapes)


class ClientReleases(StepReleases):
    """Steps of clients, each of which has noise, and what the clients send of them.

    Parameters
    ----------
    claim : Claim
        What is claimed.
    reference : Reference
        Computes gradients.
    """

    def __init__(self, claim: Claim, reference: ReferenceGradients) -> None:
        super().__init__(claim, reference)
        self._walks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def step(self, step: ObservedStep) -> None:
        """Take the step of one client, and remember where its walk began and where it ends."""
        before, after = step.before.clone(), step.after.clone()
        super().step(step)
        owner = self._owner
        start = before if step.fresh or owner not in self._walks else self._walks[owner][0]
        self._walks[owner] = start, after

    def see_update(self, client: int, update: ProtectedUpdate) -> None:
        """Compare what a client sends with how its noisy steps moved its weights: nothing else may leave it."""
        arm = self._claim.reduced.arm
        assert isinstance(arm.topology, Federated)
        sizes = self._claim.reduced.sizes
        weight = sizes[client] / max(sizes) if arm.topology.weighting == "examples" else 1.0
        codec = FixedPointCodec(arm.aggregation.clip, arm.aggregation.fractional_bits)
        sent = codec.decode(from_plaintext(update))[:-1]
        if client not in self._walks:
            self.faults.append("a client sends an update without a step")
            return
        start, end = (weights.cpu().numpy().astype(np.float64) for weights in self._walks[client])
        moved = np.clip(weight * (end - start), -codec.clip, codec.clip)
        if np.abs(sent - moved).max() > codec.step:
            self.faults.append("a client sends something else than what its noisy steps led to")

    def see_initial(self, weights: NDArray[np.float32]) -> None:
        """Leave the initial weights alone: they are public."""

    def see_sum(self, number: int, total: ProtectedUpdate) -> None:
        """Leave sums alone: the noise is in each update."""


class SumReleases:
    """Sums of rounds, each of which has noise: from the clients, a share each, or from the server.

    Parameters
    ----------
    claim : Claim
        What is claimed.
    reference : Reference
        Computes gradients.
    work : FederatedAlgorithm
        Says where a sum leads.
    shapes : tuple of int
        The size of each parameter tensor.
    """

    def __init__(self, claim: Claim, reference: ReferenceGradients, work: FederatedAlgorithm, shapes: tuple[int, ...]) -> None:
        self.added, self.faults = Contributions(), []  # type: tuple[Added, list[str]]
        self.noise: NoiseStatistics | None = NoiseStatistics(shapes)
        self._claim, self._reference, self._work = claim, reference, work
        self._values, self._shapes = sum(shapes), shapes
        self._directions: list[torch.Tensor] = []
        self._turned = 0
        self._owners = np.array(owner_by_example(claim.reduced.sizes))
        # Clients that may tell the server their shares, or fail, do not count.
        missing = claim.privacy.max_colluding + claim.privacy.max_dropouts if claim.privacy.noise == "distributed" else 0
        self._counted = range(missing, len(claim.reduced.sizes))
        grid = claim.reduced.arm.aggregation
        self._codec = FixedPointCodec(grid.clip, grid.fractional_bits)
        self.coins = {0: Inclusions(claim.reduced.rates[0])}
        self.watcher: TrainingObserver | None = None
        self._state: GlobalState | None = None
        self._sent: dict[int, Grid] = {}
        self._rounds = 0

    def step(self, step: ObservedStep) -> None:
        """Leave a step of a client alone: the sum is what has noise."""

    def see_update(self, client: int, update: ProtectedUpdate) -> None:
        """Keep the update of a client until the sum comes."""
        self._sent[client] = from_plaintext(update)

    def see_initial(self, weights: NDArray[np.float32]) -> None:
        """Begin with the initial weights, which come once for each client."""
        if self._state is None:
            self._state = GlobalState(weights, self._work.start(len(weights)))

    def see_sum(self, number: int, total: ProtectedUpdate) -> None:
        """Take the sum of a round, which comes once for each client."""
        if number > self._rounds:
            self._end(number, total)

    def _end(self, number: int, total: ProtectedUpdate) -> None:
        """Take the sum of a round."""
        assert self._state is not None and self.watcher is not None
        self._rounds, opened = number, from_plaintext(total)
        weights = torch.from_numpy(self._state.parameters.copy())
        drawn = self.watcher.drawn()
        with self.watcher.paused():
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
        if claim.privacy.noise == "distributed" and not np.array_equal(opened, sent):
            self.faults.append("the sum that is released is not that of what the clients sent")
        self._sent.clear()
        self._state = self._work.apply(codec.decode(opened), self._state, number)

    def _parts(
        self, number: int, weights: torch.Tensor, drawn: tuple[int, ...]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], tuple[int, ...]]:
        """Return what each client sent beyond what its records add, what they add, and the records of the sample."""
        claim, reduced = self._claim, self._claim.reduced
        assert isinstance(reduced.arm.topology, Federated)
        clients, rounds = range(len(reduced.sizes)), reduced.arm.topology.rounds
        if isinstance(claim.privacy, ClientLevel):
            drawn, sign = tuple(clients), 1.0
            found = {
                client: self._reference.change(
                    weights, client, reduced.arm.training, (number - 1) / rounds, number / rounds
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
            norm = norm_of(vector)
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
        if claim.privacy.noise == "distributed":
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
        return [self._rounds] * len(self._claim.reduced.sizes)
