"""The streams of SEAL, read field by field before SEAL reads them.

SEAL's reader believes what a stream says within its compressed part. Modes, lengths and counts that its own writer
never makes end the process there, or pass and fail where the object is used. So each stream of somebody else is
decompressed here, into as many bytes as an object of its shape takes and no more; each field is compared with that
shape; and SEAL is given the same bytes uncompressed. Of what a sender chooses, coefficients and seeds alone are left,
and SEAL compares coefficients with their primes.

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
"""Magic number, header size and version; mode of compression; reserved; bytes of the stream."""

_CIPHERTEXT = struct.Struct("<32sBQQQdQ")
"""Level, whether in NTT form, polynomials, degree, primes, scale, correction factor."""

_COUNT = struct.Struct("<Q")
_KEYS = struct.Struct("<32sQ")
"""Level and number of groups of keys for switching."""

_PLAIN = struct.Struct("<32sQd5s")
"""Of a plaintext, as which secret keys are written: level, coefficients, scale, and the header of an array."""

_UNCOMPRESSED, _ZSTD = 0, 2
_WORD = 8
_POLYNOMIALS = 2
_SEED_BYTES = 64
_BLAKE2XB = b"\x01"
"""The generator that SEAL's writer names beside a seed."""


@cache
def _prefix() -> bytes:
    """Return how each stream begins that this version of SEAL writes."""
    return serialize(sealapi.Plaintext())[:5]


def parms_id_bytes(parms_id: Collection[int]) -> bytes:
    """Return a level of a ring as streams name it."""
    return struct.pack("<4Q", *parms_id)


def max_stream_bytes(size: int) -> int:
    """Return the largest stream of an object that takes ``size`` bytes uncompressed: what cannot be compressed."""
    # ZSTD_COMPRESSBOUND of zstd.h.
    return int(_HEADER.size + size + (size >> 8) + (((128 << 10) - size) >> 11 if size < 128 << 10 else 0))


