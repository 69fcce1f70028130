"""What CKKS and BFV have in common: rings, keys, streams and sums of SEAL, through TenSEAL's ``sealapi``.

TenSEAL's own vectors hold one real value a slot, and are sent whole under either key. Here a ciphertext is filled with
as many values as its ring has coefficients, and half of one under the secret key is sent as a seed
(``benchmarks/encryption.md``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from tenseal import sealapi

from ppml.aggregation.envelope import FINGERPRINT_BYTES, SUM_HEADER, HEADER_BYTES, fingerprint, header_of, check_header
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import ServerKeyMaterial, ProtectedUpdate, SecretKeyExposed, SingleStep, check_scheme
from ppml.aggregation.sandboxed_reader import SEAL_ERRORS, read, read_all
from ppml.aggregation.seal_serialization import deserialize, serialize
from ppml.aggregation.seal_streams import CiphertextFormat, is_secret_key, max_stream_bytes, public_key_format
from ppml.errors import InvalidUpdate

_LENGTH = struct.Struct("<I")


class Encoding(Protocol):
    """How grid points lie in a ciphertext."""

    @property
    def values(self) -> int:
        """How many values a ciphertext holds."""
        ...

    def encode(self, values: Grid) -> sealapi.Plaintext:
        """Return at most :attr:`values` grid points as a polynomial."""
        ...

    def decode(self, plain: sealapi.Plaintext) -> Grid:
        """Return the grid points of a decrypted sum: exact, whatever the decryption adds."""
        ...

    def shape(self) -> CiphertextFormat:
        """Return what a fresh ciphertext is like: all such add."""
        ...


@dataclass(frozen=True)
class Scheme:
    """One way of encrypting, without a key.

    Parameters
    ----------
    name : str
        What sealed updates say.
    context : SEALContext
        The ring, checked to give 128 bits of security.
    encoding : Encoding
        How values lie in it.
    """

    name: str
    context: sealapi.SEALContext
    encoding: Encoding

    @cached_property
    def shape(self) -> CiphertextFormat:
        """What a ciphertext of an update, or of a sum, is like."""
        return self.encoding.shape()

    def needed(self, length: int) -> int:
        """Return how many ciphertexts ``length`` values take."""
        return -(-length // self.encoding.values)

    def max_bytes(self, length: int) -> int:
        """Return how many bytes an update or a sum of ``length`` values takes at most."""
        return 2 * FINGERPRINT_BYTES + HEADER_BYTES + self.needed(length) * max_packed_bytes(max(self.shape.sizes))

    def plains(self, update: Grid) -> Iterator[sealapi.Plaintext]:
        """Yield ``update`` as polynomials, as many values each as fit."""
        step = self.encoding.values
        for start in range(0, len(update), step):
            yield self.encoding.encode(update[start : start + step])

    def sealed(self, key: bytes, length: int, chunks: Iterable[bytes], origin: bytes = SUM_HEADER) -> ProtectedUpdate:
        """Return ciphertexts of ``length`` values as they travel.

        Before them are the key that they are under, a checksum, and of whom they are.
        """
        parts = [origin, *length_prefixed_parts(chunks)]
        # Joined once: an upload may have hundreds of megabytes.
        return ProtectedUpdate(self.name, length, b"".join([key, fingerprint(key, _LENGTH.pack(length), *parts), *parts]))

    def ciphertexts(self, sealed: ProtectedUpdate, key: bytes) -> Iterator[memoryview]:
        """Yield what :meth:`sealed` packed, where it lies.

        A ciphertext whose bits were changed opens as well as any, so that it has to be told by a checksum. It is for
        accidents: who changes it on purpose is kept out by the connection.

        Raises
        ------
        InvalidUpdate
            It is damaged, or under another key than ``key``, or longer than any of its length: then it is not read.
        """
        if not 0 <= sealed.length < 1 << 8 * _LENGTH.size:
            raise InvalidUpdate("it does not say how many values it has")
        if len(sealed.payload) > self.max_bytes(sealed.length):
            raise InvalidUpdate(
                f"{len(sealed.payload)} bytes for {sealed.length} values, which take "
                f"{self.max_bytes(sealed.length)} at most"
            )
        whole = memoryview(sealed.payload)
        said, mark, content = whole[:FINGERPRINT_BYTES], whole[FINGERPRINT_BYTES : 2 * FINGERPRINT_BYTES], whole[2 * FINGERPRINT_BYTES :]
        if len(content) < HEADER_BYTES or mark != fingerprint(said, _LENGTH.pack(sealed.length), content):
            raise InvalidUpdate("it was cut off or altered on the way")
        if said != key:
            raise InvalidUpdate("it is under another key than that of this run")
        yield from split_streams(content[HEADER_BYTES:], len(content))


def ciphertext_id(sealed: ProtectedUpdate) -> bytes:
    """Return what ciphertexts are known by: their key and their checksum, which is looked at before they are opened."""
    return sealed.payload[: 2 * FINGERPRINT_BYTES]


def seal_context(
    kind: sealapi.SCHEME_TYPE, degree: int, primes: Sequence[int], plain_bits: int | None = None
) -> sealapi.SEALContext:
    """Return a ring of ``degree`` coefficients modulo primes of so many bits each.

    Raises
    ------
    ValueError
        SEAL refuses it, for instance since it has under 128 bits of security.
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
    """A key pair, and what only its holder does.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    """

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        # From the operating system's entropy, by SEAL's own generator.
        generator = sealapi.KeyGenerator(scheme.context)
        public = sealapi.PublicKey()
        generator.create_public_key(public)
        self._secret = generator.secret_key()
        self._decryptor = sealapi.Decryptor(scheme.context, self._secret)
        self.public = serialize(public)
        self.mark = fingerprint(self.public)

    def secret(self) -> bytes:
        """Return the secret key."""
        return serialize(self._secret)

    def open(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points: the raw decryption is not shown to anyone.

        Raises
        ------
        InvalidUpdate
            It is damaged, or under another key.
        """
        return decrypt_sum(self._scheme, self._decryptor, total, self.mark)


def decrypt_sum(scheme: Scheme, decryptor: sealapi.Decryptor, total: ProtectedUpdate, mark: bytes) -> Grid:
    """Return what is in ``total``, on the grid; what cannot be opened raises :class:`InvalidUpdate`."""
    chunks = list(scheme.ciphertexts(total, mark))
    _check_count(scheme, total.length, len(chunks))
    parts = [np.zeros(0, dtype=np.int64)]
    for cipher in read_all(sealapi.Ciphertext, scheme.shape, chunks):
        plain = sealapi.Plaintext()
        try:
            decryptor.decrypt(cipher, plain)
            parts.append(scheme.encoding.decode(plain))
        except SEAL_ERRORS as error:
            raise InvalidUpdate(f"it cannot be opened: {error}") from None
    return np.concatenate(parts)[: total.length]


def _check_count(scheme: Scheme, length: int, count: int) -> None:
    if count != scheme.needed(length):
        raise InvalidUpdate(f"{count} ciphertexts where {scheme.needed(length)} are needed")


class KeyHolder(Protocol):
    """Whoever has the secret key, seen by the clients."""

    def public(self) -> bytes:
        """Return the public key that updates are to be encrypted under now."""
        ...

    def open(self, total: ProtectedUpdate) -> Grid:
        """Return a sum as exact grid points."""
        ...


class PublicKeyClients(SingleStep):
    """Clients that encrypt under a public key: none of them can open what another has sealed.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    holder : Holder
        Opens sums.
    """

    def __init__(self, scheme: Scheme, holder: KeyHolder) -> None:
        self._scheme = scheme
        self._holder = holder
        self._under: tuple[bytes, sealapi.Encryptor] | None = None

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update`` encrypted, as many values a ciphertext as fit."""
        public = self._holder.public()
        mark = fingerprint(public)
        if self._under is None or self._under[0] != mark:
            key = read(sealapi.PublicKey(), public_key_format(self._scheme.context), public)
            self._under = mark, sealapi.Encryptor(self._scheme.context, key)
        chunks = map(self._encrypt, self._scheme.plains(update))
        return self._scheme.sealed(mark, len(update), chunks, header_of(client, number))

    def _encrypt(self, plain: sealapi.Plaintext) -> bytes:
        assert self._under is not None
        cipher = sealapi.Ciphertext()
        self._under[1].encrypt(plain, cipher)
        return serialize(cipher)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which the key holder opens."""
        return self._holder.open(total)


class SharedKeyClients(SingleStep):
    """Clients that all have the secret key, and encrypt under it: half of a ciphertext is a seed then.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    mark : bytes
        What the key is known by.
    secret : callable
        Returns the key. It is called where the clients first need it, in the process that they live in then.
    """

    def __init__(self, scheme: Scheme, mark: bytes, secret: Callable[[], bytes]) -> None:
        self._scheme, self._mark, self._secret = scheme, mark, secret

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
        """Return ``update`` encrypted, as many values a ciphertext as fit."""
        chunks = (serialize(self._encryptor.encrypt_symmetric(plain)) for plain in self._scheme.plains(update))
        return self._scheme.sealed(self._mark, len(update), chunks, header_of(client, number))

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum, which each client opens for itself."""
        return decrypt_sum(self._scheme, self._decryptor, total, self._mark)


class LatticeServer(SingleStep):
    """The server's side: adds ciphertexts, for which it needs no key.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    material : ServerKeyMaterial
        Gives the public key of the round, which the server looks at to know that it is no secret one, and what updates
        of this round say that they are under; is told which ciphertexts are a sum.

    Raises
    ------
    SecretKeyExposed
        The material is, or holds, a secret key, or is no public key of this ring.
    """

    def __init__(self, scheme: Scheme, material: ServerKeyMaterial) -> None:
        self._scheme = scheme
        self._material = material
        self._seen = b""
        # What updates are known by that were read: they are read again where they are added.
        self._read_before: set[bytes] = set()
        self._evaluator = sealapi.Evaluator(scheme.context)
        self._key()

    def _key(self) -> bytes:
        """Return what the key of this round is known by."""
        material = self._material()
        mark = fingerprint(material)
        if mark != self._seen:
            require_public_key(self._scheme.context, material)
            self._seen = mark
        return mark

    def check(self, sealed: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise an error unless it is of ``client``, and has what its length needs: ciphertexts of this ring and key.

        That they were encrypted, and not made up, cannot be told.
        """
        check_scheme(sealed, self._scheme.name)
        chunks = list(self._scheme.ciphertexts(sealed, self._key()))
        check_header(sealed.payload[2 * FINGERPRINT_BYTES : 2 * FINGERPRINT_BYTES + HEADER_BYTES], client, number)
        _check_count(self._scheme, sealed.length, len(chunks))
        for cipher in read_all(sealapi.Ciphertext, self._scheme.shape, chunks):
            _check_not_transparent(cipher)
        self._read_before.add(ciphertext_id(sealed))

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the encrypted sum, ciphertext by ciphertext."""
        key = self._key()
        columns = zip(*(self._scheme.ciphertexts(one, key) for one in sealed), strict=True)
        again = all(ciphertext_id(one) in self._read_before for one in sealed)
        self._read_before.clear()
        chunks = (self._add_column(column, again) for column in columns)
        total = self._scheme.sealed(key, sealed[0].length, chunks)
        self._material.announce(total)
        return total

    def _add_column(self, chunks: Sequence[memoryview], again: bool) -> bytes:
        each = read_all(sealapi.Ciphertext, self._scheme.shape, chunks, again=again)
        total = next(each)
        _check_not_transparent(total)
        for other in each:
            _check_not_transparent(other)
            try:
                self._evaluator.add_inplace(total, other)
            except SEAL_ERRORS as error:
                raise InvalidUpdate(f"SEAL cannot add them: {error}") from None
        return serialize(total)


def _check_not_transparent(cipher: sealapi.Ciphertext) -> None:
    if cipher.is_transparent():
        raise InvalidUpdate("a ciphertext that hides nothing")


def require_public_key(context: sealapi.SEALContext, material: bytes) -> None:
    """Raise an error unless ``material`` is a public key of this ring, and nothing besides."""
    if is_secret_key(context, material):
        raise SecretKeyExposed("the material sent to the server holds a secret key")
    try:
        read(sealapi.PublicKey(), public_key_format(context), material)
    except InvalidUpdate as error:
        # What follows a key that can be read may be anything.
        raise SecretKeyExposed(f"the material sent to the server is no public key: {error}") from None


def length_prefixed_parts(chunks: Iterable[bytes]) -> list[bytes]:
    """Return ``chunks`` with the length of each before it."""
    return [part for chunk in chunks for part in (_LENGTH.pack(len(chunk)), chunk)]


def length_prefixed(chunks: Iterable[bytes]) -> bytes:
    """Return ``chunks`` as one payload."""
    return b"".join(length_prefixed_parts(chunks))


def split_length_prefixed(payload: memoryview) -> Iterator[memoryview]:
    """Yield what has its length before it, or raise a ValueError where the payload is cut off."""
    place = 0
    while place < len(payload):
        if len(payload) - place < _LENGTH.size:
            raise ValueError("the payload is cut off within a length")
        (length,) = _LENGTH.unpack_from(payload, place)
        place += _LENGTH.size
        if len(payload) - place < length:
            raise ValueError("the payload is cut off within a ciphertext")
        yield payload[place : place + length]
        place += length


def max_packed_bytes(*sizes: int) -> int:
    """Return the most bytes that streams which take ``sizes`` uncompressed are packed in."""
    return sum(_LENGTH.size + max_stream_bytes(size) for size in sizes)


def split_streams(message: bytes | memoryview, most: int) -> list[memoryview]:
    """Return the streams in a message of somebody else, of at most ``most`` bytes.

    Raises
    ------
    InvalidUpdate
        It is longer, or cut off.
    """
    if len(message) > most:
        raise InvalidUpdate(f"a message of {len(message)} bytes, where {most} are enough")
    try:
        return list(split_length_prefixed(memoryview(message)))
    except ValueError as error:
        raise InvalidUpdate(str(error)) from None
