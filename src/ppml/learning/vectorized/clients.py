"""Clients of one process that train at once: whoever is asked first trains for all who will be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ppml.accounting.events import MechanismEvent
from ppml.data.examples import Examples
from ppml.learning.gradient_correction import NO_PULL, Pull
from ppml.learning.learner import AfterEpoch, Settings, TrainingDiverged, ignore_epoch
from ppml.learning.parameters import flat_parameters, load_parameters
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import Span
from ppml.learning.vectorized.training import Pupil, train_side_by_side
from ppml.randomness import Randomness


class Together:
    """The common part of such clients.

    Parameters
    ----------
    settings : Settings
        How each walks through its records.
    owned : mapping of int to Examples
        The records of each client of this process.
    seeds : mapping of int to Randomness
        The seed of each of them.
    """

    def __init__(self, settings: Settings, owned: Mapping[int, Examples], seeds: Mapping[int, Randomness]) -> None:
        self.settings = settings
        self._owned, self._seeds = owned, seeds
        self._expected: Sequence[int] = ()
        self._start: NDArray[np.float32] | None = None
        self._ready: dict[int, NDArray[np.float32] | TrainingDiverged] = {}

    def expect(self, clients: Sequence[int]) -> None:
        """Learn who will train next, from the same weights."""
        self._expected, self._ready = [client for client in clients if client in self._owned], {}

    def train(self, client: int, model: nn.Module, span: Span, rng: Randomness) -> None:
        """Train ``model`` for ``client``, and keep what the others will ask for.

        Parameters
        ----------
        client : int
            The client that asks.
        model : nn.Module
            Holds the weights to begin with, and those after the training then.
        span : Span
            Which part of the whole training this is.
        rng : Randomness
            The node of the client's own tree that it draws from now; the others draw from the same node of theirs.

        Raises
        ------
        TrainingDiverged
            The loss, or a weight, is not finite.
        """
        start = flat_parameters(model)
        if client not in self._ready or self._start is None or not np.array_equal(start, self._start):
            group = list(self._expected) if client in self._expected else [client]
            pupils = [Pupil(self._owned[one], self._seeds[one].child(*rng.path)) for one in group]
            trained = train_side_by_side(model, pupils, self.settings, span)
            self._start, self._ready = start, dict(zip(group, trained, strict=True))
        found = self._ready.pop(client)
        if isinstance(found, TrainingDiverged):
            raise found
        load_parameters(model, found)


class TogetherLearner:
    """SGD without privacy of one client among those that train at once; its bits are those that it gets alone.

    Parameters
    ----------
    client : int
        Whose learner this is.
    together : Together
        What it shares with the others.
    """

    def __init__(self, client: int, together: Together) -> None:
        self._client = client
        self._together = together

    def fit(
        self,
        model: nn.Module,
        records: Examples,
        *,
        span: Span,
        rng: Randomness,
        after_epoch: AfterEpoch = ignore_epoch,
        pull: Pull = NO_PULL,
        most_steps: int | None = None,
    ) -> tuple[MechanismEvent, ...]:
        """Train ``model`` in place; see :class:`~ppml.learning.learner.LocalLearner`.

        What pulls at the gradients differs from client to client: then each trains for itself.
        """
        if pull is not NO_PULL or most_steps is not None:
            alone = SgdLearner(self._together.settings)
            return alone.fit(
                model, records, span=span, rng=rng, after_epoch=after_epoch, pull=pull, most_steps=most_steps
            )
        self._together.train(self._client, model, span, rng)
        return ()
