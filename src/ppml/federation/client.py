"""The client: applies the sum of the last round, trains on its own records, seals its update."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.protocol import ClientSide, Sealed
from ppml.data.examples import Examples
from ppml.federation.messages import INITIAL, METRICS, SEALED, pack_sealed, position, unpack_sealed, unpack_vector
from ppml.federation.state import ClientState
from ppml.learning.evaluation import evaluate
from ppml.learning.learner import LocalLearner, TrainingDiverged
from ppml.learning.schedule import Span
from ppml.randomness import Randomness


@dataclass(frozen=True)
class Population:
    """Everything that lives at the clients.

    Parameters
    ----------
    model : nn.Module
        A resident model that each client loads its weights into.
    learners, owned : sequences of equal length
        Each client's learner and records.
    weights : sequence of float
        Each client's weight in (0, 1]; public.
    side : ClientSide
        Seals updates and opens sums.
    codec : FixedPointCodec
        The grid.
    test : Examples
        Public images that a client may evaluate the global model on.
    rng : Randomness
        Client ``k`` draws from ``rng.child("round", r, "client", k)`` in round ``r``.
    rounds : int
        Length of the training.
    server_learning_rate, server_momentum : float
        The step that everybody who sees the sum takes.
    """

    model: nn.Module
    learners: Sequence[LocalLearner]
    owned: Sequence[Examples]
    weights: Sequence[float]
    side: ClientSide
    codec: FixedPointCodec
    test: Examples
    rng: Randomness
    rounds: int
    server_learning_rate: float
    server_momentum: float


def build_client_app(population: Population) -> ClientApp:
    """Return the app that every client of ``population`` runs; what a client remembers is in its Flower context."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        state = ClientState(context.state)
        parameters = _catch_up(population, message.content, state)
        client, number = cast(int, context.node_config["partition-id"]), position(message.content, "number")
        update = _local_update(population, client, parameters, number, state)
        return Message(RecordDict({SEALED: pack_sealed(update)}), reply_to=message)

    @app.evaluate()
    def evaluate_global(message: Message, context: Context) -> Message:
        load_parameters(population.model, _catch_up(population, message.content, ClientState(context.state)))
        loss, accuracy = evaluate(population.model, population.test)
        metrics = MetricRecord({"loss": loss, "accuracy": accuracy})
        return Message(RecordDict({METRICS: metrics}), reply_to=message)

    return app


def _catch_up(population: Population, content: RecordDict, state: ClientState) -> NDArray[np.float32]:
    """Apply the sum of the last round, once; return the global parameters."""
    initial = content.array_records.get(INITIAL)
    if initial is not None:
        start = unpack_vector(initial)
        state.advance(start, np.zeros_like(start), applied=0)
        return start
    closes = position(content, "closes")
    if closes > state.applied:
        parameters, velocity = _step(population, unpack_sealed(content.array_records[SEALED]), state)
        state.advance(parameters, velocity, applied=closes)
    return state.parameters


def _step(population: Population, total: Sealed, state: ClientState) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Open the sum and take the server's step; in float64, so that everybody gets the same float32 weights."""
    values = population.codec.decode(population.side.unseal(total))
    mean = values[:-1] * _weight_unit(population.codec) / values[-1]
    velocity = population.server_momentum * state.velocity.astype(np.float64) + mean
    parameters = state.parameters.astype(np.float64) + population.server_learning_rate * velocity
    return parameters.astype(np.float32), velocity.astype(np.float32)


def _local_update(
    population: Population, client: int, parameters: NDArray[np.float32], number: int, state: ClientState
) -> Sealed:
    """Train from the global parameters and return the weighted change, with the weight as its last value, sealed."""
    model = population.model
    load_parameters(model, parameters)
    try:
        events = population.learners[client].fit(
            model,
            population.owned[client],
            span=Span((number - 1) / population.rounds, number / population.rounds),
            rng=population.rng.child("round", number, "client", client),
        )
    except TrainingDiverged as error:
        raise TrainingDiverged(f"client {client}, round {number}: {error}") from error
    state.remember(events)
    weight = population.weights[client]
    change = weight * (flat_parameters(model).astype(np.float64) - parameters)
    if not np.isfinite(change).all():
        raise TrainingDiverged(f"client {client}, round {number}: the weights are not finite")
    return population.side.seal(population.codec.encode(np.append(change, weight * _weight_unit(population.codec))))


def _weight_unit(codec: FixedPointCodec) -> float:
    """Return what a weight of 1 is sent as: clipping, which updates are made for, must not change the weights."""
    return min(1.0, codec.clip)


def flat_parameters(model: nn.Module) -> NDArray[np.float32]:
    """Return the weights of ``model`` as one vector, shape ``(parameters,)``."""
    with torch.no_grad():
        vector: NDArray[np.float32] = parameters_to_vector(model.parameters()).cpu().numpy()
    return vector


def load_parameters(model: nn.Module, parameters: NDArray[np.float32]) -> None:
    """Put a vector of :func:`flat_parameters` into ``model``."""
    device = next(model.parameters()).device
    with torch.no_grad():
        vector_to_parameters(torch.from_numpy(parameters.copy()).to(device), model.parameters())
