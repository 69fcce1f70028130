"""Messages between server and clients, as Flower records."""

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

REQUEST = "request"
"""From the server: a :class:`RoundRequest`."""

INITIAL = "initial"
"""From the server: the initial weights, for a client without a model."""

SUMS = "sums"
"""From the server: the sums that are new to the client, by the number of the round."""

STATUS = "status"
"""From a client: a :class:`Status`."""

UPDATE = "update"
"""From a client: its protected update."""

METRICS = "metrics"
"""From a client: loss and accuracy of the global model."""

ACCOUNT = "account"
"""From a client, after the last round: the mechanisms that ran on its examples, and the digest of its model."""

PLACEHOLDER = "placeholder"
"""Scheme of a placeholder for a sum that every client has applied."""

STEP = "step"
"""From the server and from a client: a step of the aggregation protocol, by its name."""

PROTECTED = "protected"
VECTOR = "vector"
Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)

FLOATS, RAW = np.dtype("<f4"), "ppml.raw"
"""Plain vectors are sent as raw bytes: to read numpy's own format takes longer than to train a small model."""


@dataclass(frozen=True)
class RoundRequest:
    """A request of the server to a client.

    Parameters
    ----------
    number : int
        Number of the round, from 1; 0 in a request for the status.
    base_round : int
        The round before the first sum in this message. A client with an older model has lost its state.
    last_included_round : int
        The last round whose sum includes an update of this client; 0 for none.
    """

    number: int
    base_round: int
    last_included_round: int = 0


@dataclass(frozen=True)
class Status:
    """The status in every reply of a client.

    Parameters
    ----------
    client : int
        Number of the client.
    number : int
        Number of the round of the request; 0 in a reply to a request for the status.
    applied : int
        The last round whose sum is in the client's model; -1 without a model.
    finished : bool
        Whether the client's privacy budget is spent, so that it trains no more.
    """

    client: int
    number: int
    applied: int
    finished: bool = False


STATUS_FIELDS = tuple(field.name for field in fields(Status))


def get_record(content: RecordDict, kind: type[Record], name: str) -> Record:
    """Return a record of a message or a state. Flower's own views copy all records of a type at each access.

    Raises
    ------
    KeyError
        There is no record of this type and name.
    """
    record = content[name]
    if not isinstance(record, kind):
        raise KeyError(name)
    return record


def pack_fields(fields: RoundRequest | Status) -> ConfigRecord:
    """Return a request or a status as a record."""
    return ConfigRecord({name: int(value) for name, value in vars(fields).items()})


def unpack_request(content: RecordDict) -> RoundRequest:
    """Return the request in a message."""
    record = get_record(content, ConfigRecord, REQUEST)
    return RoundRequest(**{name: cast(int, value) for name, value in record.items()})


def unpack_status(content: RecordDict) -> Status:
    """Return the status in a message.

    Raises
    ------
    KeyError
        The message has no status, or a field is missing.
    TypeError
        A field is no integer, or out of range.
    """
    record = get_record(content, ConfigRecord, STATUS)
    client, number, applied, finished = (_parse_integer(record[name]) for name in STATUS_FIELDS)
    if min(number, applied + 1) < 0:
        raise TypeError("a field is too small")
    return Status(client, number, applied, bool(finished))


def _parse_integer(value: object) -> int:
    """Return an integer from a message, or raise a TypeError."""
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise TypeError("a field is no 64-bit integer")
    return int(value)


def pack_upload(upload: ProtectedUpdate) -> Array:
    """Return a protected update or sum as an array."""
    return Array(dtype="bytes", shape=(upload.length,), stype=f"ppml.{upload.scheme}", data=upload.payload)


def unpack_upload(array: Array) -> ProtectedUpdate:
    """Return the protected update or sum in an array of :func:`pack_upload`."""
    return ProtectedUpdate(array.stype.removeprefix("ppml."), array.shape[0], array.data)


