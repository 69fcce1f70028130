"""Who has the model and no secret key: predicts from images that it cannot see."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

from tenseal import sealapi

from ppml.aggregation.interfaces import BadUpdate
from ppml.aggregation.lattice import cut_up, longest, packed
from ppml.aggregation.sandboxed_reader import FAULTS, read, read_all
from ppml.aggregation.seal_serialization import saved
from ppml.aggregation.seal_streams import SwitchingShape, fresh, is_secret_key
from ppml.encrypted_inference.batch import predict_batch
from ppml.encrypted_inference.ckks_parameters import SCALE, Arithmetic, Ring
from ppml.encrypted_inference.network import Network
from ppml.encrypted_inference.packing import Layout
from ppml.encrypted_inference.single_image import OneImage
from ppml.ipc.process import Line, start_party

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
        self._arithmetic = Arithmetic(Ring(len(network.layers)))
        self._one = OneImage(network, self._arithmetic)
        self._fresh = fresh(self._arithmetic.context, ntt=True, scale=SCALE)
        self._relin, self._galois = key_shapes(self._arithmetic, self._one.layout)
        self._keys: tuple[sealapi.RelinKeys, sealapi.GaloisKeys] | None = None

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the answer to a question; see :class:`~ppml.ipc.process.Party`.

        Raises
        ------
        BadUpdate
            What was sent is damaged, of another ring, not fresh, or holds a secret key. There is no answer then, and
            keys that were taken before stay.
        """
        try:
            if what == KEYS:
                self._keys = self._read_keys(content)
                return b""
            if what == BATCH:
                return packed(map(saved, self._predict_batch(content)))
            if what == ONE:
                return packed([saved(self._predict_one(content))])
        except BadUpdate:
            raise
        except FAULTS as error:
            raise BadUpdate(f"what cannot be calculated with: {error}") from None
        if what == SECONDS:
            return CPU_SECONDS.pack(time.process_time())
        raise BadUpdate(f"a question that is none: {what!r}")

    def _predict_batch(self, content: bytes) -> list[sealapi.Ciphertext]:
        relin, _ = self._evaluation_keys()
        return predict_batch(self._network, self._arithmetic, relin, self._read(content, len(self._network.pixels)))

    def _predict_one(self, content: bytes) -> sealapi.Ciphertext:
        relin, galois = self._evaluation_keys()
        return self._one.predict(list(self._read(content, len(self._one.layout.taps.index))), relin, galois)

    def _evaluation_keys(self) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        if self._keys is None:
            raise BadUpdate("no evaluation keys were sent")
        return self._keys

    def _read_keys(self, material: bytes) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        """Return the keys for squares and for every rotation; with others SEAL would end the process."""
        context = self._arithmetic.context
        streams = cut_up(material, longest(self._relin.size, self._galois.size))
        if any(is_secret_key(context, stream) for stream in streams):
            raise BadUpdate("what was sent to the server holds a secret key")
        if len(streams) != 2:
            raise BadUpdate(f"no evaluation keys of this ring: {len(streams)} streams where 2 are needed")
        try:
            relin = read(sealapi.RelinKeys(), self._relin, streams[0])
            return relin, read(sealapi.GaloisKeys(), self._galois, streams[1])
        except BadUpdate as error:
            raise BadUpdate(f"no evaluation keys of this ring: {error}") from None

    def _read(self, content: bytes, needed: int) -> Iterator[sealapi.Ciphertext]:
        """Yield the ciphertexts of a question, one at a time: a batch has hundreds of megabytes."""
        chunks = cut_up(content, longest(*[max(self._fresh.sizes)] * needed))
        if len(chunks) != needed:
            raise BadUpdate(f"{len(chunks)} ciphertexts where {needed} are needed")
        for cipher in read_all(sealapi.Ciphertext, self._fresh, chunks):
            if cipher.is_transparent():
                raise BadUpdate("a ciphertext that hides nothing")
            yield cipher


def key_shapes(arithmetic: Arithmetic, layout: Layout) -> tuple[SwitchingShape, SwitchingShape]:
    """Return what the keys for squares, and for the rotations of a layout, are like."""
    ring = arithmetic.ring
    # SEAL keeps the key for a power of the roots, which is odd, at half of it.
    places = frozenset(ring.power(step) // 2 for step in layout.rotations())
    return (
        SwitchingShape(arithmetic.context, 1, frozenset({0})),
        SwitchingShape(arithmetic.context, ring.degree, places),
    )


def start_server(network: Network) -> tuple[Line, Callable[[], None]]:
    """Start a server in a process of its own, and return the line to it and what ends it.

    It is forked, and has what there is in memory at this moment: call it before there are images and keys.
    """
    lines, stop = start_party("server", lambda: Server(network), [frozenset({KEYS, BATCH, ONE, SECONDS})])
    return lines[0], stop
