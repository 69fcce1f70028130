"""Small federations on real digits whose parts a test may replace, and their results by the formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Error, Message, MessageType, RecordDict
from torch import nn

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import Aggregator, ProtectedUpdate
from ppml.config.arm import Arm
from ppml.config.datasets import DATASETS, DIGITS
from ppml.data.examples import Examples
from ppml.federation.algorithms import ClientData
from ppml.federation.checkpoint import TrainingCheckpoint
from ppml.federation.client import ClientPool, build_client_app
from ppml.federation.client_state import ClientState
from ppml.federation.factory import (
    FederationSpec,
    ServerComponents,
    build_client_pool,
    build_server,
    party_seeds,
    simulate_dropouts,
)
from ppml.federation.messages import STATUS, Status, pack_fields, unpack_request, unpack_status
from ppml.federation.run import train_federated
from ppml.federation.server import FederatedServer, RoundResult, ServerSettings
from ppml.federation.server_state import RoundFailed
from ppml.federation.simulation_grid import DropsReply, InProcessGrid
from ppml.federation.sum_mechanism import SumMechanism
from ppml.learning.parameters import flatten, unflatten_into
from ppml.learning.result import HistoryRow, TrainingResult
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from ..aggregation.local import local_parties
from ..learning.digits import digits, some, vector

CONTRACT = DATASETS[DIGITS].contract
SIZES = (40, 25, 60)
ROUNDS = 3
CODEC = FixedPointCodec(8.0, 20)
PARAMETERS = 7_850
PRIVATE = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1}
CKKS = {"kind": "ckks"}


def logistic() -> nn.Module:
    """Return a model of 7,850 weights, all zero."""
    return build_model("logistic", CONTRACT, Randomness(0).torch())


def owners(sizes: Sequence[int] = SIZES) -> list[Examples]:
    """Return each client's examples, which are disjoint."""
    return [some(size, start=sum(sizes[:number])) for number, size in enumerate(sizes)]


def foreign_images() -> Examples:
    """Return a few examples of the test split."""
    return digits()[1].select(torch.arange(40))


def federated(
    privacy: dict[str, Any] | None = None,
    aggregation: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **topology: Any,
) -> Arm:
    """Return an arm of three rounds."""
    return Arm.model_validate(
        {
            "topology": {"kind": "federated", "partition": "some", "rounds": ROUNDS, **topology},
            "privacy": privacy or {"kind": "none"},
            "aggregation": aggregation or {"kind": "plaintext"},
            "training": {"epochs": 1, "batch_size": 20, "learning_rate": 0.1, **(training or {})},
        }
    )


@dataclass(frozen=True)
class Federation:
    """The clients, the components of the server, and the simulated dropouts."""

    pool: ClientPool
    settings: ServerSettings
    aggregator: Aggregator
    sum_mechanism: SumMechanism
    drops_reply: DropsReply

    @property
    def server(self) -> ServerComponents:
        """The components of the server."""
        return ServerComponents(self.settings, self.aggregator, self.sum_mechanism)


def parties(
    arm: Arm,
    *,
    model: nn.Module | None = None,
    owned: Sequence[Examples] | None = None,
    affordable_steps: Sequence[int | None] | None = None,
    test: Examples | None = None,
    seed: int = 1,
) -> Federation:
    """Return the parties of ``arm``, with the noise multiplier in it."""
    owned, model, rng = owned or owners(), model or logistic(), Randomness(seed)
    noise = getattr(arm.privacy, "noise_multiplier", None)
    unlimited: list[int | None] = [None] * len(owned)
    spec = FederationSpec(arm, [len(records) for records in owned], [noise] * len(owned), affordable_steps or unlimited)
    seeds = party_seeds(rng, len(owned))
    both = local_parties(arm.aggregation, len(owned))
    test = test or foreign_images()
    pool = build_client_pool(spec, model, dict(enumerate(owned)), both.clients, test, seeds.clients)
    server = build_server(spec, flatten(model), both.material, seeds.server)
    drops_reply = simulate_dropouts(spec.topology.dropout_rate, rng)
    return Federation(pool, server.settings, server.aggregator, server.sum_mechanism, drops_reply)


def with_clients(parts: Federation, change: Callable[[int, ClientData], ClientData]) -> Federation:
    """Return the same parties with other client data."""
    clients = {client: change(client, member) for client, member in parts.pool.clients.items()}
    return replace(parts, pool=replace(parts.pool, clients=clients))


def with_learner(parts: Federation, client: int, wrap: Callable[[Any], Any]) -> Federation:
    """Return the same parties, with a wrapper around the learner of one client."""

    def change(number: int, member: ClientData) -> ClientData:
        return replace(member, learner=wrap(member.learner)) if number == client else member

    return with_clients(parts, change)


