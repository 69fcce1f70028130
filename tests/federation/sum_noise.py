"""Parts for tests of noise in the sum: algorithms, their updates, and a wrapper that plants a fault."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ppml.aggregation.fixed_point import Grid
from ppml.federation.algorithms import ClientData, ClientUpdate, FederatedAlgorithm, RoundContext
from ppml.federation.distributed_dp import DistributedDpSgd, DistributedGaussian, DpFedAvg
from ppml.federation.global_state import GlobalState
from ppml.federation.server_optimizer import FedAvgM
from ppml.learning.learner import Settings
from ppml.learning.sgd import SgdLearner
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank
from .parties import CODEC, PARAMETERS

STEP = CODEC.step
DISTRIBUTED = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1, "noise": "distributed"}
BY_CLIENT = {"kind": "client", "noise_multiplier": 1.0, "max_update_norm": 0.2}
IDLE = SgdLearner(Settings(1, 10, 0.1))
VALUES = 78_400
"""Weights of :class:`Silent`: enough to estimate a standard deviation to a quarter of a percent."""


def distributed_gaussian(
    noise: float = 1.0, clients: int = 4, colluding: int = 1, dropouts: int = 0, *, size: int = VALUES, **others
) -> DistributedGaussian:
    settings = {"max_norm": 0.1, "size": size, "codec": CODEC, **others}
    return DistributedGaussian(noise, clients, colluding, dropouts, **settings)


def round_context(
    client: int = 0, number: int = 1, *, parameters: np.ndarray | None = None, rounds: int = 3
) -> RoundContext:
    start = np.zeros(PARAMETERS, np.float32) if parameters is None else parameters
    state = GlobalState(start, FedAvgM().initial_memory(len(start)))
    rng = Randomness(1).party("client", client).child("round", number)
    return RoundContext(client, number, rounds, state, {}, None, rng)


def sensitivity(norm: float, size: int, margin: float = 2e-3) -> float:
    """Return the sensitivity of the sum, as documented: the norm, and one step in every value.

    A clipped gradient may exceed the norm by a margin, the update of a client may not.
    """
    return norm * (1.0 + margin) + math.sqrt(size) * 2.0**-20


def by_example(noise: DistributedGaussian, *, rate: float = 0.5, examples: int = 125) -> DistributedDpSgd:
    return DistributedDpSgd(
        FedAvgM(),
        noise,
        sample_rate=rate,
        expected_batch_size=rate * examples,
        peak_learning_rate=0.1,
        learning_rate_schedule="linear",
        rounds=3,
    )


def by_client(noise: DistributedGaussian) -> DpFedAvg:
    return DpFedAvg(FedAvgM(), noise.max_norm, noise.clients, noise)


Plant = Callable[[FederatedAlgorithm], FederatedAlgorithm]


def honest(algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    return algorithm


def noisy_updates(algorithm: FederatedAlgorithm, number: int = 1) -> list[Grid]:
    """Return the updates of clients without gradients, in steps of the grid."""
    updates = []
    for client in range(algorithm.noise.clients):
        context = round_context(client, number, parameters=np.zeros(VALUES, np.float32))
        update = algorithm.compute_update(Silent(), ClientData(IDLE, blank(8)), context)
        assert not update.values.any()
        updates.append(CODEC.encode(update.values) + (0 if update.noise is None else update.noise))
    return updates


class Changed:
    """An algorithm whose updates are changed before clients send them."""

    def __init__(
        self, algorithm: FederatedAlgorithm, change: Callable[[ClientUpdate, RoundContext], ClientUpdate]
    ) -> None:
        self._algorithm, self._change = algorithm, change

    def __getattr__(self, name):
        return getattr(self._algorithm, name)

    def compute_update(self, model, data, context):
        return self._change(self._algorithm.compute_update(model, data, context), context)
