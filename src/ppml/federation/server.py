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

AfterRound = Callable[[int, float, float], None]
"""Called after each round with its number, from 1, and the loss and accuracy that a client measured."""


class SumOnly(Strategy):
    """FedAvg in which only a sum is formed at the server: clients weight, seal and, from the sum, take the step.

    Parameters
    ----------
    aggregator : Aggregator
        Adds sealed updates.
    after_round : callable
        Gets the metrics of the global model.

    Raises
    ------
    RuntimeError
        A client failed or did not answer: the round cannot be closed.
    """

    def __init__(self, aggregator: Aggregator, after_round: AfterRound) -> None:
        self._aggregator = aggregator
        self._after_round = after_round
        self._asked: list[int] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every client the initial weights, or the sum of the round before."""
        key = INITIAL if server_round == 1 else SEALED
        self._asked = sorted(grid.get_node_ids())
        return [
            _instruct(node, MessageType.TRAIN, {key: arrays, ROUND: pack_position(server_round, server_round - 1)})
            for node in self._asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the sealed updates in the order of the clients."""
        ordered = sorted(replies, key=lambda reply: reply.metadata.src_node_id)
        failed = [reply for reply in ordered if reply.has_error()]
        if failed:
            raise RuntimeError(
                f"round {server_round}: the client at node {failed[0].metadata.src_node_id} failed: "
                f"{failed[0].error.reason}"
            )
        silent = set(self._asked) - {reply.metadata.src_node_id for reply in ordered}
        if silent:
            raise RuntimeError(f"round {server_round}: no answer from the client at node {min(silent)}")
        total = self._aggregator.add([unpack_sealed(reply.content.array_records[SEALED]) for reply in ordered])
        return pack_sealed(total), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask one client, since all know the same global model and the images are public."""
        node = min(grid.get_node_ids())
        position = pack_position(server_round, server_round)
        return [_instruct(node, MessageType.EVALUATE, {SEALED: arrays, ROUND: position})]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Pass on what that client measured."""
        (reply,) = replies
        metrics = reply.content.metric_records[METRICS]
        self._after_round(server_round, cast(float, metrics["loss"]), cast(float, metrics["accuracy"]))
        return metrics

    def summary(self) -> None:
        """Say nothing: the stage's log names the arm."""


def _instruct(node: int, kind: str, records: dict[str, ArrayRecord | MetricRecord | ConfigRecord]) -> Message:
    return Message(RecordDict(records), dst_node_id=node, message_type=kind)