def pack_update(upload: ProtectedUpdate) -> ArrayRecord:
    """Return a client's protected update as a record."""
    return ArrayRecord({PROTECTED: pack_upload(upload)})


def unpack_update(record: ArrayRecord) -> ProtectedUpdate:
    """Return the protected update in a record of :func:`pack_update`.

    Raises
    ------
    KeyError, TypeError
        The record has no update, or a malformed one.
    """
    array = record[PROTECTED]
    (length,) = map(_parse_integer, array.shape) if len(array.shape) == 1 else (None,)
    if length is None or not isinstance(array.stype, str) or not isinstance(array.data, bytes):
        raise TypeError("the update is malformed")
    return unpack_upload(array)


def pack_sums(sums: Mapping[int, ProtectedUpdate]) -> ArrayRecord:
    """Return the sums of rounds as a record."""
    return ArrayRecord({str(number): pack_upload(total) for number, total in sums.items()})


def unpack_sums(record: ArrayRecord) -> dict[int, ProtectedUpdate]:
    """Return the sums in a record of :func:`pack_sums`, in the order of the rounds."""
    return {int(number): unpack_upload(record[number]) for number in sorted(record, key=int)}


def pack_step(step: str, content: bytes) -> ArrayRecord:
    """Return the content of an aggregation step as a record."""
    return ArrayRecord({step: Array(dtype="bytes", shape=(len(content),), stype="ppml.step", data=content)})


def unpack_step(content: RecordDict) -> tuple[str, bytes]:
    """Return name and content of the aggregation step in a message.

    Raises
    ------
    KeyError, TypeError, ValueError
        The message has no step, more than one, or a malformed one.
    """
    ((step, array),) = get_record(content, ArrayRecord, STEP).items()
    if not isinstance(array.data, bytes):
        raise TypeError("the content of a step is not bytes")
    return step, array.data


def pack_vector(vector: NDArray[np.float32]) -> ArrayRecord:
    """Return a plain parameter vector, shape ``(parameters,)``, as a record."""
    return ArrayRecord({VECTOR: _raw_array(vector)})


def unpack_vector(record: ArrayRecord) -> NDArray[np.float32]:
    """Return the vector in a record of :func:`pack_vector`."""
    return _vector(record[VECTOR])


def pack_vectors(vectors: Vectors) -> ArrayRecord:
    """Return vectors by name as a record."""
    return ArrayRecord({name: _raw_array(vector) for name, vector in vectors.items()})


def unpack_vectors(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Return the vectors in a record of :func:`pack_vectors`."""
    return {name: _vector(array) for name, array in record.items()}


def _raw_array(vector: NDArray[np.float32]) -> Array:
    return Array(dtype=FLOATS.name, shape=vector.shape, stype=RAW, data=vector.astype(FLOATS, copy=False).tobytes())


def _vector(array: Array) -> NDArray[np.float32]:
    """Return the values, read-only: several vectors may share the same bytes."""
    return np.frombuffer(array.data, dtype=FLOATS)


EVENT_COLUMNS = tuple(field.name for field in fields(MechanismEvent))


def pack_events(events: Sequence[MechanismEvent]) -> ConfigRecord:
    """Return mechanism events as a record with one list per field."""
    return ConfigRecord({column: [getattr(event, column) for event in events] for column in EVENT_COLUMNS})


def unpack_events(record: ConfigRecord) -> tuple[MechanismEvent, ...]:
    """Return the mechanism events in a record of :func:`pack_events`."""
    columns = (cast(list[Any], record[column]) for column in EVENT_COLUMNS)
    rows = zip(*columns, strict=True)
    return tuple(MechanismEvent(**dict(zip(EVENT_COLUMNS, row, strict=True))) for row in rows)


def payload_bytes(content: RecordDict) -> int:
    """Return the size of all arrays in a message, which grows with the model; the envelope does not count."""
    arrays = (array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values())
    return sum(len(array.data) for array in arrays if isinstance(array.data, bytes))
