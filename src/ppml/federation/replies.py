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
        raise BadUpdate(f"it failed: {on_one_line(reply.error.reason or '')}")
    try:
        return unpack_status(reply.content)
    except (KeyError, TypeError):
        raise BadUpdate("its answer does not say who it is of and which round it is of") from None


def answer_of(reply: Message, client: int, number: int) -> Status:
    """Return what ``client`` says of itself in round ``number``.

    Raises
    ------
    BadUpdate
        It failed, or says nothing, or that it is another client, or answers in another round.
    """
    status = status_of(reply)
    if status.client != client:
        raise BadUpdate(f"its answer says that it is client {status.client}")
    if status.number != number:
        raise BadUpdate(f"its answer is of round {status.number}")
    return status


def on_one_line(text: str) -> str:
    """Return what a client says so that it cannot look like a notice of the server's.

    Examples
    --------
    >>> on_one_line("out of memory\\nround 2:\\x1b[2K all is well")
    'out of memory round 2: [2K all is well'
    """
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())
