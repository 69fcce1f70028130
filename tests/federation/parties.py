"""Small federations on real digits whose parts a test may replace, and what they come to by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from torch import nn

from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import Aggregator, ProtectedUpdate
from ppml.config.arm import Arm
from ppml.data.examples import Examples
from ppml.federation.algorithms import ClientData
from ppml.federation.checkpoint import NO_CHECKPOINT, CheckpointStore, TrainingCheckpoint
from ppml.federation.client import ClientPool, build_client_app
from ppml.federation.client_state import ClientState
from ppml.federation.factory import FederationSpec, ServerComponents, build_client_pool, build_server, party_seeds, simulate_dropouts
from ppml.federation.messages import STATUS, Status, pack_fields, unpack_request, unpack_status
from ppml.federation.run import train_federated
from ppml.federation.server import RoundResult, ServerSettings, FederatedServer
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

SIZES = (40, 25, 60)
ROUNDS = 3
CODEC = FixedPointCodec(8.0, 20)
PARAMETERS = 7_850
PRIVATE = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1}
CKKS = {"kind": "ckks"}


def logistic() -> nn.Module:
    """Return a model of 7,850 weights, all zero."""
    return build_model("logistic", 10, Randomness(0).torch())


def owners(sizes: Sequence[int] = SIZES) -> list[Examples]:
    """Return each client's records; no two share one."""
    return [some(size, start=sum(sizes[:number])) for number, size in enumerate(sizes)]


def foreign_images() -> Examples:
    """Return a few images of the test split, to measure on."""
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
    """The clients, what the server has, and which answers get lost."""

    population: ClientPool
    plan: ServerSettings
    aggregator: Aggregator
    release: SumMechanism
    drops_reply: DropsReply


def parties(
    arm: Arm,
    *,
    model: nn.Module | None = None,
    owned: Sequence[Examples] | None = None,
    budgets: Sequence[int | None] | None = None,
    test: Examples | None = None,
    seed: int = 1,
) -> Federation:
    """Return the parties of ``arm``, whose noise is that which it names."""
    owned, model, rng = owned or owners(), model or logistic(), Randomness(seed)
    noise = getattr(arm.privacy, "noise_multiplier", None)
    nobody: list[int | None] = [None] * len(owned)
    given = FederationSpec(arm, [len(records) for records in owned], [noise] * len(owned), budgets or nobody)
    seeds = party_seeds(rng, len(owned))
    both = local_parties(arm.aggregation, len(owned))
    test = test or foreign_images()
    population = build_client_pool(given, model, dict(enumerate(owned)), both.clients, test, seeds.clients)
    server = build_server(given, flatten(model), both.material, seeds.server)
    drops_reply = simulate_dropouts(given.topology.dropout_rate, rng)
    return Federation(population, server.plan, server.aggregator, server.release, drops_reply)


def with_members(parts: Federation, change: Callable[[int, ClientData], ClientData]) -> Federation:
    """Return the same parties with other clients."""
    members = {client: change(client, member) for client, member in parts.population.members.items()}
    return replace(parts, population=replace(parts.population, members=members))


def with_learner(parts: Federation, client: int, wrap: Callable[[Any], Any]) -> Federation:
    """Return the same parties, one of which has its learner wrapped."""

    def change(number: int, member: ClientData) -> ClientData:
        return replace(member, learner=wrap(member.learner)) if number == client else member

    return with_members(parts, change)


def with_plan(parts: Federation, **changes: Any) -> Federation:
    """Return the same parties with another plan of the server."""
    return replace(parts, plan=replace(parts.plan, **changes))


# What happens on the way.