def with_settings(parts: Federation, **changes: Any) -> Federation:
    """Return the same parties with other server settings."""
    return replace(parts, settings=replace(parts.settings, **changes))


# The course of a training.


@dataclass
class Course:
    """The course of a training, for a test that knows more than any party."""

    ends: list[RoundResult] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sums: list[Grid] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    messages: list[tuple[str, Message]] = field(default_factory=list)
    states: list[ClientState] = field(default_factory=list)
    failure: RoundFailed | None = None

    def requests(self, client: int, kind: str = MessageType.TRAIN) -> list[Message]:
        """Return the server's requests to a client, in order; the first client has node 2."""
        return [
            message
            for direction, message in self.messages
            if direction == "down"
            and message.metadata.dst_node_id == client + 2
            and message.metadata.message_type == kind
        ]

    def selected(self) -> dict[int, list[int]]:
        """Return the clients with a request to train, by round."""
        found: dict[int, list[int]] = {}
        for direction, message in self.messages:
            if direction == "down" and message.metadata.message_type == MessageType.TRAIN:
                number = unpack_request(message.content).number
                found.setdefault(number, []).append(message.metadata.dst_node_id - 2)
        return found


@dataclass
class RecordingAggregator:
    """An aggregator that reports the number of updates and their sum."""

    aggregator: Aggregator
    on_sum: Callable[[int, ProtectedUpdate], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.aggregator, name)

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        total = self.aggregator.add(sealed)
        self.on_sum(len(sealed), total)
        return total


class Wire:
    """A grid in one process that a test may change or observe.

    Parameters
    ----------
    parts : Federation
        The clients, and the simulated dropouts.
    observe : callable
        Called with the direction of every message and the message.
    """

    def __init__(self, parts: Federation, observe: Callable[[str, Message], None]) -> None:
        self.app = build_client_app(lambda context: parts.pool)
        pool = parts.pool
        self.inner = InProcessGrid(self.app, len(pool.clients), [observe], parts.drops_reply, prefetch=pool.prefetch)
        self.observe = observe
        self.extra: dict[int, Context] = {}

    def join(self, node: int, client: int) -> None:
        """Connect another node, without state, that reports the number ``client``."""
        self.extra[node] = Context(1, node, {"partition-id": client}, RecordDict(), {})

    def contexts(self) -> dict[int, Context]:
        """Return the context of each node."""
        return {**self.inner.contexts(), **self.extra}

    def get_node_ids(self) -> list[int]:
        return [*self.inner.get_node_ids(), *self.extra]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        asked = list(messages)
        for message in asked:
            self.before(message)
        known = [message for message in asked if message.metadata.dst_node_id not in self.extra]
        replies = {reply.metadata.src_node_id: reply for reply in self.inner.send_and_receive(known)}
        for message in asked:
            if (node := message.metadata.dst_node_id) in self.extra:
                self.observe("down", message)
                replies[node] = self.app(message, self.extra[node])
                self.observe("up", replies[node])
        return [
            arrived
            for message in asked
            if (reply := replies.get(message.metadata.dst_node_id)) is not None
            for arrived in self.after(message, reply)
        ]

    def before(self, message: Message) -> None:
        """Change a client before it gets a message."""

    def after(self, message: Message, reply: Message) -> list[Message]:
        """Return the replies that the server gets in the place of a client's reply."""
        return [reply]


def play(parts: Federation, wire_of: Callable[..., Wire] = Wire) -> Course:
    """Run the server of ``parts``; the error of a failed round is in the result."""
    course = Course()

    def record_sum(count: int, total: ProtectedUpdate) -> None:
        course.added.append(count)
        course.sums.append(parts.pool.side.reveal(total))

    wire = wire_of(parts, lambda *seen: course.messages.append(seen))
    server = FederatedServer(
        parts.settings,
        RecordingAggregator(parts.aggregator, record_sum),
        course.ends.append,
        course.notices.append,
        parts.sum_mechanism,
    )
    try:
        server.run(wire)
    except RoundFailed as failure:
        course.failure = failure
    course.states = [ClientState(context.state) for _, context in sorted(wire.contexts().items())]
    last_included = course.ends[-1].server_state.last_included if course.ends else {}
    for client, state in enumerate(course.states):
        state.commit(last_included.get(client, 0))
    return course


Fault = Callable[[Message, Message], list[Message]]
"""Returns the replies in the place of the reply to a message."""


