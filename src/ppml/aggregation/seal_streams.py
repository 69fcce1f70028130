"""Validation of SEAL's streams, field by field, before SEAL reads them.

SEAL's reader trusts the fields in the compressed part of a stream. Modes, lengths and counts that its writer never
emits crash the process, or pass and fail at the first use of the object. This module therefore decompresses each stream
of another party, into exactly the bytes of an object of the expected format, compares every field with that format, and
gives SEAL the same bytes uncompressed. The sender then chooses only coefficients and seeds; SEAL compares coefficients
with their primes.

The layout is that of SEAL 4.1: ``native/src/seal/serialization.h``, ``ciphertext.cpp``, ``dynarray.h``,
``randomgen.cpp``, ``kswitchkeys.cpp``.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, cached_property

import zstandard
from tenseal import sealapi

from ppml.aggregation.seal_serialization import serialize
from ppml.errors import InvalidUpdate

_HEADER = struct.Struct("<5sBHQ")
"""Magic number with header size and version; compression mode; reserved; bytes of the stream."""

_CIPHERTEXT = struct.Struct("<32sBQQQdQ")
"""Level, NTT flag, polynomials, degree, primes, scale, correction factor."""

_COUNT = struct.Struct("<Q")
_KEYS = struct.Struct("<32sQ")
"""Level and number of groups of switching keys."""

_PLAIN = struct.Struct("<32sQd5s")
"""Fields of a plaintext, the format of secret keys: level, coefficients, scale, and the header of an array."""

_UNCOMPRESSED, _ZSTD = 0, 2
_WORD = 8
_POLYNOMIALS = 2
_SEED_BYTES = 64
_BLAKE2XB = b"\x01"
"""SEAL's identifier of its default generator, before a seed."""


@cache
def _prefix() -> bytes:
    """Return the first bytes of every stream of this SEAL version."""
    return serialize(sealapi.Plaintext())[:5]


def parms_id_bytes(parms_id: Collection[int]) -> bytes:
    """Return the level of a ring in the format of streams."""
    return struct.pack("<4Q", *parms_id)


def max_stream_bytes(size: int) -> int:
    """Return the largest stream of an object with ``size`` uncompressed bytes: the bound for incompressible content."""
    # ZSTD_COMPRESSBOUND of zstd.h.
    return int(_HEADER.size + size + (size >> 8) + (((128 << 10) - size) >> 11 if size < 128 << 10 else 0))


