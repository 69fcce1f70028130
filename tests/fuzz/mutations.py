"""Seeded mutations of messages by a hostile sender: bytes, streams of SEAL, records of any type."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import zstandard
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

HEADER = struct.Struct("<5sBHQ")
"""Header of a SEAL stream: magic number and version, compression mode, reserved field, length."""

PLAIN, ZLIB, ZSTD = 0, 1, 2
BEGIN = b"\x5e\xa1\x10\x04"
"""Magic number of a SEAL stream, without the minor version."""

FIELDS = [(32, 1), (33, 8), (41, 8), (49, 8), (57, 8), (65, 8), (73, 8), (78, 1), (81, 8), (89, 8)]
"""Offsets of the NTT flag, the size, the scale and the array header of a ciphertext."""

NUMBERS = [0, 1, 2, 3, 4, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
SCALES = [0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-320, 1e308, 2.0**41]


class Mutator:
    """A seeded mutator of messages.

    Parameters
    ----------
    seed : int
        Seed of all changes.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    # Bytes.

    def changed(self, content: bytes, others: Sequence[bytes] = ()) -> bytes:
        """Return ``content`` with one to three changes; ``others`` are of other rounds, clients or kinds."""
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            content = self.rng.choice(self._of_bytes())(content, others)
        return content

    def _of_bytes(self) -> list[Callable[[bytes, Sequence[bytes]], bytes]]:
        return [self._flip, self._cut, self._longer, self._number, self._twice, self._spliced, self._any, self._filled]

    def _place(self, content: bytes) -> int:
        # Fields are mostly near the beginning.
        near = self.rng.random() < 0.5
        return self.rng.randrange(max(1, min(len(content), 160) if near else len(content)))

    def _flip(self, content: bytes, others: Sequence[bytes]) -> bytes:
        changed = bytearray(content)
        for _ in range(self.rng.choice([1, 1, 2, 8])):
            if changed:
                changed[self._place(content)] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def _cut(self, content: bytes, others: Sequence[bytes]) -> bytes:
        at = self._place(content)
        return self.rng.choice([content[:at], content[at:], content[: -self.rng.randrange(1, 20)]])

    def _longer(self, content: bytes, others: Sequence[bytes]) -> bytes:
        return content + self.rng.randbytes(self.rng.choice([1, 4, 16, 1000, 10_000]))

    def _number(self, content: bytes, others: Sequence[bytes]) -> bytes:
        at, size = self._place(content), self.rng.choice([1, 2, 4, 8])
        number = self.rng.choice(NUMBERS) % (1 << 8 * size)
        return content[:at] + number.to_bytes(size, "little") + content[at + size :]

    def _twice(self, content: bytes, others: Sequence[bytes]) -> bytes:
        return content + content

    def _spliced(self, content: bytes, others: Sequence[bytes]) -> bytes:
        other, at = self.rng.choice(others) if others else content[::-1], self._place(content)
        return self.rng.choice([other, content[:at] + other[at:], other[:at] + content[at:]])

    def _any(self, content: bytes, others: Sequence[bytes]) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 15, 16, 17, 100, len(content)]))

    def _filled(self, content: bytes, others: Sequence[bytes]) -> bytes:
        at, size = self._place(content), self.rng.choice([1, 8, 64, 4096])
        return content[:at] + self.rng.choice([b"\x00", b"\xff"]) * size + content[at + size :]

    # Streams of SEAL.

    def chunks(self, chunks: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
        """Return ``chunks`` in another order, in another number, or changed."""
        changed = list(chunks)
        match self.rng.randrange(12):
            case 0:
                self.rng.shuffle(changed)
            case 1:
                del changed[self.rng.randrange(len(changed))]
            case 2:
                changed.append(self.rng.choice([*chunks, *others]))
            case 3:
                changed[self.rng.randrange(len(changed))] = self.rng.choice([*chunks, *others])
            case _:
                at = self.rng.randrange(len(changed))
                changed[at] = self.stream(changed[at], others)
        return changed

    def stream(self, stream: bytes, others: Sequence[bytes]) -> bytes:
        """Return a mutated SEAL stream, mostly with correct lengths, so that its content is read."""
        if self.rng.random() < 0.2:
            return self.changed(stream, others)
        begin, _, reserved, _ = HEADER.unpack_from(stream)
        body = self._body(uncompressed(stream))
        return self._packed(begin, reserved, body)

    def _body(self, body: bytes) -> bytes:
        """Return a content with changed fields, array headers or bytes."""
        changed = bytearray(body)
        for _ in range(self.rng.choice([1, 1, 2])):
            match self.rng.randrange(6):
                case 0 | 1:
                    self._field(changed)
                case 2 | 3:
                    self._inner(changed)
                case 4:
                    del changed[self._place(body) :]
                case _:
                    changed = bytearray(self.changed(bytes(changed)))
        return bytes(changed)

    def _field(self, body: bytearray) -> None:
        at, size = self.rng.choice(FIELDS)
        if at + size <= len(body):
            scale = struct.pack("<d", self.rng.choice(SCALES))
            number = (self.rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
            body[at : at + size] = scale if at == 57 and self.rng.random() < 0.7 else number

    def _inner(self, body: bytearray) -> None:
        """Mark an inner array as compressed, change its length, or compress and truncate it."""
        places, at = [], body.find(BEGIN)
        while at >= 0 and len(places) < 50:
            places.append(at)
            at = body.find(BEGIN, at + 1)
        if not places:
            return
        at = self.rng.choice(places)
        mode = self.rng.choice([PLAIN, ZLIB, ZSTD, 3, 255])
        match self.rng.randrange(4):
            case 0:
                body[at + 5 : at + 6] = bytes([mode])
            case 1:
                body[at + 8 : at + 16] = (self.rng.choice(NUMBERS) % 2**64).to_bytes(8, "little")
            case 2:
                body[at + 5 : at + 6] = bytes([mode])
                del body[max(at + 17, self._place(bytes(body))) :]
            case _:
                inner = compressed(bytes(body[at + HEADER.size :]), self.rng.choice([ZLIB, ZSTD]))
                inner = inner[: self.rng.choice([len(inner), len(inner) // 2, 10])]
                header = HEADER.pack(bytes(body[at : at + 5]), mode % 3, 0, HEADER.size + len(inner))
                body[at:] = header + inner

    def _packed(self, begin: bytes, reserved: int, body: bytes) -> bytes:
        mode = self.rng.choice([ZSTD, ZSTD, ZSTD, ZSTD, PLAIN, ZLIB])
        content = bomb() if self.rng.random() < 0.01 else compressed(body, mode, tells_size=self.rng.random() < 0.9)
        said = mode if self.rng.random() < 0.95 else self.rng.choice([PLAIN, ZLIB, ZSTD, 3, 255])
        length = HEADER.size + len(content)
        if self.rng.random() < 0.05:
            length = self.rng.choice(NUMBERS) % 2**64
        return HEADER.pack(begin, said, reserved, length) + content

    # Records.

    def value(self) -> Any:
        """Return a value of any type, including types that no record may hold."""
        return self.rng.choice(
            [
                None,
                float("nan"),
                float("inf"),
                -1,
                2**63 - 1,
                -(2**63),
                10**400,
                "",
                "text",
                "x" * 100_000,
                b"",
                b"\x00" * 10_000,
                [],
                [1, 2],
                [1.5, float("nan")],
                ["a"],
                [[1], [2]],
                {"a": 1},
                (1, 2),
                True,
                object(),
                3.5,
                self.rng.randrange(-5, 5),
            ]
        )

    def record(self) -> Any:
        """Return a record of any kind with any content."""
        kind: Any = self.rng.choice([ConfigRecord, MetricRecord, ArrayRecord])
        if self.rng.random() < 0.1:
            return self.value()
        record = kind({})
        for _ in range(self.rng.randrange(4)):
            planted(record, self.rng.choice(["client", "loss", "model", "protected", "keys"]), self.value())
        return record

    def content(self, content: RecordDict) -> RecordDict:
        """Return the content of a message with other records, fields and arrays."""
        changed = RecordDict()
        for name, record in content.items():
            planted(changed, name, record)
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            name = self.rng.choice([*content, *content, "request", "sums", "anything"])
            match self.rng.randrange(5):
                case 0 if name in changed:
                    del changed[name]
                case 1:
                    planted(changed, name, self.record())
                case _ if name in content:
                    planted(changed, name, self._of_record(content[name]))
        return changed

    def _of_record(self, record: Any) -> Any:
        changed = type(record)({})
        for key, value in record.items():
            planted(changed, key, value)
        if not record:
            return changed
        key = self.rng.choice(list(record))
        match self.rng.randrange(4):
            case 0:
                del changed[key]
            case 1:
                planted(changed, self.rng.choice(["other", "", "x" * 10_000, 7]), record[key])
            case _ if isinstance(record[key], Array):
                planted(changed, key, self._array(record[key]))
            case _ if isinstance(record[key], list) and record[key]:
                planted(changed, key, self._list(record[key]))
            case _:
                planted(changed, key, self.value())
        return changed

    def _list(self, values: list[Any]) -> list[Any]:
        changed = list(values)
        changed[self.rng.randrange(len(changed))] = self.value()
        return self.rng.choice([changed, changed * 2, values[:-1], values * 100])

    def _array(self, array: Array) -> Array:
        name = self.rng.choice(["dtype", "shape", "stype", "data", "data", "data"])
        if name == "data":
            return replaced(array, data=self.changed(array.data))
        if name == "shape" and self.rng.random() < 0.7:
            return replaced(
                array, shape=self.rng.choice([(), (0,), (-1,), (2**63,), (1, 2), (None,), ("a",), (10**400,)])
            )
        return replaced(array, **{name: self.value()})


def replaced(array: Array, **parts: Any) -> Array:
    """Return an array with other parts, of any type."""
    changed = Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=array.data)
    for name, value in parts.items():
        object.__setattr__(changed, name, value)
    return changed


def planted(record: Any, key: Any, value: Any) -> None:
    """Set a value that Flower's records refuse: it may arrive in another way."""
    record.__dict__["_data"][key] = value


def uncompressed(stream: bytes) -> bytes:
    """Return the uncompressed content of a stream."""
    return zstandard.ZstdDecompressor().decompress(stream[HEADER.size :])


def compressed(content: bytes, mode: int, *, tells_size: bool = True) -> bytes:
    """Return ``content`` as a stream in a compression mode of SEAL."""
    if mode == ZLIB:
        return zlib.compress(content, 1)
    if mode == ZSTD:
        return zstandard.ZstdCompressor(level=1, write_content_size=tells_size).compress(content)
    return content


@cache
def bomb() -> bytes:
    """Return a few bytes that decompress to 64 MiB."""
    return compressed(bytes(64 << 20), ZSTD)


def stream_of(stream: bytes, body: bytes, mode: int = ZSTD, *, tells_size: bool = True) -> bytes:
    """Return another content as a stream like ``stream`` with a correct length."""
    content = compressed(body, mode, tells_size=tells_size)
    return HEADER.pack(stream[:5], mode, 0, HEADER.size + len(content)) + content


def stream_with(stream: bytes, at: int, field: bytes) -> bytes:
    """Return the same ciphertext with another field in its content."""
    body = uncompressed(stream)
    return stream_of(stream, body[:at] + field + body[at + len(field) :])


def claiming_to_be_compressed(stream: bytes) -> bytes:
    """Return a ciphertext with a truncated inner array marked as compressed, which crashes SEAL."""
    body = bytearray(uncompressed(stream))
    body[78] = ZSTD
    return stream_of(stream, bytes(body[: len(body) * 2 // 3]))
