"""What CKKS and BFV have in common: rings, keys, streams and sums of SEAL, through TenSEAL's ``sealapi``.

TenSEAL's own vectors hold one real value a slot and are encrypted under the public key alone. Here a ciphertext is
filled with as many values as its ring has coefficients, and may be encrypted under the secret key, when half of it is a
seed of 64 bytes: together 20 bytes a value become 8, or 4 times less again (``benchmarks/encryption.md``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tenseal import sealapi as seal

from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.protocol import BadUpdate, Sealed, SecretKeyExposed, refuse_scheme

_LENGTH = struct.Struct("<I")
_MARK = 16
"""Bytes that a key is known by, and that tell whether a payload is whole."""
_SIZE = struct.Struct("<8xQ")
"""Where every stream of SEAL says how long it is."""


class Encoding(Protocol):
    """How grid points lie in a ciphertext."""

    @property
    def values(self) -> int:
        """How many values a ciphertext holds."""
        ...

    def encode(self, values: Grid) -> seal.Plaintext:
        """Return at most :attr:`values` grid points as a polynomial."""
        ...

    def decode(self, plain: seal.Plaintext) -> Grid:
        """Return the grid points of a decrypted sum: exact, whatever the decryption adds."""
        ...

    def check(self, cipher: seal.Ciphertext) -> None:
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
    context: seal.SEALContext
    encoding: Encoding

    def sealed(self, key: bytes, length: int, chunks: Iterable[bytes]) -> Sealed:
        """Return ciphertexts of ``length`` values as they travel: the key that they are under, a checksum, and they."""
        content = packed(chunks)
        return Sealed(self.name, length, key + mark_of(key + _LENGTH.pack(length) + content) + content)

    def ciphertexts(self, sealed: Sealed, key: bytes) -> Iterator[bytes]:
        """Yield what :meth:`sealed` packed.

        A ciphertext whose bits were changed opens as well as any, so that it has to be told by a checksum. It is for
        accidents: who changes it on purpose is kept out by the connection.

        Raises
        ------
        BadUpdate
            It is damaged, or under another key than ``key``.
        """
        said, mark, content = sealed.payload[:_MARK], sealed.payload[_MARK : 2 * _MARK], sealed.payload[2 * _MARK :]
        if mark != mark_of(said + _LENGTH.pack(sealed.length) + content):
            raise BadUpdate("it was cut off or altered on the way")
        if said != key:
            raise BadUpdate("it is under another key than that of this run")
        try:
            yield from unpacked(content)
        except ValueError as error:
            raise BadUpdate(str(error)) from None


def ring(kind: seal.SCHEME_TYPE, degree: int, primes: Sequence[int], plain_bits: int | None = None) -> seal.SEALContext:
    """Return a ring of ``degree`` coefficients modulo primes of so many bits each.

    Raises
    ------
    ValueError
        SEAL refuses it, for instance since it has under 128 bits of security.
    """
    parameters = seal.EncryptionParameters(kind)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(degree, list(primes)))
    if plain_bits is not None:
        parameters.set_plain_modulus(seal.PlainModulus.Batching(degree, plain_bits))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ValueError(f"{context.parameters_error_name()}: {context.parameters_error_message()}")
    return context


class LatticeClients:
    """The clients' side: holds the secret key, seals updates, opens sums.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    keys : {"public", "shared"}
        What updates are encrypted under. With the secret key, which all clients share then, half of a ciphertext is
        drawn from a seed, which is sent in its place.
    """

    def __init__(self, scheme: Scheme, keys: str) -> None:
        self._scheme = scheme
        # From the operating system's entropy, by SEAL's own generator.
        generator = seal.KeyGenerator(scheme.context)
        self._secret = generator.secret_key()
        public = seal.PublicKey()
        generator.create_public_key(public)
        self._public = saved(public)
        self._key = mark_of(self._public)
        self._seeded = keys == "shared"
        self._encryptor = seal.Encryptor(scheme.context, self._secret if self._seeded else public)
        self._decryptor = seal.Decryptor(scheme.context, self._secret)

    def public_material(self) -> bytes:
        """Return the public key; the server needs none to add, and checks that it is no secret one."""
        return self._public

    def seal(self, update: Grid) -> Sealed:
        """Return ``update`` encrypted, as many values a ciphertext as fit."""
        step = self._scheme.encoding.values
        chunks = (update[start : start + step] for start in range(0, len(update), step))
        return self._scheme.sealed(self._key, len(update), map(self._encrypt, chunks))

    def _encrypt(self, chunk: Grid) -> bytes:
        plain = self._scheme.encoding.encode(chunk)
        if self._seeded:
            return saved(self._encryptor.encrypt_symmetric(plain))
        cipher = seal.Ciphertext()
        self._encryptor.encrypt(plain, cipher)
        return saved(cipher)

    def unseal(self, total: Sealed) -> Grid:
        """Return the sum as exact grid points: the raw decryption is not shown to anyone.

        Raises
        ------
        BadUpdate
            It is damaged, or under another key.
        """
        parts = [self._decrypt(chunk) for chunk in self._scheme.ciphertexts(total, self._key)]
        return np.concatenate(parts)[: total.length]

    def _decrypt(self, chunk: bytes) -> Grid:
        plain = seal.Plaintext()
        self._decryptor.decrypt(loaded(seal.Ciphertext(), self._scheme.context, chunk), plain)
        return self._scheme.encoding.decode(plain)


class LatticeServer:
    """The server's side: adds ciphertexts, for which it needs no key.

    Parameters
    ----------
    scheme : Scheme
        What is encrypted in.
    public_material : bytes
        From :meth:`LatticeClients.public_material`.

    Raises
    ------
    SecretKeyExposed
        The material is, or holds, a secret key.
    ValueError
        It is no public key of this ring.
    """

    def __init__(self, scheme: Scheme, public_material: bytes) -> None:
        refuse_secret_key(scheme.context, public_material)
        self._scheme = scheme
        self._key = mark_of(public_material)
        self._evaluator = seal.Evaluator(scheme.context)

    def check(self, sealed: Sealed) -> None:
        """Raise an error unless the payload is what its length needs: ciphertexts of this ring, under this key."""
        refuse_scheme(sealed, self._scheme.name)
        chunks = list(self._scheme.ciphertexts(sealed, self._key))
        needed = -(-sealed.length // self._scheme.encoding.values)
        if len(chunks) != needed:
            raise BadUpdate(f"{len(chunks)} ciphertexts where {needed} are needed")
        for chunk in chunks:
            self._read(chunk)

    def add(self, sealed: Sequence[Sealed]) -> Sealed:
        """Return the encrypted sum, ciphertext by ciphertext."""
        columns = zip(*(self._scheme.ciphertexts(one, self._key) for one in sealed), strict=True)
        return self._scheme.sealed(self._key, sealed[0].length, map(self._add_column, columns))

    def _add_column(self, chunks: Sequence[bytes]) -> bytes:
        total = self._read(chunks[0])
        for chunk in chunks[1:]:
            self._evaluator.add_inplace(total, self._read(chunk))
        return saved(total)

    def _read(self, chunk: bytes) -> seal.Ciphertext:
        try:
            cipher = loaded(seal.Ciphertext(), self._scheme.context, chunk)
        except (RuntimeError, ValueError) as error:
            raise BadUpdate(f"no ciphertext under the parameters of this run: {error}") from None
        if cipher.size() != 2 or cipher.parms_id() != self._scheme.context.first_parms_id():
            raise BadUpdate("a ciphertext that is not fresh: it was multiplied, or is of another level")
        if cipher.is_transparent():
            raise BadUpdate("a ciphertext that hides nothing")
        self._scheme.encoding.check(cipher)
        return cipher


def refuse_secret_key(context: seal.SEALContext, material: bytes) -> None:
    """Raise an error unless ``material`` is a public key of this ring, and nothing besides."""
    with contextlib.suppress(RuntimeError, ValueError):
        loaded(seal.SecretKey(), context, material, whole=False)
        raise SecretKeyExposed("the material sent to the server holds a secret key")
    try:
        loaded(seal.PublicKey(), context, material)
    except (RuntimeError, ValueError) as error:
        # What follows a key that can be read may be anything.
        raise SecretKeyExposed(f"the material sent to the server is no public key: {error}") from None


def mark_of(content: bytes) -> bytes:
    """Return what ``content`` is known by."""
    return hashlib.blake2b(content, digest_size=_MARK).digest()


def saved(one: Any) -> bytes:
    """Return what SEAL writes of a key or ciphertext; it writes to files only, here to one in memory."""
    with _file() as (number, path):
        one.save(path)
        return os.pread(number, os.fstat(number).st_size, 0)


def loaded(one: Any, context: seal.SEALContext, stream: bytes, *, whole: bool = True) -> Any:
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
    if hasattr(os, "memfd_create"):
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


def packed(chunks: Iterable[bytes]) -> bytes:
    """Return ``chunks`` one after the other, each with its length before it."""
    return b"".join(_LENGTH.pack(len(chunk)) + chunk for chunk in chunks)


def unpacked(payload: bytes) -> Iterator[bytes]:
    """Yield what :func:`packed` packed, or raise a ValueError where the payload is cut off."""
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
