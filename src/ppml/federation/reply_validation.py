"""What a reply to the server says of itself, before anything in it is looked at."""

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

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What reading an answer raises that is not as a client makes it."""

MAX_NOTICE_CHARACTERS = 300
"""Characters of what a client says that a notice repeats."""

MAX_ACCOUNT_EVENTS = 10_000
"""Entries of an account: neighbouring ones that differ in nothing but their number are one."""

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Account:
    """What a client says at the end.

    Parameters
    ----------
    events : tuple of MechanismEvent
        What ran on its records.
    model : str
        SHA-256 of its global model.
    """

    events: tuple[MechanismEvent, ...]
    model: str


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Refuse, by :class:`InvalidUpdate`, what is so malformed that reading it drops_reply; ``what`` it was is said then."""
    try:
        yield
    except (InvalidUpdate, SecretKeyExposed):
        raise
    except UNREADABLE as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else type(error).__name__
        raise InvalidUpdate(f"{what} cannot be read: {missing}") from None


def parse_status(reply: Message) -> Status:
    """Return what a client says of itself.

    Raises
    ------
    InvalidUpdate
        It failed, or says nothing, or something else.
    """
    if reply.has_error():
        raise InvalidUpdate(f"it failed: {sanitize_for_log(reply.error.reason or '')}")
    try:
        return unpack_status(reply.content)
    except UNREADABLE:
        raise InvalidUpdate("its answer does not say who it is of and which round it is of") from None


def validate_reply(reply: Message, client: int, number: int, last: int) -> Status:
    """Return what ``client`` says of itself in round ``number``.

    Raises
    ------
    InvalidUpdate
        It failed, or says nothing, or that it is another client, or answers in another round, or says that it has
        applied the sum of a round after ``last``, which there is none of.
    """
    status = parse_status(reply)
    if status.client != client:
        raise InvalidUpdate(f"its answer says that it is client {status.client}")
    if status.number != number:
        raise InvalidUpdate(f"its answer is of round {status.number}")
    if status.applied > last:
        raise InvalidUpdate(f"it says that it has applied the sum of round {status.applied}, which there is none of")
    return status


def parse_account(reply: Message, client: int, last: int) -> Account:
    """Return the account that ``client`` gives after round ``last``.

    Raises
    ------
    InvalidUpdate
        It gives none, or one that nothing can be stated from.
    """
    with reading("its account"):
        validate_reply(reply, client, last, last)
        record = get_record(reply.content, ConfigRecord, ACCOUNT)
        model, events = record["model"], unpack_events(record)
        if not isinstance(model, str) or not _DIGEST.fullmatch(model):
            raise InvalidUpdate("its account does not name its model")
        if len(events) > MAX_ACCOUNT_EVENTS or not all(map(_may_have_run, events)):
            raise InvalidUpdate("its account is of mechanisms that cannot have run")
        return Account(events, model)


def parse_metrics(reply: Message, client: int, number: int) -> tuple[float, float, Status]:
    """Return loss and accuracy as ``client`` has measured them, and what it says of itself.

    Raises
    ------
    InvalidUpdate
        It says something else.
    """
    with reading("what it has measured"):
        status = validate_reply(reply, client, number, number)
        metrics = get_record(reply.content, MetricRecord, METRICS)
        loss, accuracy = (_number(metrics[name]) for name in ("loss", "accuracy"))
        # A model that has diverged has a loss that is no number.
        if loss < 0 or not 0 <= accuracy <= 1:
            raise InvalidUpdate("what it has measured is no loss and no accuracy")
        return loss, accuracy, status


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError("no number")
    return float(value)


def _may_have_run(event: MechanismEvent) -> bool:
    """Return whether a client may have run it: what epsilon is calculated from must be numbers that mean something."""
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
    """Return what a client says so that it cannot look like a notice of the server's.

    Examples
    --------
    >>> sanitize_for_log("out of memory\\nround 2:\\x1b[2K all is well")
    'out of memory round 2: [2K all is well'
    """
    # Cut first: there may be any number of characters.
    begin = text[: 4 * MAX_NOTICE_CHARACTERS]
    line = " ".join("".join(one if one.isprintable() else " " for one in begin).split())
    return line if len(line) <= MAX_NOTICE_CHARACTERS and len(begin) == len(text) else f"{line[:MAX_NOTICE_CHARACTERS]} ..."
