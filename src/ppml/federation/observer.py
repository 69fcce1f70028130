"""Observation of a federation: the updates, initial weights and sums in its messages, without Flower's records."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from typing import Protocol

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.federation.messages import (
    INITIAL,
    SUMS,
    UPDATE,
    get_record,
    unpack_status,
    unpack_sums,
    unpack_update,
    unpack_vector,
)
from ppml.federation.simulation_grid import MessageObserver


class TrafficObserver(Protocol):
    """Gets the contents of messages in the order of sending."""

    def see_update(self, client: int, update: ProtectedUpdate) -> None:
        """Process the update that a client sends."""
        ...

    def see_initial(self, weights: NDArray[np.float32]) -> None:
        """Process the initial weights, each time that the server sends them."""
        ...

    def see_sum(self, number: int, total: ProtectedUpdate) -> None:
        """Process the sum of a round, each time that the server sends it."""
        ...


def observe_messages(observer: TrafficObserver) -> MessageObserver:
    """Return a message observer that unpacks each message for ``observer``."""

    def unpack(direction: str, message: Message) -> None:
        if not message.has_content():
            return
        content = message.content
        if direction == "up" and UPDATE in content:
            update = unpack_update(get_record(content, ArrayRecord, UPDATE))
            observer.see_update(unpack_status(content).client, update)
        if direction == "down" and INITIAL in content:
            observer.see_initial(unpack_vector(get_record(content, ArrayRecord, INITIAL)))
        if direction == "down" and SUMS in content:
            for number, total in unpack_sums(get_record(content, ArrayRecord, SUMS)).items():
                observer.see_sum(number, total)

    return unpack
