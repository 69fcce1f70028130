"""What the parties say to each other, as Flower records."""

from __future__ import annotations

import ppml.federation.flower_env  # noqa: F401  isort: skip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from ppml.accounting.events import MechanismEvent
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.federation.global_state import Vectors

ORDER = "order"
"""From the server: an :class:`RoundRequest`."""

INITIAL = "initial"
"""From the server: the weights that the training begins with, to a client that has none."""

SUMS = "sums"
"""From the server: the sums of the rounds that the client has not seen, by the number of the round."""

STATUS = "status"
"""From a client: a :class:`Status`."""

UPDATE = "update"
"""From a client: its sealed contribution."""

METRICS = "metrics"
"""From a client: loss and accuracy of the global model."""

ACCOUNT = "account"
"""From a client, when all is done: what ran on its records, and which model it has come to."""

PLACEHOLDER = "applied"
"""The scheme of what stands for a sum that every client has applied."""

STEP = "step"
"""From the server and from a client: a step of the aggregation, by its name."""

SEALED = "sealed"
VECTOR = "vector"
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

FLOATS, RAW = np.dtype("<f4"), "ppml.raw"
"""Plain vectors travel as their bytes: numpy's own format takes longer to read than a small model to train."""


@dataclass(frozen=True)
class RoundRequest:
    """What a client is to do.

    Parameters
    ----------
    number : int
        The round, from 1.
    begins : int
        The round after which the sums in this message begin: a client that is not that far has lost its state.
    accepted : int
        The last round whose sum has a contribution of this client; 0 for none.
    """

    number: int
    begins: int
    accepted: int = 0


@dataclass(frozen=True)
class Status:
    """What a client says beside its contribution.

    Parameters
    ----------
    client : int
        Who it is.
    number : int
        The round that it answers; 0 for a roll call.
    applied : int
        The last round whose sum is in its model; -1 where it has no model.
    finished : bool
        Whether its privacy budget is spent, so that it trains no more.
    """

    client: int
    number: int
    applied: int
    finished: bool = False


def get_record(content: RecordDict, kind: type[Record], name: str) -> Record:
    """Return a record of a message or a state; Flower's own views of one kind copy all of them at each look.

    Raises
    ------
    KeyError
        There is none of this kind by this name.
    """
    record = content[name]
    if not isinstance(record, kind):
        raise KeyError(name)
    return record


STATUS_FIELDS = tuple(field.name for field in fields(Status))


def pack_fields(one: RoundRequest | Status) -> ConfigRecord:
    """Return an order or a status as a record."""
    return ConfigRecord({name: int(value) for name, value in vars(one).items()})


def unpack_request(content: RecordDict) -> RoundRequest:
    """Return the order in a message."""
    return RoundRequest(**cast(dict[str, Any], dict(get_record(content, ConfigRecord, ORDER))))


def unpack_status(content: RecordDict) -> Status:
    """Return the status in a message.

    Raises
    ------
    KeyError
        There is none, or another one.
    TypeError
        A field is no number, or none that there is.
    """
    fields = get_record(content, ConfigRecord, STATUS)
    client, number, applied, finished = (_whole(fields[name]) for name in STATUS_FIELDS)
    if min(number, applied + 1) < 0:
        raise TypeError("a field that is too small")
    return Status(client, number, applied, bool(finished))


def _whole(value: object) -> int:
    """Return a number that a message may hold, or raise a TypeError."""
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise TypeError("a field that is no whole number of 64 bits")
    return int(value)


def pack_sealed(sealed: ProtectedUpdate) -> Array:
    """Return a sealed update or sum as an array."""
    return Array(dtype="bytes", shape=(sealed.length,), stype=f"ppml.{sealed.scheme}", data=sealed.payload)


def unpack_sealed(array: Array) -> ProtectedUpdate:
    """Return what :func:`pack_sealed` packed."""
    return ProtectedUpdate(array.stype.removeprefix("ppml."), array.shape[0], array.data)


