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
from ppml.aggregation.interfaces import BadUpdate, SecretKeyExposed
from ppml.federation.messages import ACCOUNT, METRICS, Status, record_of, unpack_events, unpack_status

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

LONGEST_LINE = 300
"""Characters of what a client says that a notice repeats."""

MOST_EVENTS = 10_000
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
    """Refuse, by :class:`BadUpdate`, what is so malformed that reading it fails; ``what`` it was is said then."""
    try:
        yield
    except (BadUpdate, SecretKeyExposed):
        raise
    except UNREADABLE as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else type(error).__name__
        raise BadUpdate(f"{what} cannot be read: {missing}") from None


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
    except UNREADABLE:
        raise BadUpdate("its answer does not say who it is of and which round it is of") from None


def answer_of(reply: Message, client: int, number: int, last: int) -> Status:
    """Return what ``client`` says of itself in round ``number``.

    Raises
    ------
    BadUpdate
        It failed, or says nothing, or that it is another client, or answers in another round, or says that it has
        applied the sum of a round after ``last``, which there is none of.
    """
    status = status_of(reply)
    if status.client != client:
        raise BadUpdate(f"its answer says that it is client {status.client}")
    if status.number != number:
        raise BadUpdate(f"its answer is of round {status.number}")
    if status.applied > last:
        raise BadUpdate(f"it says that it has applied the sum of round {status.applied}, which there is none of")
    return status


def account_of(reply: Message, client: int, last: int) -> Account:
    """Return the account that ``client`` gives after round ``last``.

    Raises
    ------
    BadUpdate
        It gives none, or one that nothing can be stated from.
    """
    with reading("its account"):
        answer_of(reply, client, last, last)
        record = record_of(reply.content, ConfigRecord, ACCOUNT)
        model, events = record["model"], unpack_events(record)
        if not isinstance(model, str) or not _DIGEST.fullmatch(model):
            raise BadUpdate("its account does not name its model")
        if len(events) > MOST_EVENTS or not all(map(_may_have_run, events)):
            raise BadUpdate("its account is of mechanisms that cannot have run")
        return Account(events, model)


def metrics_of(reply: Message, client: int, number: int) -> tuple[float, float, Status]:
    """Return loss and accuracy as ``client`` has measured them, and what it says of itself.

    Raises
    ------
    BadUpdate
        It says something else.
    """
    with reading("what it has measured"):
        status = answer_of(reply, client, number, number)
        metrics = record_of(reply.content, MetricRecord, METRICS)
        loss, accuracy = (_number(metrics[name]) for name in ("loss", "accuracy"))
        # A model that has diverged has a loss that is no number.
        if loss < 0 or not 0 <= accuracy <= 1:
            raise BadUpdate("what it has measured is no loss and no accuracy")
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


def on_one_line(text: str) -> str:
    """Return what a client says so that it cannot look like a notice of the server's.

    Examples
    --------
    >>> on_one_line("out of memory\\nround 2:\\x1b[2K all is well")
    'out of memory round 2: [2K all is well'
    """
    # Cut first: there may be any number of characters.
    begin = text[: 4 * LONGEST_LINE]
    line = " ".join("".join(one if one.isprintable() else " " for one in begin).split())
    return line if len(line) <= LONGEST_LINE and len(begin) == len(text) else f"{line[:LONGEST_LINE]} ..."
