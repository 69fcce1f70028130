"""The common part of CKKS and BFV: contexts, keys, ciphertexts and sums of SEAL, through TenSEAL's ``sealapi``.

TenSEAL's own vectors hold one real value per slot, and are serialized in full under either key. This module fills a
ciphertext with as many values as its ring has coefficients, and sends half of a ciphertext under the secret key as a
seed (``benchmarks/encryption.md``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from tenseal import sealapi

from ppml.aggregation.envelope import (
    FINGERPRINT_BYTES,
    HEADER_BYTES,
    SUM_HEADER,
    check_header,
    fingerprint,
    header_of,
)
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import (
    ProtectedUpdate,
    SecretKeyExposed,
    ServerKeyMaterial,
    SingleStep,
    check_scheme,
)
from ppml.aggregation.sandboxed_reader import SEAL_ERRORS, read, read_all
from ppml.aggregation.seal_serialization import deserialize, serialize
from ppml.aggregation.seal_streams import CiphertextFormat, is_secret_key, max_stream_bytes, public_key_format
from ppml.errors import InvalidUpdate

_LENGTH = struct.Struct("<I")


class Encoding(Protocol):
    """The encoding of grid points as polynomials."""

    @property
    def values(self) -> int:
        """Values per ciphertext."""
        ...

    def encode(self, values: Grid) -> sealapi.Plaintext:
        """Return at most :attr:`values` grid points as a polynomial."""
        ...

    def decode(self, plain: sealapi.Plaintext) -> Grid:
        """Return the exact grid points of a decrypted sum, without the error of the decryption."""
        ...

    def format(self) -> CiphertextFormat:
        """Return the format of a fresh ciphertext; ciphertexts of this format can be added."""
        ...


@dataclass(frozen=True)
class Scheme:
    """An encryption scheme, without a key.

    Parameters
    ----------
    name : str
        Name of the scheme in protected updates.
    context : SEALContext
        Encryption parameters, with 128 bits of security.
    encoding : Encoding
        Encoding of values as polynomials.
    """

    name: str
    context: sealapi.SEALContext
    encoding: Encoding

    @cached_property
    def format(self) -> CiphertextFormat:
        """The format of a ciphertext of an update, or of a sum."""
        return self.encoding.format()

    def ciphertext_count(self, length: int) -> int:
        """Return the number of ciphertexts of ``length`` values."""
        return -(-length // self.encoding.values)

    def max_bytes(self, length: int) -> int:
        """Return the largest size in bytes of an update or a sum of ``length`` values."""
        streams = self.ciphertext_count(length) * max_packed_bytes(max(self.format.sizes))
        return 2 * FINGERPRINT_BYTES + HEADER_BYTES + streams

    def plaintexts(self, update: Grid) -> Iterator[sealapi.Plaintext]:
        """Yield the polynomials that encode ``update``."""
        step = self.encoding.values
        for start in range(0, len(update), step):
            yield self.encoding.encode(update[start : start + step])

    def pack(self, key: bytes, length: int, chunks: Iterable[bytes], header: bytes = SUM_HEADER) -> ProtectedUpdate:
        """Return ciphertexts of ``length`` values in their wire format.

        The fingerprint of their key, a checksum and a header precede them.
        """
        parts = [header, *length_prefixed_parts(chunks)]
        # Joined once: an upload may have hundreds of megabytes.
        checksum = fingerprint(key, _LENGTH.pack(length), *parts)
        return ProtectedUpdate(self.name, length, b"".join([key, checksum, *parts]))

    def ciphertexts(self, upload: ProtectedUpdate, key: bytes) -> Iterator[memoryview]:
        """Yield views of the ciphertexts that :meth:`pack` packed.

        A ciphertext with changed bits decrypts without an error, so a checksum protects it from accidents; the
        connection protects it from deliberate changes.

        Raises
        ------
        InvalidUpdate
            The upload is damaged, is under another key than ``key``, or is too long; a long one is not read.
        """
        if not 0 <= upload.length < 1 << 8 * _LENGTH.size:
            raise InvalidUpdate("the upload does not state its number of values")
        if len(upload.payload) > self.max_bytes(upload.length):
            raise InvalidUpdate(
                f"{len(upload.payload)} bytes for {upload.length} values, which take "
                f"{self.max_bytes(upload.length)} at most"
            )
        payload, end = memoryview(upload.payload), 2 * FINGERPRINT_BYTES
        found, checksum, content = payload[:FINGERPRINT_BYTES], payload[FINGERPRINT_BYTES:end], payload[end:]
        if len(content) < HEADER_BYTES or checksum != fingerprint(found, _LENGTH.pack(upload.length), content):
            raise InvalidUpdate("the upload was truncated or altered")
        if found != key:
            raise InvalidUpdate("the upload is under another key than that of this run")
        yield from split_streams(content[HEADER_BYTES:], len(content))


def ciphertext_id(upload: ProtectedUpdate) -> bytes:
    """Return the fingerprint of the key and the checksum of ciphertexts, which is verified before decryption."""
    return upload.payload[: 2 * FINGERPRINT_BYTES]


def seal_context(
    kind: sealapi.SCHEME_TYPE, degree: int, primes: Sequence[int], plain_bits: int | None = None
) -> sealapi.SEALContext:
    """Return the context of a ring with ``degree`` coefficients, modulo primes of the given bit lengths.

    Raises
    ------
    ValueError
        SEAL refuses the parameters, for instance because they have less than 128 bits of security.
    """
    parameters = sealapi.EncryptionParameters(kind)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(degree, list(primes)))
    if plain_bits is not None:
        parameters.set_plain_modulus(sealapi.PlainModulus.Batching(degree, plain_bits))
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ValueError(f"{context.parameters_error_name()}: {context.parameters_error_message()}")
    return context


class KeyPair:
    """A key pair, with the operations that need the secret key.

    Parameters
    ----------
    scheme : Scheme
        The encryption scheme.
    """

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        # SEAL's generator draws from the operating system's entropy.
        generator = sealapi.KeyGenerator(scheme.context)
        public = sealapi.PublicKey()
        generator.create_public_key(public)
        self._secret = generator.secret_key()
        self._decryptor = sealapi.Decryptor(scheme.context, self._secret)
        self.public = serialize(public)
        self.fingerprint = fingerprint(self.public)

    def secret(self) -> bytes:
        """Return the secret key."""
        return serialize(self._secret)

    def decrypt(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points; the raw decryption stays secret.

        Raises
        ------
        InvalidUpdate
            The sum is damaged, or is under another key.
        """
        return decrypt_sum(self._scheme, self._decryptor, total, self.fingerprint)


