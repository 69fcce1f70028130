"""Validation of a client's reply, before the server uses its content."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MetricRecord

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.interfaces import SecretKeyExposed
from ppml.errors import InvalidUpdate
from ppml.federation.messages import ACCOUNT, METRICS, Status, get_record, unpack_events, unpack_status

PARSE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""Errors that parsing a malformed reply may raise."""

MAX_NOTICE_CHARACTERS = 300
"""Longest text of a client in a notice of the server."""

MAX_ACCOUNT_EVENTS = 10_000
"""Most events of an account, in which equal consecutive events are one."""

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Account:
    """The account of a client after the last round.

    Parameters
    ----------
    events : tuple of MechanismEvent
        Mechanisms that ran on its examples.
    model : str
        SHA-256 of its global model.
    """

    events: tuple[MechanismEvent, ...]
    model: str


@contextmanager
def refuse_malformed(subject: str) -> Iterator[None]:
    """Turn parse errors of a block into :class:`InvalidUpdate`; ``subject`` names the parsed part in the message."""
    try:
        yield
    except (InvalidUpdate, SecretKeyExposed):
        raise
    except PARSE_ERRORS as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else type(error).__name__
        raise InvalidUpdate(f"{subject} cannot be read: {missing}") from None


def parse_status(reply: Message) -> Status:
    """Return the status in a reply.

    Raises
    ------
    InvalidUpdate
        The reply is an error, or has no valid status.
    """
    if reply.has_error():
        raise InvalidUpdate(f"the client failed: {sanitize_for_log(reply.error.reason or '')}")
    try:
        return unpack_status(reply.content)
    except PARSE_ERRORS:
        raise InvalidUpdate("its reply names no client and no round") from None


def validate_reply(reply: Message, client: int, number: int, last: int) -> Status:
    """Return the status in the reply of ``client`` in round ``number``.

    Raises
    ------
    InvalidUpdate
        The reply is an error, or has no valid status, or names another client or round, or an applied round after
        ``last``, the last round with a sum.
    """
    status = parse_status(reply)
    if status.client != client:
        raise InvalidUpdate(f"its reply names client {status.client}")
    if status.number != number:
        raise InvalidUpdate(f"its reply is for round {status.number}")
    if status.applied > last:
        raise InvalidUpdate(
            f"the client claims to have applied the sum of round {status.applied}, which does not exist"
        )
    return status


def parse_account(reply: Message, client: int, last: int) -> Account:
    """Return the account in the reply of ``client`` after round ``last``.

    Raises
    ------
    InvalidUpdate
        The account is missing or invalid.
    """
    with refuse_malformed("its account"):
        validate_reply(reply, client, last, last)
        record = get_record(reply.content, ConfigRecord, ACCOUNT)
        model, events = record["model"], unpack_events(record)
        if not isinstance(model, str) or not _DIGEST.fullmatch(model):
            raise InvalidUpdate("its account has no digest of its model")
        if len(events) > MAX_ACCOUNT_EVENTS or not all(map(_is_possible, events)):
            raise InvalidUpdate("its account has impossible mechanisms")
        return Account(events, model)


def parse_metrics(reply: Message, client: int, number: int) -> tuple[float, float, Status]:
    """Return the loss and the accuracy that ``client`` measured, and its status.

    Raises
    ------
    InvalidUpdate
        The metrics are missing or invalid.
    """
    with refuse_malformed("its evaluation"):
        status = validate_reply(reply, client, number, number)
        metrics = get_record(reply.content, MetricRecord, METRICS)
        loss, accuracy = (_parse_number(metrics[name]) for name in ("loss", "accuracy"))
        # The loss of a diverged model is NaN.
        if loss < 0 or not 0 <= accuracy <= 1:
            raise InvalidUpdate("its evaluation has an impossible loss or accuracy")
        return loss, accuracy, status


def _parse_number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError("a metric is no number")
    return float(value)


def _is_possible(event: MechanismEvent) -> bool:
    """Return whether a client may have run the mechanism: epsilon is computed from its numbers."""
    numbers = (event.sample_rate, event.noise_multiplier, event.max_grad_norm)
    return (
        all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        and 0 < event.sample_rate <= 1
        and min(numbers) >= 0
        and isinstance(event.steps, int)
        and 0 < event.steps < 2**31
        and event.sampler == "poisson"
        and {event.noise_source, event.sampling_source} <= {"seeded", "secure"}
    )


def sanitize_for_log(text: str) -> str:
    """Return a client's text as one printable line, so that it cannot imitate a notice of the server.

    Examples
    --------
    >>> sanitize_for_log("out of memory\\nround 2:\\x1b[2K all is well")
    'out of memory round 2: [2K all is well'
    """
    # Cut first: the text may have any length.
    begin = text[: 4 * MAX_NOTICE_CHARACTERS]
    line = " ".join("".join(one if one.isprintable() else " " for one in begin).split())
    complete = len(line) <= MAX_NOTICE_CHARACTERS and len(begin) == len(text)
    return line if complete else f"{line[:MAX_NOTICE_CHARACTERS]} ..."
