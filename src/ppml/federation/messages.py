"""What the parties say to each other, as Flower records."""

from __future__ import annotations

import ppml.federation.quiet  # noqa: F401  isort: skip
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from ppml.aggregation.protocol import Sealed

SEALED = "sealed"
INITIAL = "initial"
ROUND = "round"
METRICS = "metrics"


def pack_sealed(sealed: Sealed) -> ArrayRecord:
    """Return a sealed update or sum as a record."""
    return ArrayRecord(
        {SEALED: Array(dtype="bytes", shape=(sealed.length,), stype=f"ppml.{sealed.scheme}", data=sealed.payload)}
    )


def unpack_sealed(record: ArrayRecord) -> Sealed:
    """Return what :func:`pack_sealed` packed."""
    array = record[SEALED]
    return Sealed(array.stype.removeprefix("ppml."), array.shape[0], array.data)


def pack_vector(vector: NDArray[np.float32]) -> ArrayRecord:
    """Return a plain parameter vector, shape ``(parameters,)``, as a record."""
    return ArrayRecord({INITIAL: Array(vector)})


def unpack_vector(record: ArrayRecord) -> NDArray[np.float32]:
    """Return what :func:`pack_vector` packed."""
    return record[INITIAL].numpy()


def pack_position(number: int, closes: int) -> ConfigRecord:
    """Return which round this is, and which round the sum in the message closes (0: none)."""
    return ConfigRecord({"number": number, "closes": closes})


def position(content: RecordDict, key: str) -> int:
    """Return ``"number"`` or ``"closes"`` of :func:`pack_position`."""
    return cast(int, content.config_records[ROUND][key])


def payload_bytes(content: RecordDict) -> int:
    """Return the size of all arrays in a message: what grows with the model; envelopes are left out."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
