"""What tests of noise in the sum start from: shares, work that adds them, and a way to plant a fault."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.federation.algorithms import ClientUpdate, FederatedAlgorithm, ClientData, RoundContext
from ppml.federation.distributed_dp import (
    DpFedAvg,
    DistributedDpSgd,
    DistributedGaussian,
)
from ppml.federation.global_state import GlobalState
from ppml.federation.server_optimizer import FedAvgM
from ppml.learning.learner import Settings
from ppml.learning.sgd import SgdLearner
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank
from .parties import (
    CODEC,
    PARAMETERS,
)

STEP = CODEC.step
SHARED = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1, "noise": "distributed"}
BY_CLIENT = {"kind": "client", "noise_multiplier": 1.0, "max_update_norm": 0.2}
IDLE = SgdLearner(Settings(1, 10, 0.1))
VALUES = 78_400
"""Weights of :class:`Silent`: the deviation of so many normal values is known to a quarter of a percent."""


def shares(
    noise: float = 1.0, clients: int = 4, colluders: int = 1, dropouts: int = 0, *, size: int = VALUES, **others
) -> DistributedGaussian:
    given = {"norm": 0.1, "size": size, "codec": CODEC, **others}
    return DistributedGaussian(noise, clients, colluders, dropouts, **given)


def turn(client: int = 0, number: int = 1, *, parameters: np.ndarray | None = None, rounds: int = 3) -> RoundContext:
    start = np.zeros(PARAMETERS, np.float32) if parameters is None else parameters
    state = GlobalState(start, FedAvgM().start(len(start)))
    return RoundContext(client, number, rounds, state, {}, None, Randomness(1).party("client", client).child("round", number))


def sensitivity(norm: float, size: int, margin: float = 2e-3) -> float:
    """Return by how much one of them changes the sum, as the docstring says: its norm, and a step in every value.

    Clipped gradients, unlike the updates of clients, may be longer by a margin.
    """
    return norm * (1.0 + margin) + math.sqrt(size) * 2.0**-20


def by_example(one: DistributedGaussian, *, rate: float = 0.5, records: int = 125) -> DistributedDpSgd:
    return DistributedDpSgd(
        FedAvgM(), one, sample_rate=rate, expected=rate * records, peak=0.1, decay="linear", rounds=3
    )


def by_client(one: DistributedGaussian) -> DpFedAvg:
    return DpFedAvg(FedAvgM(), one.norm, one.clients, one)


Plant = Callable[[FederatedAlgorithm], FederatedAlgorithm]


def honest(work: FederatedAlgorithm) -> FederatedAlgorithm:
    return work


def contributions(work: FederatedAlgorithm, number: int = 1) -> list[Grid]:
    """Return what clients without gradients send, in steps of the grid."""
    sent = []
    for client in range(work.shares.clients):
        start = np.zeros(VALUES, np.float32)
        made = work.contribute(Silent(), ClientData(IDLE, blank(8)), turn(client, number, parameters=start))
        assert not made.values.any()
        sent.append(CODEC.encode(made.values) + (0 if made.noise is None else made.noise))
    return sent


class Changed:
    """Work whose contributions are changed before they are sent."""

    def __init__(self, work: FederatedAlgorithm, change: Callable[[ClientUpdate, RoundContext], ClientUpdate]) -> None:
        self._work, self._change = work, change

    def __getattr__(self, name):
        return getattr(self._work, name)

    def contribute(self, model, member, turn):
        return self._change(self._work.contribute(model, member, turn), turn)