@dataclass
class Course:
    """What a training came to, for a test that knows more than any party."""

    ends: list[RoundResult] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sums: list[Grid] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    messages: list[tuple[str, Message]] = field(default_factory=list)
    states: list[ClientState] = field(default_factory=list)
    failure: RoundFailed | None = None

    def told(self, client: int, kind: str = MessageType.TRAIN) -> list[Message]:
        """Return what the server told a client, in order; the nodes of clients begin with 2."""
        return [
            message
            for direction, message in self.messages
            if direction == "down"
            and message.metadata.dst_node_id == client + 2
            and message.metadata.message_type == kind
        ]

    def asked(self) -> dict[int, list[int]]:
        """Return which clients were told to train, by round."""
        found: dict[int, list[int]] = {}
        for direction, message in self.messages:
            if direction == "down" and message.metadata.message_type == MessageType.TRAIN:
                number = unpack_request(message.content).number
                found.setdefault(number, []).append(message.metadata.dst_node_id - 2)
        return found


@dataclass
class Listening:
    """Adds as ``aggregator`` does, and says what: how many contributions, and the sum."""

    aggregator: Aggregator
    heard: Callable[[int, ProtectedUpdate], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.aggregator, name)

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        total = self.aggregator.add(sealed)
        self.heard(len(sealed), total)
        return total


class Wire:
    """A grid in one process that a test may cut, or listen to.

    Parameters
    ----------
    parts : Federation
        The clients, and which answers get lost.
    listen : callable
        Sees every message, and which way it goes.
    """

    def __init__(self, parts: Federation, listen: Callable[[str, Message], None]) -> None:
        self.app = build_client_app(lambda context: parts.population)
        people = parts.population
        self.inner = InProcessGrid(self.app, len(people.members), [listen], parts.drops_reply, prefetch=people.prefetch)
        self.listen = listen
        self.extra: dict[int, Context] = {}

    def join(self, node: int, client: int) -> None:
        """Connect another node, which says that it is ``client`` and remembers nothing."""
        self.extra[node] = Context(1, node, {"partition-id": client}, RecordDict(), {})

    def contexts(self) -> dict[int, Context]:
        """Return what each node remembers."""
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
                self.listen("down", message)
                replies[node] = self.app(message, self.extra[node])
                self.listen("up", replies[node])
        return [
            arrived
            for message in asked
            if (reply := replies.get(message.metadata.dst_node_id)) is not None
            for arrived in self.after(message, reply)
        ]

    def before(self, message: Message) -> None:
        """Do something to a client before it gets a message."""

    def after(self, message: Message, reply: Message) -> list[Message]:
        """Return what arrives of a client's reply."""
        return [reply]


def play(parts: Federation, wire_of: Callable[..., Wire] = Wire) -> Course:
    """Run the server of ``parts``; a round that drops_reply ends it and is kept."""
    course = Course()

    def handle_reply(count: int, total: ProtectedUpdate) -> None:
        course.added.append(count)
        course.sums.append(parts.population.side.reveal(total))

    wire = wire_of(parts, lambda *seen: course.messages.append(seen))
    server = FederatedServer(
        parts.plan, Listening(parts.aggregator, hear), course.ends.append, course.notices.append, parts.release
    )
    try:
        server.run(wire)
    except RoundFailed as failure:
        course.failure = failure
    course.states = [ClientState(context.state) for _, context in sorted(wire.contexts().items())]
    accepted = course.ends[-1].server_state.accepted if course.ends else {}
    for client, state in enumerate(course.states):
        state.settle(accepted.get(client, 0))
    return course


def nothing(number: int, client: int, context: Context) -> None:
    """Do nothing before a client gets a message."""


def the_reply(number: int, client: int, message: Message, reply: Message) -> list[Message]:
    """Let the reply of a client through."""
    return [reply]


class Meddled(Wire):
    """Does something to a client before it is told to train, and to its answer before that arrives."""

    def __init__(self, *given: Any, before: Any = nothing, after: Any = the_reply) -> None:
        super().__init__(*given)
        self._before, self._after = before, after

    def before(self, message: Message) -> None:
        if message.metadata.message_type == MessageType.TRAIN:
            self._before(*self._place(message), self.contexts()[message.metadata.dst_node_id])

    def after(self, message: Message, reply: Message) -> list[Message]:
        if message.metadata.message_type != MessageType.TRAIN:
            return [reply]
        return list(self._after(*self._place(message), message, reply))

    def _place(self, message: Message) -> tuple[int, int]:
        return unpack_request(message.content).number, message.metadata.dst_node_id - 2


