"""DP-SGD by shares of the noise as one learner, for an auditor who sees what colluders and dropouts leave of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import nn

from ppml.accounting.events import MechanismEvent, compose
from ppml.accounting.plan import poisson_plan
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.data.examples import Examples
from ppml.federation.global_state import GlobalState
from ppml.federation.server_step import MomentumStep
from ppml.federation.shares import GradientSums, NoiseShares
from ppml.federation.work import Member, Turn
from ppml.learning.learner import AfterEpoch, Settings, ignore_epoch
from ppml.learning.pull import NO_PULL, Pull
from ppml.learning.schedule import Span
from ppml.learning.sgd import SgdLearner
from ppml.learning.vectors import as_tensors, flat_parameters
from ppml.randomness import Randomness


class SharesLearner:
    """Takes the steps of :class:`~ppml.federation.shares.GradientSums`, without messages and seals, at rate 0.

    What is released is what the counted clients contribute: the shares of colluders are known, those of dropouts
    missing.

    Parameters
    ----------
    settings : Settings
        Epochs and expected batch size; nothing is learned.
    noise_multiplier, max_grad_norm : float
        Of the sum.
    clients, colluders, dropouts : int
        See :class:`~ppml.federation.shares.NoiseShares`.
    codec : FixedPointCodec
        The grid.
    noise_source : {"seeded", "secure"}
        Where shares come from.
    on_release : callable
        Called once a step with the noisy gradient, one tensor a parameter, divided by the expected batch size.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        clients: int,
        colluders: int,
        dropouts: int,
        codec: FixedPointCodec,
        noise_source: str,
        on_release: Callable[[Sequence[torch.Tensor]], None],
    ) -> None:
        self._settings = settings
        self._on_release = on_release
        self._shares = NoiseShares(
            noise_multiplier, clients, colluders, dropouts, max_grad_norm, 1, codec, noise_source
        )

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
        """Take every step and return what was executed."""
        rate, an_epoch = poisson_plan(len(records), self._settings.batch_size)
        start = flat_parameters(model)
        shares = replace(self._shares, size=len(start))
        work = GradientSums(MomentumStep(), shares, rate, rate * len(records), 1.0, "constant", 1)
        owned = torch.arange(len(records)).tensor_split(shares.counted)
        unused = SgdLearner(self._settings)
        state = GlobalState(start, work.start(len(start)))
        executed: list[MechanismEvent] = []
        for step in range(an_epoch * self._settings.epochs):
            total = np.zeros(len(start), dtype=np.int64)
            for client, positions in enumerate(owned):
                turn = Turn(client, 1, 1, state, {}, None, rng.child("round", step, "client", client))
                part = work.contribute(model, Member(unused, _part(records, positions)), turn)
                assert part.noise is not None
                total += shares.codec.encode(part.values) + part.noise
                event = part.events
            executed += event
            mean = shares.codec.decode(total) / work.expected
            self._on_release(as_tensors(-mean.astype(np.float32), model))
        return compose(executed)


def _part(records: Examples, positions: torch.Tensor) -> Examples:
    return Examples(records.images[positions], cast(torch.Tensor, _Within(records.labels, positions)))


class _Within:
    """The labels at some positions of others, which are read there: an auditor may watch what is read of them."""

    def __init__(self, labels: torch.Tensor, positions: torch.Tensor) -> None:
        self._labels, self._positions = labels, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self._labels[self._positions[index]]