def faulty(
    fault: Fault, kind: str, *clients: int, when: Callable[[RecordDict], bool] = lambda content: True
) -> Callable[..., Wire]:
    """Return a wire that applies ``fault`` to the replies of ``clients`` to one type of message.

    ``when`` gets the content of a message and decides on the fault.
    """

    class FaultyWire(Wire):
        def after(self, message: Message, reply: Message) -> list[Message]:
            asked = message.metadata
            chosen = asked.message_type == kind and asked.dst_node_id - 2 in clients and when(message.content)
            return fault(message, reply) if chosen else [reply]

    return FaultyWire


def with_fault(client: int, number: int, fault: Fault) -> Callable[..., Wire]:
    """Return a wire that applies ``fault`` to one client's reply in one round."""
    return faulty(fault, MessageType.TRAIN, client, when=lambda content: unpack_request(content).number == number)


def with_records(message: Message, reply: Message, **records: Any) -> Message:
    """Return ``reply`` with other Flower records; None removes a record."""
    content = {**reply.content, **records}
    return Message(RecordDict({key: one for key, one in content.items() if one is not None}), reply_to=message)


def with_record(**records: Any) -> Fault:
    """Return a fault: other Flower records in the reply; None removes a record."""
    return lambda message, reply: [with_records(message, reply, **records)]


def with_status(**fields: int) -> Fault:
    """Return a fault: a reply with another status."""

    def fault(message: Message, reply: Message) -> list[Message]:
        status: Status = replace(unpack_status(reply.content), **fields)
        return [with_records(message, reply, **{STATUS: pack_fields(status)})]

    return fault


def failed(message: Message, reply: Message) -> list[Message]:
    """Return an error whose text looks like a line of the server."""
    return [Message(Error(1, "out of memory\nround 2: client 0: a line of another"), reply_to=message)]


# Results by the formulas.


@dataclass
class Trail:
    """The weights after each round, the initial ones first, and the sums."""

    parameters: list[np.ndarray]
    sums: list[np.ndarray]


def changes_by_hand(parts: Federation, parameters: np.ndarray, number: int, clients: Iterable[int]) -> list[np.ndarray]:
    """Return the change of the weights by each of ``clients`` in a round, in float64."""
    pool, changes = parts.pool, []
    for client in clients:
        model = deepcopy(pool.model)
        unflatten_into(model, parameters)
        pool.clients[client].learner.fit(
            model,
            pool.clients[client].examples,
            window=TrainingWindow((number - 1) / pool.rounds, number / pool.rounds),
            rng=pool.seeds[client].child("round", number),
        )
        changes.append(vector(model).numpy().astype(np.float64) - parameters)
    return changes


def by_hand(
    parts: Federation, received: Callable[[int], Iterable[int]], *, momentum: float = 0.0, rate: float = 1.0
) -> Trail:
    """Return the result of federated averaging over the clients with an update."""
    step, trail = parts.pool.codec.step, Trail([parts.settings.initial_weights], [])
    velocity = np.zeros_like(parts.settings.initial_weights)
    for number in range(1, parts.settings.rounds + 1):
        clients, before = list(received(number)), trail.parameters[-1]
        weights = [parts.pool.clients[client].weight for client in clients]
        changes = changes_by_hand(parts, before, number, clients)
        sent = [np.append(weight * change, weight) for weight, change in zip(weights, changes, strict=True)]
        total = np.sum([np.rint(one / step) for one in sent], axis=0)
        trail.sums.append(total)
        faster = momentum * velocity.astype(np.float64) + total[:-1] / total[-1]
        trail.parameters.append((before.astype(np.float64) + rate * faster).astype(np.float32))
        velocity = faster.astype(np.float32)
    return trail


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two vectors of float32 have the same bits."""
    assert one.dtype == other.dtype == np.float32
    return one.tobytes() == other.tobytes()


# Checkpoints.


class MemoryStore:
    """Checkpoints in memory; ``checkpoint`` is the initial one."""

    def __init__(self, checkpoint: TrainingCheckpoint | None = None) -> None:
        self.checkpoint = checkpoint
        self.after: dict[int, TrainingCheckpoint] = {}

    def load(self) -> TrainingCheckpoint | None:
        return self.checkpoint

    def save(self, capture: Callable[[], TrainingCheckpoint]) -> None:
        self.checkpoint = capture()
        self.after[self.checkpoint.number] = self.checkpoint


def ignore_row(row: HistoryRow) -> None:
    """Do nothing after a round."""


def trained(parts: Federation, report: Callable[[HistoryRow], None] = ignore_row, **others: Any) -> TrainingResult:
    """Train in process."""
    return train_federated(parts.pool, parts.server, report, **{"drops_reply": parts.drops_reply, **others})
