"""What CKKS and BFV have in common: rings, keys, streams and sums of SEAL, through TenSEAL's ``sealapi``.

TenSEAL's own vectors hold one real value a slot, and are sent whole under either key. Here a ciphertext is filled with
as many values as its ring has coefficients, and half of one under the secret key is sent as a seed
(``benchmarks/encryption.md``).
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tenseal import sealapi

from ppml.aggregation.checksum import MARK, OF_ALL, ORIGIN, mark_of, origin_of, refuse_origin
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.protocol import (
    BadUpdate,
    PublicMaterial,
    Sealed,
    SecretKeyExposed,
    WithoutSteps,
    refuse_scheme,
)

_LENGTH = struct.Struct("<I")
_SIZE = struct.Struct("<8xQ")
"""Where every stream of SEAL says how long it is."""


FILES_IN_MEMORY = hasattr(os, "memfd_create")
"""Whether what SEAL writes stays off the disk; elsewhere ciphertexts and public keys pass through temporary files."""


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

    def check(self, cipher: sealapi.Ciphertext) -> None:
        """Raise :class:`BadUpdate` where ``cipher`` would not add to others."""
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

    def plains(self, update: Grid) -> Iterator[sealapi.Plaintext]:
        """Yield ``update`` as polynomials, as many values each as fit."""
        step = self.encoding.values
        for start in range(0, len(update), step):
            yield self.encoding.encode(update[start : start + step])

    def sealed(self, key: bytes, length: int, chunks: Iterable[bytes], origin: bytes = OF_ALL) -> Sealed:
        """Return ciphertexts of ``length`` values as they travel.

        Before them are the key that they are under, a checksum, and of whom they are.
        """
        parts = [origin, *with_lengths(chunks)]
        # Joined once: an upload may have hundreds of megabytes.
        return Sealed(self.name, length, b"".join([key, mark_of(key, _LENGTH.pack(length), *parts), *parts]))

    def ciphertexts(self, sealed: Sealed, key: bytes) -> Iterator[memoryview]:
        """Yield what :meth:`sealed` packed, where it lies.

        A ciphertext whose bits were changed opens as well as any, so that it has to be told by a checksum. It is for
        accidents: who changes it on purpose is kept out by the connection.

        Raises
        ------
        BadUpdate
            It is damaged, or under another key than ``key``.
        """
        whole = memoryview(sealed.payload)
        said, mark, content = whole[:MARK], whole[MARK : 2 * MARK], whole[2 * MARK :]
        if len(content) < ORIGIN or mark != mark_of(said, _LENGTH.pack(sealed.length), content):
            raise BadUpdate("it was cut off or altered on the way")
        if said != key:
            raise BadUpdate("it is under another key than that of this run")
        try:
            yield from unpacked(content[ORIGIN:])
        except ValueError as error:
            raise BadUpdate(str(error)) from None


def name_of(sealed: Sealed) -> bytes:
    """Return what ciphertexts are known by: their key and their checksum, which is looked at before they are opened."""
    return sealed.payload[: 2 * MARK]


def ring(
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


class Keys:
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
        self.public = saved(public)
        self.mark = mark_of(self.public)

    def secret(self) -> bytes:
        """Return the secret key."""
        return saved(self._secret)

    def open(self, total: Sealed) -> Grid:
        """Return a sum as exact grid points: the raw decryption is not shown to anyone.

        Raises
        ------
        BadUpdate
            It is damaged, or under another key.
        """
        return opened(self._scheme, self._decryptor, total, self.mark)


def opened(scheme: Scheme, decryptor: sealapi.Decryptor, total: Sealed, mark: bytes) -> Grid:
    """Return what is in ``total``, on the grid."""
    parts = []
    for chunk in scheme.ciphertexts(total, mark):
        plain = sealapi.Plaintext()
        decryptor.decrypt(loaded(sealapi.Ciphertext(), scheme.context, chunk), plain)
        parts.append(scheme.encoding.decode(plain))
    return np.concatenate(parts)[: total.length]


class Holder(Protocol):
    """Whoever has the secret key, seen by the clients."""

    def public(self) -> bytes:
        """Return the public key that updates are to be encrypted under now."""
        ...

    def open(self, total: Sealed) -> Grid:
        """Return a sum as exact grid points."""
        ...


class PublicKeyClients(WithoutSteps):
    """Clients that encrypt under a public key: none of them can open what another has sealed.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    holder : Holder
        Opens sums.
    """

    def __init__(self, scheme: Scheme, holder: Holder) -> None:
        self._scheme = scheme
        self._holder = holder
        self._under: tuple[bytes, sealapi.Encryptor] | None = None

    def seal(self, update: Grid, client: int = 0, number: int = 0) -> Sealed:
        """Return ``update`` encrypted, as many values a ciphertext as fit."""
        public = self._holder.public()
        mark = mark_of(public)
        if self._under is None or self._under[0] != mark:
            key = loaded(sealapi.PublicKey(), self._scheme.context, public)
            self._under = mark, sealapi.Encryptor(self._scheme.context, key)
        chunks = map(self._encrypt, self._scheme.plains(update))
        return self._scheme.sealed(mark, len(update), chunks, origin_of(client, number))

    def _encrypt(self, plain: sealapi.Plaintext) -> bytes:
        assert self._under is not None
        cipher = sealapi.Ciphertext()
        self._under[1].encrypt(plain, cipher)
        return saved(cipher)

    def unseal(self, total: Sealed) -> Grid:
        """Return the sum, which the key holder opens."""
        return self._holder.open(total)


class SharedKeyClients(WithoutSteps):
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
        return loaded(sealapi.SecretKey(), self._scheme.context, self._secret())

    @cached_property
    def _encryptor(self) -> sealapi.Encryptor:
        return sealapi.Encryptor(self._scheme.context, self._key)

    @cached_property
    def _decryptor(self) -> sealapi.Decryptor:
        return sealapi.Decryptor(self._scheme.context, self._key)

    def seal(self, update: Grid, client: int = 0, number: int = 0) -> Sealed:
        """Return ``update`` encrypted, as many values a ciphertext as fit."""
        chunks = (saved(self._encryptor.encrypt_symmetric(plain)) for plain in self._scheme.plains(update))
        return self._scheme.sealed(self._mark, len(update), chunks, origin_of(client, number))

    def unseal(self, total: Sealed) -> Grid:
        """Return the sum, which each client opens for itself."""
        return opened(self._scheme, self._decryptor, total, self._mark)


class LatticeServer(WithoutSteps):
    """The server's side: adds ciphertexts, for which it needs no key.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    material : PublicMaterial
        Gives the public key of the round, which the server looks at to know that it is no secret one, and what updates
        of this round say that they are under; is told which ciphertexts are a sum.

    Raises
    ------
    SecretKeyExposed
        The material is, or holds, a secret key, or is no public key of this ring.
    """

    def __init__(self, scheme: Scheme, material: PublicMaterial) -> None:
        self._scheme = scheme
        self._material = material
        self._seen = b""
        self._evaluator = sealapi.Evaluator(scheme.context)
        self._key()

    def _key(self) -> bytes:
        """Return what the key of this round is known by."""
        material = self._material()
        mark = mark_of(material)
        if mark != self._seen:
            refuse_secret_key(self._scheme.context, material)
            self._seen = mark
        return mark

    def check(self, sealed: Sealed, client: int = 0, number: int = 0) -> None:
        """Raise an error unless it is of ``client``, and has what its length needs: ciphertexts of this ring and key.

        That they were encrypted, and not made up, cannot be told.
        """
        refuse_scheme(sealed, self._scheme.name)
        chunks = list(self._scheme.ciphertexts(sealed, self._key()))
        refuse_origin(sealed.payload[2 * MARK : 2 * MARK + ORIGIN], client, number)
        needed = -(-sealed.length // self._scheme.encoding.values)
        if len(chunks) != needed:
            raise BadUpdate(f"{len(chunks)} ciphertexts where {needed} are needed")
        for chunk in chunks:
            self._read(chunk)

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the encrypted sum, ciphertext by ciphertext."""
        key = self._key()
        columns = zip(*(self._scheme.ciphertexts(one, key) for one in sealed), strict=True)
        total = self._scheme.sealed(key, sealed[0].length, map(self._add_column, columns))
        self._material.announce(total)
        return total

    def _add_column(self, chunks: Sequence[memoryview]) -> bytes:
        total = self._read(chunks[0])
        for chunk in chunks[1:]:
            self._evaluator.add_inplace(total, self._read(chunk))
        return saved(total)

    def _read(self, chunk: memoryview) -> sealapi.Ciphertext:
        try:
            cipher = loaded(sealapi.Ciphertext(), self._scheme.context, chunk)
        except (RuntimeError, ValueError) as error:
            raise BadUpdate(f"no ciphertext under the parameters of this run: {error}") from None
        if cipher.size() != 2 or cipher.parms_id() != self._scheme.context.first_parms_id():
            raise BadUpdate("a ciphertext that is not fresh: it was multiplied, or is of another level")
        if cipher.is_transparent():
            raise BadUpdate("a ciphertext that hides nothing")
        self._scheme.encoding.check(cipher)
        return cipher


