"""Statistics of the releases of a federation, from its observed messages: noisy sums, or updates of noisy clients."""

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
from ppml.auditing.reference_gradients import ReferenceGradients, clipping_factor, components_along, norm_of
from ppml.auditing.releases import Claim, Contributions, StepReleases, owner_by_example
from ppml.auditing.statistics import Inclusions, NoiseStatistics
from ppml.config.technique import ClientLevel, Federated
from ppml.federation.algorithms import FederatedAlgorithm
from ppml.federation.global_state import GlobalState
from ppml.training import build_federated_algorithm


def federated_collector(
    claim: Claim, reference: ReferenceGradients, shapes: tuple[int, ...]
) -> ClientReleases | SumReleases:
    """Return the collector of the noisy releases of a federation: its clients' steps, or its sums.

    Parameters
    ----------
    claim : Claim
        The claimed mechanism.
    reference : ReferenceGradients
        The auditor's gradients.
    shapes : tuple of int
        The size of each parameter tensor.
    """
    if claim.privacy.noise == "local":
        return ClientReleases(claim, reference)
    arm = claim.reduced.arm
    algorithm = build_federated_algorithm(arm, claim.reduced.sizes, claim.noise_multipliers, sum(shapes))
    return SumReleases(claim, reference, algorithm, shapes)


class ClientReleases(StepReleases):
    """Noisy steps of clients, and the updates that the clients send.

    Parameters
    ----------
    claim : Claim
        The claimed mechanism.
    reference : ReferenceGradients
        The auditor's gradients.
    """

    def __init__(self, claim: Claim, reference: ReferenceGradients) -> None:
        super().__init__(claim, reference)
        self._paths: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def step(self, step: ObservedStep) -> None:
        """Process the step of one client, and store its first and its latest weights."""
        before, after = step.before.clone(), step.after.clone()
        super().step(step)
        owner = self._owner
        start = before if step.fresh or owner not in self._paths else self._paths[owner][0]
        self._paths[owner] = start, after

    def see_update(self, client: int, update: ProtectedUpdate) -> None:
        """Compare the update of a client with the effect of its noisy steps: it may release nothing else."""
        arm = self._claim.reduced.arm
        assert isinstance(arm.topology, Federated)
        sizes = self._claim.reduced.sizes
        weight = sizes[client] / max(sizes) if arm.topology.weighting == "examples" else 1.0
        codec = FixedPointCodec(arm.aggregation.clip, arm.aggregation.fractional_bits)
        sent = codec.decode(from_plaintext(update))[:-1]
        if client not in self._paths:
            self.violations.append("a client sends an update without a step")
            return
        start, end = (weights.cpu().numpy().astype(np.float64) for weights in self._paths[client])
        moved = np.clip(weight * (end - start), -codec.clip, codec.clip)
        if np.abs(sent - moved).max() > codec.step:
            self.violations.append("the update of a client differs from the effect of its noisy steps")

    def see_initial(self, weights: NDArray[np.float32]) -> None:
        """Ignore the initial weights: they are public."""

    def see_sum(self, number: int, total: ProtectedUpdate) -> None:
        """Ignore sums: each update has noise."""