def decrypt_sum(scheme: Scheme, decryptor: sealapi.Decryptor, total: ProtectedUpdate, key: bytes) -> Grid:
    """Return the grid points of ``total``, or raise :class:`~ppml.errors.InvalidUpdate`."""
    chunks = list(scheme.ciphertexts(total, key))
    _check_count(scheme, total.length, len(chunks))
    parts = [np.zeros(0, dtype=np.int64)]
    for cipher in read_all(sealapi.Ciphertext, scheme.format, chunks):
        plain = sealapi.Plaintext()
        try:
            decryptor.decrypt(cipher, plain)
            parts.append(scheme.encoding.decode(plain))
        except SEAL_ERRORS as error:
            raise InvalidUpdate(f"the sum cannot be decrypted: {error}") from None
    return np.concatenate(parts)[: total.length]


def _check_count(scheme: Scheme, length: int, count: int) -> None:
    if count != scheme.ciphertext_count(length):
        raise InvalidUpdate(f"{count} ciphertexts, expected {scheme.ciphertext_count(length)}")


class KeyHolder(Protocol):
    """The clients' view of the holder of the secret key."""

    def public(self) -> bytes:
        """Return the current public key."""
        ...

    def decrypt(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points."""
        ...


class PublicKeyClients(SingleStep):
    """Clients that encrypt under a public key; no client can decrypt the update of another.

    Parameters
    ----------
    scheme : Scheme
        The encryption scheme.
    holder : KeyHolder
        The party that decrypts sums.
    """

    def __init__(self, scheme: Scheme, holder: KeyHolder) -> None:
        self._scheme = scheme
        self._holder = holder
        self._encryptor: tuple[bytes, sealapi.Encryptor] | None = None

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update``, encrypted."""
        public = self._holder.public()
        key = fingerprint(public)
        if self._encryptor is None or self._encryptor[0] != key:
            deserialize = read(sealapi.PublicKey(), public_key_format(self._scheme.context), public)
            self._encryptor = key, sealapi.Encryptor(self._scheme.context, deserialize)
        chunks = map(self._encrypt, self._scheme.plaintexts(update))
        return self._scheme.pack(key, len(update), chunks, header_of(client, number))

    def _encrypt(self, plain: sealapi.Plaintext) -> bytes:
        assert self._encryptor is not None
        cipher = sealapi.Ciphertext()
        self._encryptor[1].encrypt(plain, cipher)
        return serialize(cipher)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which the key holder decrypts."""
        return self._holder.decrypt(total)


class SharedKeyClients(SingleStep):
    """Clients that share the secret key and encrypt under it, so that a seed replaces half of a ciphertext.

    Parameters
    ----------
    scheme : Scheme
        The encryption scheme.
    key : bytes
        Fingerprint of the key.
    secret : callable
        Returns the secret key. It is called at first use, in the process of the clients.
    """

    def __init__(self, scheme: Scheme, key: bytes, secret: Callable[[], bytes]) -> None:
        self._scheme, self._fingerprint, self._secret = scheme, key, secret

    @cached_property
    def _key(self) -> sealapi.SecretKey:
        return deserialize(sealapi.SecretKey(), self._scheme.context, self._secret())

    @cached_property
    def _encryptor(self) -> sealapi.Encryptor:
        return sealapi.Encryptor(self._scheme.context, self._key)

    @cached_property
    def _decryptor(self) -> sealapi.Decryptor:
        return sealapi.Decryptor(self._scheme.context, self._key)

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update``, encrypted."""
        chunks = (serialize(self._encryptor.encrypt_symmetric(plain)) for plain in self._scheme.plaintexts(update))
        return self._scheme.pack(self._fingerprint, len(update), chunks, header_of(client, number))

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum; each client decrypts it itself."""
        return decrypt_sum(self._scheme, self._decryptor, total, self._fingerprint)


class LatticeServer(SingleStep):
    """The server, which adds ciphertexts without a secret key.

    Parameters
    ----------
    scheme : Scheme
        The encryption scheme.
    material : ServerKeyMaterial
        Access to the public key of the round, which the server verifies not to be a secret key and compares with the
        fingerprints in updates; the server announces sums to it.

    Raises
    ------
    SecretKeyExposed
        The material contains a secret key, or is no public key of this ring.
    """

    def __init__(self, scheme: Scheme, material: ServerKeyMaterial) -> None:
        self._scheme = scheme
        self._material = material
        self._verified_key = b""
        # Checked updates are read again when they are added, then without the sandbox.
        self._checked: set[bytes] = set()
        self._evaluator = sealapi.Evaluator(scheme.context)
        self._key()

    def _key(self) -> bytes:
        """Return the fingerprint of this round's key."""
        material = self._material()
        key = fingerprint(material)
        if key != self._verified_key:
            require_public_key(self._scheme.context, material)
            self._verified_key = key
        return key

    def check(self, upload: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless the upload is of ``client`` and has the right ciphertexts of this ring and key.

        The check cannot distinguish an encryption from a fabricated ciphertext.
        """
        check_scheme(upload, self._scheme.name)
        chunks = list(self._scheme.ciphertexts(upload, self._key()))
        start = 2 * FINGERPRINT_BYTES
        check_header(upload.payload[start : start + HEADER_BYTES], client, number)
        _check_count(self._scheme, upload.length, len(chunks))
        for cipher in read_all(sealapi.Ciphertext, self._scheme.format, chunks):
            _check_not_transparent(cipher)
        self._checked.add(ciphertext_id(upload))

    def add(self, uploads: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the encrypted sum, and announce it to the key holder."""
        key = self._key()
        columns = zip(*(self._scheme.ciphertexts(upload, key) for upload in uploads), strict=True)
        checked = all(ciphertext_id(upload) in self._checked for upload in uploads)
        self._checked.clear()
        chunks = (self._add_column(column, checked) for column in columns)
        total = self._scheme.pack(key, uploads[0].length, chunks)
        self._material.announce(total)
        return total

    def _add_column(self, chunks: Sequence[memoryview], checked: bool) -> bytes:
        ciphers = read_all(sealapi.Ciphertext, self._scheme.format, chunks, checked=checked)
        total = next(ciphers)
        _check_not_transparent(total)
        for other in ciphers:
            _check_not_transparent(other)
            try:
                self._evaluator.add_inplace(total, other)
            except SEAL_ERRORS as error:
                raise InvalidUpdate(f"SEAL cannot add the ciphertexts: {error}") from None
        return serialize(total)


def _check_not_transparent(cipher: sealapi.Ciphertext) -> None:
    if cipher.is_transparent():
        raise InvalidUpdate("a transparent ciphertext, which shows its content")


def require_public_key(context: sealapi.SEALContext, material: bytes) -> None:
    """Raise an error unless ``material`` is exactly one public key of this ring."""
    if is_secret_key(context, material):
        raise SecretKeyExposed("the server's key material contains a secret key")
    try:
        read(sealapi.PublicKey(), public_key_format(context), material)
    except InvalidUpdate as error:
        # Bytes after a readable key could be a secret key.
        raise SecretKeyExposed(f"the server's key material is no public key: {error}") from None


def length_prefixed_parts(chunks: Iterable[bytes]) -> list[bytes]:
    """Return ``chunks``, each after its length."""
    return [part for chunk in chunks for part in (_LENGTH.pack(len(chunk)), chunk)]


def length_prefixed(chunks: Iterable[bytes]) -> bytes:
    """Return the concatenated ``chunks``, each after its length."""
    return b"".join(length_prefixed_parts(chunks))


def split_length_prefixed(payload: memoryview) -> Iterator[memoryview]:
    """Yield the chunks of :func:`length_prefixed`, or raise a ValueError where the payload is truncated."""
    start = 0
    while start < len(payload):
        if len(payload) - start < _LENGTH.size:
            raise ValueError("the payload is truncated within a length")
        (length,) = _LENGTH.unpack_from(payload, start)
        start += _LENGTH.size
        if len(payload) - start < length:
            raise ValueError("the payload is truncated within a ciphertext")
        yield payload[start : start + length]
        start += length


def max_packed_bytes(*sizes: int) -> int:
    """Return the largest size of packed streams whose uncompressed sizes are ``sizes``."""
    return sum(_LENGTH.size + max_stream_bytes(size) for size in sizes)


def split_streams(message: bytes | memoryview, max_bytes: int) -> list[memoryview]:
    """Return the streams in a message of another party.

    Raises
    ------
    InvalidUpdate
        The message has more than ``max_bytes`` bytes, or is truncated.
    """
    if len(message) > max_bytes:
        raise InvalidUpdate(f"a message of {len(message)} bytes, at most {max_bytes} are allowed")
    try:
        return list(split_length_prefixed(memoryview(message)))
    except ValueError as error:
        raise InvalidUpdate(str(error)) from None
