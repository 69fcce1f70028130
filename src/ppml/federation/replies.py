"""What a reply to the server says of itself, before anything in it is looked at."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
from flwr.app import Message

from ppml.aggregation.protocol import BadUpdate
from ppml.federation.messages import Status, unpack_status


def status_of(reply: Message) -> Status:
    """Return what a client says of itself.

    Raises
    ------
    BadUpdate
        It failed, or says nothing, or something else.
    """
    if reply.has_error():
        # On one line: what a client says must not look like a notice of the server's.
        raise BadUpdate(f"it failed: {' '.join((reply.error.reason or '').split())}")
    try:
        return unpack_status(reply.content)
    except (KeyError, TypeError):
        raise BadUpdate("its answer does not say who it is of and which round it is of") from None


def refuse_another(status: Status, client: int, number: int) -> None:
    """Raise an error where an answer is of another client than ``client``, or of another round than ``number``."""
    if status.client != client:
        raise BadUpdate(f"its answer says that it is client {status.client}")
    if status.number != number:
        raise BadUpdate(f"its answer is of round {status.number}")