class SumReleases:
    """Noisy sums of rounds: distributed noise of the clients, or central noise of the server.

    Parameters
    ----------
    claim : Claim
        The claimed mechanism.
    reference : ReferenceGradients
        The auditor's gradients.
    algorithm : FederatedAlgorithm
        The algorithm of the federation, which applies sums.
    shapes : tuple of int
        The size of each parameter tensor.
    """

    def __init__(
        self, claim: Claim, reference: ReferenceGradients, algorithm: FederatedAlgorithm, shapes: tuple[int, ...]
    ) -> None:
        self.contributions = Contributions()
        self.violations: list[str] = []
        self.noise: NoiseStatistics | None = NoiseStatistics(shapes)
        self._claim, self._reference, self._algorithm = claim, reference, algorithm
        self._values, self._shapes = sum(shapes), shapes
        self._directions: list[torch.Tensor] = []
        self._next_example = 0
        self._owners = np.array(owner_by_example(claim.reduced.sizes))
        # The noise of clients that may collude or drop out does not count.
        missing = (
            claim.privacy.max_colluding + claim.privacy.max_dropouts if claim.privacy.noise == "distributed" else 0
        )
        self._honest_clients = range(missing, len(claim.reduced.sizes))
        grid = claim.reduced.arm.aggregation
        self._codec = FixedPointCodec(grid.clip, grid.fractional_bits)
        self.inclusions = {0: Inclusions(claim.reduced.rates[0])}
        self.observer: TrainingObserver | None = None
        self._state: GlobalState | None = None
        self._updates: dict[int, Grid] = {}
        self._rounds = 0

    def step(self, step: ObservedStep) -> None:
        """Ignore the step of a client: the noise is in the sum."""

    def see_update(self, client: int, update: ProtectedUpdate) -> None:
        """Store the update of a client for the sum of the round."""
        self._updates[client] = from_plaintext(update)

    def see_initial(self, weights: NDArray[np.float32]) -> None:
        """Start from the initial weights, which the server sends to each client."""
        if self._state is None:
            self._state = GlobalState(weights, self._algorithm.initial_memory(len(weights)))

    def see_sum(self, number: int, total: ProtectedUpdate) -> None:
        """Process the sum of a round, which the server sends to each client."""
        if number > self._rounds:
            self._end_round(number, total)

    def _end_round(self, number: int, total: ProtectedUpdate) -> None:
        """Compare the sum of a round with the updates, and apply it to the state."""
        assert self._state is not None and self.observer is not None
        self._rounds, released = number, from_plaintext(total)
        weights = torch.from_numpy(self._state.parameters.copy())
        sample = self.observer.take_sample()
        with self.observer.paused():
            residuals, expected, sample = self._residuals(number, weights, sample)
        total_update = sum(self._updates.values())
        claim, codec = self._claim, self._codec
        if claim.noiseless:
            for client, residual in enumerate(residuals):
                rounding = math.sqrt(self._values) * codec.step / 2 + 2.0**-22 * float(weights.norm())
                count = int((self._owners[list(sample)] == client).sum())
                self.contributions.add(residual + expected[client], expected[client], count, claim.norm, rounding)
        else:
            self._measure(residuals, expected, (released - total_update) * codec.step, len(sample))
        if claim.privacy.noise == "distributed" and not np.array_equal(released, total_update):
            self.violations.append("the released sum differs from the sum of the updates")
        self._updates.clear()
        self._state = self._algorithm.apply_sum(codec.decode(released), self._state, number)

    def _residuals(
        self, number: int, weights: torch.Tensor, sample: tuple[int, ...]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], tuple[int, ...]]:
        """Return the noise of each update, the expected contribution of each client, and the sample."""
        claim, reduced = self._claim, self._claim.reduced
        assert isinstance(reduced.arm.topology, Federated)
        clients, rounds = range(len(reduced.sizes)), reduced.arm.topology.rounds
        if isinstance(claim.privacy, ClientLevel):
            sample, sign = tuple(clients), 1.0
            vectors = {
                client: self._reference.client_update(
                    weights, client, reduced.arm.training, (number - 1) / rounds, number / rounds
                )
                for client in clients
            }
        else:
            sign = -1.0
            self._reference.load(weights)
            vectors = {example: self._reference.gradient(example).double() for example in sample}
            self.inclusions[0].rows.append(np.isin(np.arange(len(self._reference)), sample))
        expected = [torch.zeros(self._values, dtype=torch.float64) for _ in clients]
        for example, vector in vectors.items():
            norm = norm_of(vector)
            if claim.noiseless:
                self.contributions.norms.append(norm)
            expected[self._owners[example]] += vector * clipping_factor(norm, claim.norm)
        self._directions = self._measured_vectors(
            vectors, 0 if claim.noiseless else claim.directions(len(self._shapes))
        )
        updates = [torch.from_numpy(sign * self._codec.decode(self._updates[client])) for client in clients]
        return [update - sum_ for update, sum_ in zip(updates, expected, strict=True)], expected, sample

    def _measured_vectors(self, vectors: Mapping[int, torch.Tensor], count: int) -> list[torch.Tensor]:
        """Return ``count`` gradients, or updates: those of ``vectors``, and those of further examples in rotation."""
        examples = list(vectors)[:count]
        for _ in range(min(count, len(self._reference)) - len(examples)):
            while self._next_example in examples:
                self._next_example = (self._next_example + 1) % len(self._reference)
            examples.append(self._next_example)
            self._next_example = (self._next_example + 1) % len(self._reference)
        return [vectors[one] if one in vectors else self._reference.gradient(one).double() for one in examples]

    def _measure(
        self, residuals: list[torch.Tensor], expected: list[torch.Tensor], server_noise: NDArray[np.floating], size: int
    ) -> None:
        """Add the noise of the sum, in units of its claimed deviation."""
        assert self.noise is not None
        claim, codec = self._claim, self._codec
        # Rounding to the grid adds up to one step per value to the sensitivity.
        unit = claim.noise_multipliers[0] * (claim.norm + math.sqrt(self._values) * codec.step)
        if claim.privacy.noise == "distributed":
            client_unit = unit / math.sqrt(len(self._honest_clients))
            for client, residual in enumerate(residuals):
                self.noise.add_party_noise((residual / client_unit).float(), client)
            noise = torch.stack([residuals[client] for client in self._honest_clients]).sum(dim=0) / unit
        else:
            noise = torch.from_numpy(server_noise / unit)
            self.noise.add_party_noise(noise.float(), 0)
        noise = noise.float()
        signal = torch.stack(expected).sum(dim=0).float()
        directions = torch.stack([*self._directions, torch.zeros(self._values)]).float()
        components = components_along(directions, noise, self._shapes)
        self.noise.add_release(noise, components, size=size, signal=signal)

    def release_counts(self) -> list[int]:
        """Return the number of sums of each client."""
        return [self._rounds] * len(self._claim.reduced.sizes)