@dataclass(frozen=True)
class CiphertextFormat:
    """The format of a ciphertext or a public key.

    Parameters
    ----------
    context : SEALContext
        Context of the ring.
    data : ContextData
        Context data of the level.
    ntt : bool
        NTT form: true for CKKS and keys, false for BFV.
    scale : float
        Scale; 1 except in CKKS.
    whole, seeded : bool
        Allowed representations: both polynomials; one polynomial, with a seed for the other.
    rounding : float
        Allowed relative error of the scale.
    """

    context: sealapi.SEALContext
    data: sealapi.SEALContext.ContextData
    ntt: bool
    scale: float = 1.0
    whole: bool = True
    seeded: bool = True
    rounding: float = 0.0

    @cached_property
    def level(self) -> bytes:
        """The level in the format of streams."""
        return parms_id_bytes(self.data.parms_id())

    @cached_property
    def degree(self) -> int:
        """Coefficients per polynomial."""
        return int(self.data.parms().poly_modulus_degree())

    @cached_property
    def primes(self) -> int:
        """Number of primes of the modulus at this level."""
        return len(self.data.parms().coeff_modulus())

    @cached_property
    def sizes(self) -> list[int]:
        """Allowed uncompressed sizes in bytes, without the header of the stream."""
        words = self.degree * self.primes
        array = _CIPHERTEXT.size + _HEADER.size + _COUNT.size + words * _WORD
        whole, seeded = array + words * _WORD, array + _HEADER.size + 1 + _SEED_BYTES
        return [size for size, allowed in ((whole, self.whole), (seeded, self.seeded)) if allowed]

    @cached_property
    def _levels(self) -> frozenset[bytes]:
        """All levels of the ring."""
        found, data = {parms_id_bytes(self.context.key_parms_id())}, self.context.first_context_data()
        while data is not None:
            found.add(parms_id_bytes(data.parms_id()))
            data = data.next_context_data()
        return frozenset(found)

    def uncompressed(self, stream: bytes | memoryview) -> list[bytes]:
        """Return header and content of the uncompressed ciphertext.

        Raises
        ------
        InvalidUpdate
            The stream is no ciphertext of this format; the message names the difference.
        """
        frame, size = _parse_header(stream)
        if size not in self.sizes:
            self._compare_fields(_decompress_prefix(frame, _CIPHERTEXT.size))
            raise InvalidUpdate(f"a ciphertext of {size} bytes, not {' or '.join(map(str, self.sizes))}")
        body = _decompress(frame, size)
        self.check(memoryview(body))
        return [_header(len(body)), body]

    def check(self, body: memoryview) -> None:
        """Raise an error unless ``body``, which has one of :attr:`sizes`, is a ciphertext of this format."""
        self._compare_fields(body)
        words = self.degree * self.primes
        at = _CIPHERTEXT.size
        length, seeded = len(body) - at, len(body) < max(self.sizes) or not self.whole
        array = _HEADER.size + _COUNT.size + (1 if seeded else _POLYNOMIALS) * words * _WORD
        _check_header(body[at:], array)
        (count,) = _COUNT.unpack_from(body, at + _HEADER.size)
        if count * _WORD != array - _HEADER.size - _COUNT.size:
            raise InvalidUpdate(f"a ciphertext whose header states {count} coefficients")
        if seeded:
            _check_header(body[at + array :], length - array)
            if body[at + array + _HEADER.size :][:1] != _BLAKE2XB:
                raise InvalidUpdate("a seed of another generator than SEAL's default")

    def _compare_fields(self, body: memoryview | bytes) -> None:
        if len(body) < _CIPHERTEXT.size:
            raise InvalidUpdate("no ciphertext of this ring: too short")
        level, ntt, size, degree, primes, scale, correction = _CIPHERTEXT.unpack_from(body)
        if level not in self._levels:
            raise InvalidUpdate("no ciphertext of this ring: other parameters")
        if level != self.level or size != _POLYNOMIALS or ntt != self.ntt:
            raise InvalidUpdate("a ciphertext that is not fresh: multiplied, or of another level or form")
        if (degree, primes, correction) != (self.degree, self.primes, 1):
            raise InvalidUpdate("no ciphertext of this ring: wrong size fields")
        # The comparison is false for a scale that is not a number.
        if not abs(scale / self.scale - 1) <= self.rounding:
            raise InvalidUpdate(f"a ciphertext at scale {scale:g}, not {self.scale:g}")


@dataclass(frozen=True)
class SwitchingKeyFormat:
    """The format of relinearization or rotation keys.

    Parameters
    ----------
    context : SEALContext
        Context of the ring.
    groups : int
        Number of key groups: 1 for relinearization, the degree for rotations.
    present : frozenset of int
        Indices of the groups that hold keys.
    """

    context: sealapi.SEALContext
    groups: int
    present: frozenset[int]

    @cached_property
    def one(self) -> CiphertextFormat:
        """The format of one key."""
        return CiphertextFormat(self.context, self.context.key_context_data(), ntt=True, whole=False)

    @cached_property
    def size(self) -> int:
        """Uncompressed size in bytes, without the header of the stream."""
        (one,) = self.one.sizes
        each = (self.one.primes - 1) * (_HEADER.size + one)
        return int(_KEYS.size + self.groups * _COUNT.size + len(self.present) * each)

    def uncompressed(self, stream: bytes | memoryview) -> list[bytes]:
        """Return header and content of the uncompressed keys, or raise :class:`~ppml.errors.InvalidUpdate`."""
        frame, size = _parse_header(stream)
        if size != self.size:
            self._compare_fields(_decompress_prefix(frame, _KEYS.size))
            raise InvalidUpdate(WRONG_SWITCHING_KEYS)
        body = _decompress(frame, size)
        self._check(memoryview(body))
        return [_header(len(body)), body]

    def _check(self, body: memoryview) -> None:
        self._compare_fields(body)
        (size,), at, each = self.one.sizes, _KEYS.size, self.one.primes - 1
        for group in range(self.groups):
            (count,) = _COUNT.unpack_from(body, at)
            at += _COUNT.size
            if count != (each if group in self.present else 0):
                raise InvalidUpdate(WRONG_SWITCHING_KEYS)
            for _ in range(count):
                _check_header(body[at:], _HEADER.size + size)
                self.one.check(body[at + _HEADER.size : at + _HEADER.size + size])
                at += _HEADER.size + size

    def _compare_fields(self, body: memoryview | bytes) -> None:
        if len(body) < _KEYS.size or _KEYS.unpack_from(body)[0] != self.one.level:
            raise InvalidUpdate("the keys have other parameters")
        if _KEYS.unpack_from(body)[1] != self.groups:
            raise InvalidUpdate(WRONG_SWITCHING_KEYS)