@dataclass(frozen=True)
class CiphertextFormat:
    """What a ciphertext, or a public key, is like.

    Parameters
    ----------
    context : SEALContext
        The ring.
    data : ContextData
        SEAL's view of the level.
    ntt : bool
        Whether in NTT form: CKKS and keys are, BFV is not.
    scale : float
        1 but in CKKS.
    whole, seeded : bool
        Whether it may have both polynomials; one, and a seed for the other.
    rounding : float
        How far the scale may be off, relatively.
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
        """The level, as streams name it."""
        return parms_id_bytes(self.data.parms_id())

    @cached_property
    def degree(self) -> int:
        """Coefficients of a polynomial."""
        return int(self.data.parms().poly_modulus_degree())

    @cached_property
    def primes(self) -> int:
        """Primes of the modulus at this level."""
        return len(self.data.parms().coeff_modulus())

    @cached_property
    def sizes(self) -> list[int]:
        """Bytes that it may take uncompressed, without the header of the stream."""
        words = self.degree * self.primes
        array = _CIPHERTEXT.size + _HEADER.size + _COUNT.size + words * _WORD
        whole, seeded = array + words * _WORD, array + _HEADER.size + 1 + _SEED_BYTES
        return [size for size, may in ((whole, self.whole), (seeded, self.seeded)) if may]

    @cached_property
    def _levels(self) -> frozenset[bytes]:
        """All levels of the ring."""
        found, data = {parms_id_bytes(self.context.key_parms_id())}, self.context.first_context_data()
        while data is not None:
            found.add(parms_id_bytes(data.parms_id()))
            data = data.next_context_data()
        return frozenset(found)

    def uncompressed(self, stream: bytes | memoryview) -> list[bytes]:
        """Return header and content of the same ciphertext uncompressed.

        Raises
        ------
        InvalidUpdate
            It is no ciphertext of this shape; the message says what is different.
        """
        frame, said = _parse_header(stream)
        if said not in self.sizes:
            self._compare_fields(_decompress_prefix(frame, _CIPHERTEXT.size))
            raise InvalidUpdate(f"a ciphertext of {said} bytes, not {' or '.join(map(str, self.sizes))}")
        body = _decompress(frame, said)
        self.check(memoryview(body))
        return [_header(len(body)), body]

    def check(self, body: memoryview) -> None:
        """Raise :class:`InvalidUpdate` unless ``body``, of one of :attr:`sizes`, is a ciphertext of this shape."""
        self._compare_fields(body)
        words = self.degree * self.primes
        at = _CIPHERTEXT.size
        length, seeded = len(body) - at, len(body) < max(self.sizes) or not self.whole
        array = _HEADER.size + _COUNT.size + (1 if seeded else _POLYNOMIALS) * words * _WORD
        _check_header(body[at:], array)
        (count,) = _COUNT.unpack_from(body, at + _HEADER.size)
        if count * _WORD != array - _HEADER.size - _COUNT.size:
            raise InvalidUpdate(f"a ciphertext that says that it has {count} coefficients")
        if seeded:
            _check_header(body[at + array :], length - array)
            if body[at + array + _HEADER.size :][:1] != _BLAKE2XB:
                raise InvalidUpdate("a seed of another generator than that of SEAL")

    def _compare_fields(self, body: memoryview | bytes) -> None:
        if len(body) < _CIPHERTEXT.size:
            raise InvalidUpdate("no ciphertext of this ring: it is too short")
        level, ntt, size, degree, primes, scale, correction = _CIPHERTEXT.unpack_from(body)
        if level not in self._levels:
            raise InvalidUpdate("no ciphertext of this ring: its parameters are others")
        if level != self.level or size != _POLYNOMIALS or ntt != self.ntt:
            raise InvalidUpdate("a ciphertext that is not fresh: it was multiplied, or is of another level or form")
        if (degree, primes, correction) != (self.degree, self.primes, 1):
            raise InvalidUpdate("no ciphertext of this ring: what it says of its size is wrong")
        # Not a number is no scale either.
        if not abs(scale / self.scale - 1) <= self.rounding:
            raise InvalidUpdate(f"a ciphertext at scale {scale:g}, not {self.scale:g}")


@dataclass(frozen=True)
class SwitchingKeyFormat:
    """What keys for squares, or for rotations, are like.

    Parameters
    ----------
    context : SEALContext
        The ring.
    groups : int
        How many places for keys there are: 1 for squares, as many as the degree for rotations.
    places : frozenset of int
        Which of them hold keys.
    """

    context: sealapi.SEALContext
    groups: int
    places: frozenset[int]

    @cached_property
    def one(self) -> CiphertextFormat:
        """A key of those."""
        return CiphertextFormat(self.context, self.context.key_context_data(), ntt=True, whole=False)

    @cached_property
    def size(self) -> int:
        """Bytes that they take uncompressed, without the header of the stream."""
        (one,) = self.one.sizes
        each = (self.one.primes - 1) * (_HEADER.size + one)
        return int(_KEYS.size + self.groups * _COUNT.size + len(self.places) * each)

    def uncompressed(self, stream: bytes | memoryview) -> list[bytes]:
        """Return header and content of the same keys uncompressed; what are none raises :class:`InvalidUpdate`."""
        frame, said = _parse_header(stream)
        if said != self.size:
            self._compare_fields(_decompress_prefix(frame, _KEYS.size))
            raise InvalidUpdate(WRONG_SWITCHING_KEYS)
        body = _decompress(frame, said)
        self._check(memoryview(body))
        return [_header(len(body)), body]

    def _check(self, body: memoryview) -> None:
        self._compare_fields(body)
        (size,), at, each = self.one.sizes, _KEYS.size, self.one.primes - 1
        for place in range(self.groups):
            (count,) = _COUNT.unpack_from(body, at)
            at += _COUNT.size
            if count != (each if place in self.places else 0):
                raise InvalidUpdate(WRONG_SWITCHING_KEYS)
            for _ in range(count):
                _check_header(body[at:], _HEADER.size + size)
                self.one.check(body[at + _HEADER.size : at + _HEADER.size + size])
                at += _HEADER.size + size

    def _compare_fields(self, body: memoryview | bytes) -> None:
        if len(body) < _KEYS.size or _KEYS.unpack_from(body)[0] != self.one.level:
            raise InvalidUpdate("their parameters are others")
        if _KEYS.unpack_from(body)[1] != self.groups:
            raise InvalidUpdate(WRONG_SWITCHING_KEYS)


WRONG_SWITCHING_KEYS = "they lack the one for squares, or for some rotation, or have others"
"""Said of evaluation keys that are not those asked for."""


def fresh_ciphertext(context: sealapi.SEALContext, ntt: bool, scale: float = 1.0) -> CiphertextFormat:
    """Return what a ciphertext is like that a client has just encrypted, or a sum of such."""
    return CiphertextFormat(context, context.first_context_data(), ntt, scale)


def public_key_format(context: sealapi.SEALContext) -> CiphertextFormat:
    """Return what a public key is like."""
    return CiphertextFormat(context, context.key_context_data(), ntt=True, seeded=False)


def is_secret_key(context: sealapi.SEALContext, stream: bytes | memoryview) -> bool:
    """Return whether ``stream`` begins as a secret key of this ring."""
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
    """Refuse an inner stream that is not uncompressed, of ``size`` bytes: SEAL's reader may end the process at it."""
    if _HEADER.unpack_from(body) != (_prefix(), _UNCOMPRESSED, 0, size):
        raise InvalidUpdate("a stream within it that SEAL does not write so")


def _parse_header(stream: bytes | memoryview) -> tuple[memoryview, int]:
    """Return what is compressed in ``stream``, and how many bytes that says to be uncompressed."""
    if len(stream) < _HEADER.size or _HEADER.unpack_from(stream)[3] != len(stream):
        raise InvalidUpdate("it is not as long as it says")
    prefix, mode, reserved, _ = _HEADER.unpack_from(stream)
    if (prefix, mode, reserved) != (_prefix(), _ZSTD, 0):
        raise InvalidUpdate("it is no stream of this version of SEAL, or not compressed as this project's are")
    frame = memoryview(stream)[_HEADER.size :]
    try:
        return frame, int(zstandard.frame_content_size(frame))
    except zstandard.ZstdError as error:
        raise InvalidUpdate(f"it cannot be decompressed: {error}") from None


def _decompress(frame: memoryview, size: int) -> bytes:
    """Return the content of ``frame``, which says that it is of ``size`` bytes, as much as there is room made for."""
    try:
        body = _decompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidUpdate(f"it cannot be decompressed: {error}") from None
    if len(body) != size:
        raise InvalidUpdate("it has another size than it says")
    return body


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return one that is used again: it takes longer to make than to decompress a small stream. One a thread."""
    if not hasattr(_own, "decompressor"):
        _own.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _own.decompressor
    return found


_own = threading.local()


def _decompress_prefix(frame: memoryview, count: int) -> bytes:
    """Return the first ``count`` bytes of the content, which may be as large as it likes."""
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(frame) as reader:
            return bytes(reader.read(count))
    except zstandard.ZstdError as error:
        raise InvalidUpdate(f"it cannot be decompressed: {error}") from None