def refuse_secret_key(context: sealapi.SEALContext, material: bytes) -> None:
    """Raise an error unless ``material`` is a public key of this ring, and nothing besides."""
    try:
        loaded(sealapi.SecretKey(), context, material, whole=False)
    except (RuntimeError, ValueError):
        pass
    else:
        raise SecretKeyExposed("the material sent to the server holds a secret key")
    try:
        loaded(sealapi.PublicKey(), context, material)
    except (RuntimeError, ValueError) as error:
        # What follows a key that can be read may be anything.
        raise SecretKeyExposed(f"the material sent to the server is no public key: {error}") from None


def saved(one: Any) -> bytes:
    """Return what SEAL writes of a key or ciphertext; it writes to files only, here to one in memory if there are."""
    with _file() as (number, path):
        one.save(path)
        return os.pread(number, os.fstat(number).st_size, 0)


def loaded(one: Any, context: sealapi.SEALContext, stream: bytes | memoryview, *, whole: bool = True) -> Any:
    """Let SEAL read ``stream`` into ``one``, a new key or ciphertext, and return it.

    Raises
    ------
    RuntimeError, ValueError
        It is cut off or longer than it says, or not of this ring.
    """
    if whole and (len(stream) < _SIZE.size or _SIZE.unpack_from(stream)[0] != len(stream)):
        raise ValueError("it is not as long as it says")
    with _file() as (number, path):
        os.pwrite(number, stream, 0)
        one.load(context, path)
    return one


@contextlib.contextmanager
def _file() -> Iterator[tuple[int, str]]:
    if FILES_IN_MEMORY:
        number = os.memfd_create("ppml")
        path, leave = f"/proc/self/fd/{number}", None
    else:
        number, path = leave = tempfile.mkstemp()
    try:
        yield number, path
    finally:
        os.close(number)
        if leave:
            Path(path).unlink()


def with_lengths(chunks: Iterable[bytes]) -> list[bytes]:
    """Return ``chunks`` with the length of each before it."""
    return [part for chunk in chunks for part in (_LENGTH.pack(len(chunk)), chunk)]


def packed(chunks: Iterable[bytes]) -> bytes:
    """Return ``chunks`` as one payload."""
    return b"".join(with_lengths(chunks))


def unpacked(payload: memoryview) -> Iterator[memoryview]:
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