WRONG_SWITCHING_KEYS = "missing or additional relinearization or rotation keys"
"""Error message for evaluation keys other than the requested ones."""


def fresh_ciphertext(context: sealapi.SEALContext, ntt: bool, scale: float = 1.0) -> CiphertextFormat:
    """Return the format of a fresh encryption, or of a sum of them."""
    return CiphertextFormat(context, context.first_context_data(), ntt, scale)


def public_key_format(context: sealapi.SEALContext) -> CiphertextFormat:
    """Return the format of a public key."""
    return CiphertextFormat(context, context.key_context_data(), ntt=True, seeded=False)


def is_secret_key(context: sealapi.SEALContext, stream: bytes | memoryview) -> bool:
    """Return whether ``stream`` starts with a secret key of this ring."""
    try:
        length = _HEADER.unpack_from(stream)[3] if len(stream) >= _HEADER.size else 0
        frame, _ = _parse_header(memoryview(stream)[:length])
        begin = _decompress_prefix(frame, _PLAIN.size)
    except InvalidUpdate:
        return False
    if len(begin) < _PLAIN.size:
        return False
    level, coefficients, _, prefix = _PLAIN.unpack(begin)
    key = public_key_format(context)
    return bool((level, coefficients, prefix) == (key.level, key.degree * key.primes, _prefix()))


def _header(size: int) -> bytes:
    return _HEADER.pack(_prefix(), _UNCOMPRESSED, 0, _HEADER.size + size)


def _check_header(body: memoryview, size: int) -> None:
    """Raise an error unless an inner stream is uncompressed and of ``size`` bytes; others may crash SEAL's reader."""
    if _HEADER.unpack_from(body) != (_prefix(), _UNCOMPRESSED, 0, size):
        raise InvalidUpdate("an inner stream that SEAL does not write")


def _parse_header(stream: bytes | memoryview) -> tuple[memoryview, int]:
    """Return the compressed frame of ``stream`` and its stated uncompressed size."""
    if len(stream) < _HEADER.size or _HEADER.unpack_from(stream)[3] != len(stream):
        raise InvalidUpdate("the stream has another length than its header says")
    prefix, mode, reserved, _ = _HEADER.unpack_from(stream)
    if (prefix, mode, reserved) != (_prefix(), _ZSTD, 0):
        raise InvalidUpdate("the stream is not of this SEAL version, or not compressed with Zstandard")
    frame = memoryview(stream)[_HEADER.size :]
    try:
        return frame, int(zstandard.frame_content_size(frame))
    except zstandard.ZstdError as error:
        raise InvalidUpdate(f"the stream cannot be decompressed: {error}") from None


def _decompress(frame: memoryview, size: int) -> bytes:
    """Return the content of ``frame``, whose stated size is ``size`` bytes; no more memory is allocated."""
    try:
        body = _decompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidUpdate(f"the stream cannot be decompressed: {error}") from None
    if len(body) != size:
        raise InvalidUpdate("the content has another size than the frame states")
    return body


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor; a new one costs more than the decompression of a small stream."""
    if not hasattr(_thread, "decompressor"):
        _thread.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _thread.decompressor
    return found


_thread = threading.local()


def _decompress_prefix(frame: memoryview, count: int) -> bytes:
    """Return the first ``count`` bytes of the content, which may be of any size."""
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(frame) as reader:
            return bytes(reader.read(count))
    except zstandard.ZstdError as error:
        raise InvalidUpdate(f"the stream cannot be decompressed: {error}") from None
