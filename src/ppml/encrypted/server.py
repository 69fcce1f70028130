"""Who has the model and no secret key: predicts from images that it cannot see."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

from tenseal import sealapi

from ppml.aggregation.lattice import loaded, packed, saved, unpacked
from ppml.aggregation.party import Line, start_party
from ppml.aggregation.protocol import BadUpdate, SecretKeyExposed
from ppml.encrypted.batch import predict_batch
from ppml.encrypted.network import Network
from ppml.encrypted.ring import SCALE, Arithmetic, Depth
from ppml.encrypted.single import OneImage

KEYS, BATCH, ONE, SECONDS = b"k", b"b", b"o", b"s"
"""What it may be sent or asked: evaluation keys, many images, one image, for how long it has calculated."""

CPU_SECONDS = struct.Struct("<d")


class Server:
    """A server with a network.

    Parameters
    ----------
    network : Network
        What it predicts with.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._arithmetic = Arithmetic(Depth(len(network.layers)))
        self._one = OneImage(network, self._arithmetic)
        self._relin: sealapi.RelinKeys | None = None
        self._galois: sealapi.GaloisKeys | None = None

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the answer to a question; see :class:`~ppml.aggregation.party.Party`.

        Raises
        ------
        BadUpdate
            What was sent is damaged, of another ring, not fresh, or holds a secret key; nothing is calculated then.
        """
        match what:
            case b"k":
                self._take_keys(content)
                return b""
            case b"b":
                relin, _ = self._keys()
                pixels = self._read(content, len(self._network.pixels))
                return packed(map(saved, predict_batch(self._network, self._arithmetic, relin, pixels)))
            case b"o":
                ciphers = list(self._read(content, len(self._one.layout.taps.index)))
                return packed([saved(self._one.predict(ciphers, *self._keys()))])
            case _:
                return CPU_SECONDS.pack(time.process_time())

    def _keys(self) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        if self._relin is None or self._galois is None:
            raise BadUpdate("no evaluation keys were sent")
        return self._relin, self._galois

    def _take_keys(self, material: bytes) -> None:
        context = self._arithmetic.context
        try:
            streams = list(unpacked(memoryview(material)))
        except ValueError as error:
            raise BadUpdate(f"no evaluation keys: {error}") from None
        for stream in streams:
            refuse_secret_key(context, stream)
        try:
            relin, galois = streams
            self._relin = loaded(sealapi.RelinKeys(), context, relin)
            self._galois = loaded(sealapi.GaloisKeys(), context, galois)
        except (RuntimeError, ValueError) as error:
            raise BadUpdate(f"no evaluation keys of this ring: {error}") from None

    def _read(self, content: bytes, needed: int) -> Iterator[sealapi.Ciphertext]:
        """Yield the ciphertexts of a question, one at a time: a batch has hundreds of megabytes."""
        try:
            chunks = list(unpacked(memoryview(content)))
        except ValueError as error:
            raise BadUpdate(str(error)) from None
        if len(chunks) != needed:
            raise BadUpdate(f"{len(chunks)} ciphertexts where {needed} are needed")
        for chunk in chunks:
            yield self._fresh(chunk)

    def _fresh(self, chunk: memoryview) -> sealapi.Ciphertext:
        context = self._arithmetic.context
        try:
            cipher = loaded(sealapi.Ciphertext(), context, chunk)
        except (RuntimeError, ValueError) as error:
            raise BadUpdate(f"no ciphertext of this ring: {error}") from None
        if cipher.size() != 2 or cipher.parms_id() != context.first_parms_id() or cipher.scale != SCALE:
            raise BadUpdate("a ciphertext that is not fresh, or at another scale")
        return cipher


def refuse_secret_key(context: sealapi.SEALContext, stream: memoryview) -> None:
    """Raise an error where ``stream`` is a secret key of this ring."""
    try:
        loaded(sealapi.SecretKey(), context, stream, whole=False)
    except (RuntimeError, ValueError):
        return
    raise SecretKeyExposed("what was sent to the server holds a secret key")


def start_server(network: Network) -> tuple[Line, Callable[[], None]]:
    """Start a server in a process of its own, and return the line to it and what ends it.

    It is forked before there is a key, and what it is sent is all that it gets.
    """
    lines, stop = start_party("server", lambda: Server(network), [frozenset({KEYS, BATCH, ONE, SECONDS})])
    return lines[0], stop