def pack_update(sealed: ProtectedUpdate) -> ArrayRecord:
    """Return a client's sealed contribution as a record."""
    return ArrayRecord({SEALED: pack_sealed(sealed)})


def unpack_update(record: ArrayRecord) -> ProtectedUpdate:
    """Return what :func:`pack_update` packed.

    Raises
    ------
    KeyError, TypeError
        There is no contribution, or it is none.
    """
    array = record[SEALED]
    (length,) = map(_whole, array.shape) if len(array.shape) == 1 else (None,)
    if length is None or not isinstance(array.stype, str) or not isinstance(array.data, bytes):
        raise TypeError("a contribution that is no sealed one")
    return unpack_sealed(array)


def pack_sums(sums: Mapping[int, ProtectedUpdate]) -> ArrayRecord:
    """Return the sums of rounds as a record."""
    return ArrayRecord({str(number): pack_sealed(total) for number, total in sums.items()})


def unpack_sums(record: ArrayRecord) -> dict[int, ProtectedUpdate]:
    """Return what :func:`pack_sums` packed, in the order of the rounds."""
    return {int(number): unpack_sealed(record[number]) for number in sorted(record, key=int)}


def pack_step(step: str, content: bytes) -> ArrayRecord:
    """Return what is said in a step of the aggregation as a record."""
    return ArrayRecord({step: Array(dtype="bytes", shape=(len(content),), stype="ppml.step", data=content)})


def unpack_step(content: RecordDict) -> tuple[str, bytes]:
    """Return what :func:`pack_step` packed, from a message.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is none, or more than one, or it is no step.
    """
    ((step, array),) = get_record(content, ArrayRecord, STEP).items()
    if not isinstance(array.data, bytes):
        raise TypeError("a step that is not said in bytes")
    return step, array.data


def pack_vector(vector: NDArray[np.float32]) -> ArrayRecord:
    """Return a plain parameter vector, shape ``(parameters,)``, as a record."""
    return ArrayRecord({VECTOR: _raw(vector)})


def unpack_vector(record: ArrayRecord) -> NDArray[np.float32]:
    """Return what :func:`pack_vector` packed."""
    return _floats(record[VECTOR])


def pack_vectors(vectors: Vectors) -> ArrayRecord:
    """Return vectors by name as a record."""
    return ArrayRecord({name: _raw(vector) for name, vector in vectors.items()})


def unpack_vectors(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Return what :func:`pack_vectors` packed."""
    return {name: _floats(array) for name, array in record.items()}


def _raw(vector: NDArray[np.float32]) -> Array:
    return Array(dtype=FLOATS.name, shape=vector.shape, stype=RAW, data=vector.astype(FLOATS, copy=False).tobytes())


def _floats(array: Array) -> NDArray[np.float32]:
    """Return the values, which are read-only: many may look at the same bytes."""
    return np.frombuffer(array.data, dtype=FLOATS)


EVENT_COLUMNS = tuple(field.name for field in fields(MechanismEvent))


def pack_events(events: Sequence[MechanismEvent]) -> ConfigRecord:
    """Return what ran as a record, a list a field."""
    return ConfigRecord({column: [getattr(event, column) for event in events] for column in EVENT_COLUMNS})


def unpack_events(record: ConfigRecord) -> tuple[MechanismEvent, ...]:
    """Return what :func:`pack_events` packed."""
    columns = (cast(list[Any], record[column]) for column in EVENT_COLUMNS)
    rows = zip(*columns, strict=True)
    return tuple(MechanismEvent(**dict(zip(EVENT_COLUMNS, row, strict=True))) for row in rows)


def payload_bytes(content: RecordDict) -> int:
    """Return the size of all arrays in a message: what grows with the model; envelopes are left out."""
    arrays = (array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values())
    return sum(len(array.data) for array in arrays if isinstance(array.data, bytes))
