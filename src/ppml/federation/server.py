"""The server: sends the sum of the last round, adds what comes back. It sees sealed updates and never opens one."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
from collections.abc import Callable, Iterable
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ppml.aggregation.protocol import Aggregator
from ppml.federation.messages import INITIAL, METRICS, ROUND, SEALED, pack_position, pack_sealed, unpack_sealed

AfterRound = Callable[[int, int, float, float], None]
"""Called after each round with its number, from 1, the size of its sealed sum in bytes, and the loss and accuracy that
a client measured."""


class SumOnly(Strategy):
    """FedAvg in which only a sum is formed at the server: clients weight, seal and, from the sum, take the step.

    Parameters
    ----------
    aggregator : Aggregator
        Adds sealed updates.
    after_round : callable
        Gets the metrics of the global model.
    done : int
        The last round of the training that this one carries on, 0 for none: Flower counts from 1 all the same.

    Raises
    ------
    RuntimeError
        A client failed or did not answer: the round cannot be closed.
    """

    def __init__(self, aggregator: Aggregator, after_round: AfterRound, done: int = 0) -> None:
        self._aggregator = aggregator
        self._after_round = after_round
        self._done = done
        self._asked: list[int] = []
        self._sum_bytes = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every client the initial weights, or the sum of the round before."""
        number = self._done + server_round
        key = INITIAL if number == 1 else SEALED
        self._asked = sorted(grid.get_node_ids())
        return [
            _instruct(node, MessageType.TRAIN, {key: arrays, ROUND: pack_position(number, number - 1)})
            for node in self._asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the sealed updates in the order of the clients."""
        number = self._done + server_round
        ordered = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        failed = [reply for reply in ordered if reply.has_error()]
        if failed:
            raise RuntimeError(
                f"round {number}: the client at node {failed[0].metadata.src_node_id} failed: {failed[0].error.reason}"
            )
        silent = set(self._asked) - {reply.metadata.src_node_id for reply in ordered}
        if silent:
            raise RuntimeError(f"round {number}: no answer from the client at node {min(silent)}")
        total = self._aggregator.add([unpack_sealed(reply.content.array_records[SEALED]) for reply in ordered])
        self._sum_bytes = len(total.payload)
        return pack_sealed(total), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask one client, since all know the same global model and the images are public."""
        node = min(grid.get_node_ids())
        number = self._done + server_round
        position = pack_position(number, number)
        return [_instruct(node, MessageType.EVALUATE, {SEALED: arrays, ROUND: position})]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Pass on what that client measured."""
        (reply,) = replies
        metrics = reply.content.metric_records[METRICS]
        loss, accuracy = cast(float, metrics["loss"]), cast(float, metrics["accuracy"])
        self._after_round(self._done + server_round, self._sum_bytes, loss, accuracy)
        return metrics

    def summary(self) -> None:
        """Say nothing: the stage's log names the arm."""


def _instruct(node: int, kind: str, records: dict[str, ArrayRecord | MetricRecord | ConfigRecord]) -> Message:
    return Message(RecordDict(records), dst_node_id=node, message_type=kind)