def meddled(client: int, number: int, fault: Callable[[Message, Message], list[Message]]) -> Callable[..., Wire]:
    """Return a wire that has one client's answer in one round replaced by what ``fault`` makes of it."""

    def after(*given: Any) -> list[Message]:
        here, message, reply = given[:2], given[2], given[3]
        return fault(message, reply) if here == (number, client) else [reply]

    return partial(Meddled, after=after)


def with_records(message: Message, reply: Message, **records: Any) -> Message:
    """Return ``reply`` with other records; those that are None are left out."""
    content = {**reply.content, **records}
    return Message(RecordDict({key: one for key, one in content.items() if one is not None}), reply_to=message)


def with_status(**fields: int) -> Callable[[Message, Message], list[Message]]:
    """Return a fault: an answer that says something else of itself."""

    def fault(message: Message, reply: Message) -> list[Message]:
        status: Status = replace(unpack_status(reply.content), **fields)
        return [with_records(message, reply, **{STATUS: pack_fields(status)})]

    return fault


# By hand.


@dataclass
class Trail:
    """The weights after each round, the initial ones first, and the sums."""

    parameters: list[np.ndarray]
    sums: list[np.ndarray]


def changes_by_hand(parts: Federation, parameters: np.ndarray, number: int, clients: Iterable[int]) -> list[np.ndarray]:
    """Return how far each of ``clients`` moves the weights in a round, in float64."""
    people, changes = parts.population, []
    for client in clients:
        model = deepcopy(people.model)
        unflatten_into(model, parameters)
        people.members[client].learner.fit(
            model,
            people.members[client].records,
            window=TrainingWindow((number - 1) / people.rounds, number / people.rounds),
            rng=people.seeds[client].child("round", number),
        )
        changes.append(vector(model).numpy().astype(np.float64) - parameters)
    return changes


def by_hand(parts: Federation, answered: Callable[[int], Iterable[int]]) -> Trail:
    """Return what federated averaging over those who answered comes to."""
    step, trail = parts.population.codec.step, Trail([parts.plan.initial], [])
    for number in range(1, parts.plan.rounds + 1):
        clients, before = list(answered(number)), trail.parameters[-1]
        weights = [parts.population.members[client].weight for client in clients]
        changes = changes_by_hand(parts, before, number, clients)
        sent = [np.append(weight * change, weight) for weight, change in zip(weights, changes, strict=True)]
        total = np.sum([np.rint(one / step) for one in sent], axis=0)
        trail.sums.append(total)
        trail.parameters.append((before.astype(np.float64) + total[:-1] / total[-1]).astype(np.float32))
    return trail


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two vectors of float32 are the same bit for bit."""
    assert one.dtype == other.dtype == np.float32
    return one.tobytes() == other.tobytes()


# Trainings that are kept, and go on.


class Memory:
    """Keeps the progress after each round, and starts from ``progress``."""

    def __init__(self, progress: TrainingCheckpoint | None = None) -> None:
        self.progress = progress
        self.after: dict[int, TrainingCheckpoint] = {}

    def load(self) -> TrainingCheckpoint | None:
        return self.progress

    def save(self, reached: Callable[[], TrainingCheckpoint]) -> None:
        self.progress = reached()
        self.after[self.progress.number] = self.progress


def trained(
    parts: Federation, *, checkpoint: CheckpointStore = NO_CHECKPOINT, notice: Callable[[str], None] = lambda line: None
) -> TrainingResult:
    """Train as the stages do."""

    def ignore(row: HistoryRow) -> None:
        pass

    return train_federated(
        parts.population,
        ServerComponents(parts.plan, parts.aggregator, parts.release),
        ignore,
        checkpoint=checkpoint,
        notice=notice,
        drops_reply=parts.drops_reply,
    )
