"""Clients of one process with vectorized training: the first request trains all clients of the round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.gradient_correction import NO_CORRECTION, GradientCorrection
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged, no_op
from ppml.learning.parameters import flatten, unflatten_into
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.learning.vectorized.training import Replica, train_vectorized
from ppml.randomness import Randomness


class BatchedClients:
    """The shared part of vectorized clients.

    Parameters
    ----------
    settings : Settings
        Settings of the local training.
    owned : mapping of int to Examples
        Examples of each client of this process.
    seeds : mapping of int to Randomness
        Seed of each of these clients.
    """

    def __init__(self, settings: Settings, owned: Mapping[int, Examples], seeds: Mapping[int, Randomness]) -> None:
        self.settings = settings
        self._owned, self._seeds = owned, seeds
        self._expected: Sequence[int] = ()
        self._start: NDArray[np.float32] | None = None
        self._ready: dict[int, NDArray[np.float32] | TrainingDiverged] = {}

    def prefetch(self, clients: Sequence[int]) -> None:
        """Set the clients that will train next, from the same weights."""
        self._expected, self._ready = [client for client in clients if client in self._owned], {}

    def train(self, client: int, model: nn.Module, window: TrainingWindow, rng: Randomness) -> None:
        """Train ``model`` for ``client``, and store the results of the other expected clients.

        Parameters
        ----------
        client : int
            The requesting client.
        model : nn.Module
            Holds the initial weights, and afterwards the trained weights.
        window : TrainingWindow
            Part of the whole training that this call covers.
        rng : Randomness
            Node of the client's seed tree; the others use the same node of theirs.

        Raises
        ------
        TrainingDiverged
            The loss, or a weight, is not finite.
        """
        start = flatten(model)
        if client not in self._ready or self._start is None or not np.array_equal(start, self._start):
            group = list(self._expected) if client in self._expected else [client]
            replicas = [Replica(self._owned[one], self._seeds[one].child(*rng.path)) for one in group]
            trained = train_vectorized(model, replicas, self.settings, window)
            self._start, self._ready = start, dict(zip(group, trained, strict=True))
        found = self._ready.pop(client)
        if isinstance(found, TrainingDiverged):
            raise found
        unflatten_into(model, found)


class BatchedClientLearner:
    """SGD without privacy of one vectorized client; the bits do not depend on the other clients.

    Parameters
    ----------
    client : int
        Index of the client.
    batched : BatchedClients
        Shared part of the clients.
    """

    def __init__(self, client: int, batched: BatchedClients) -> None:
        self._client = client
        self._batched = batched

    def fit(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        window: TrainingWindow,
        rng: Randomness,
        after_epoch: AfterEpoch = no_op,
        correction: GradientCorrection = NO_CORRECTION,
        affordable_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place; see :class:`~ppml.learning.learner.LocalLearner`.

        With a gradient correction, which differs between clients, or a privacy budget, the client trains by itself.
        """
        if correction is not NO_CORRECTION or affordable_steps is not None:
            learner = SgdLearner(self._batched.settings)
            return learner.fit(
                model,
                examples,
                window=window,
                rng=rng,
                after_epoch=after_epoch,
                correction=correction,
                affordable_steps=affordable_steps,
            )
        self._batched.train(self._client, model, window, rng)
        return ()
