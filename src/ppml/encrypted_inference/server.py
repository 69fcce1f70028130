"""Who has the model and no secret key: predicts from images that it cannot see."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

from tenseal import sealapi

from ppml.aggregation.lattice import split_streams, max_packed_bytes, length_prefixed
from ppml.aggregation.sandboxed_reader import SEAL_ERRORS, read, read_all
from ppml.aggregation.seal_serialization import serialize
from ppml.aggregation.seal_streams import SwitchingKeyFormat, fresh_ciphertext, is_secret_key
from ppml.encrypted_inference.batch import predict_batch
from ppml.encrypted_inference.ckks_parameters import SCALE, CkksEvaluator, Ring
from ppml.encrypted_inference.network import PolynomialNetwork
from ppml.encrypted_inference.packing import Layout
from ppml.encrypted_inference.single_image import SingleImagePredictor
from ppml.errors import InvalidUpdate
from ppml.ipc.process import RpcConnection, start_process

KEYS, BATCH, ONE, SECONDS = b"k", b"b", b"o", b"s"
"""What it may be sent or asked: evaluation keys, many images, one image, for how long it has calculated."""

CPU_SECONDS = struct.Struct("<d")


class InferenceServer:
    """A server with a network.

    Parameters
    ----------
    network : Network
        What it predicts with.
    """

    def __init__(self, network: PolynomialNetwork) -> None:
        self._network = network
        self._arithmetic = CkksEvaluator(Ring(len(network.layers)))
        self._one = SingleImagePredictor(network, self._arithmetic)
        self._fresh = fresh_ciphertext(self._arithmetic.context, ntt=True, scale=SCALE)
        self._relin, self._galois = evaluation_key_shapes(self._arithmetic, self._one.layout)
        self._keys: tuple[sealapi.RelinKeys, sealapi.GaloisKeys] | None = None

    def answer(self, what: bytes, content: bytes) -> bytes:
        """Return the answer to a question; see :class:`~ppml.ipc.process.RequestHandler`.

        Raises
        ------
        InvalidUpdate
            What was sent is damaged, of another ring, not fresh, or holds a secret key. There is no answer then, and
            keys that were taken before stay.
        """
        try:
            if what == KEYS:
                self._keys = self._read_keys(content)
                return b""
            if what == BATCH:
                return length_prefixed(map(serialize, self._predict_batch(content)))
            if what == ONE:
                return length_prefixed([serialize(self._predict_one(content))])
        except InvalidUpdate:
            raise
        except SEAL_ERRORS as error:
            raise InvalidUpdate(f"what cannot be calculated with: {error}") from None
        if what == SECONDS:
            return CPU_SECONDS.pack(time.process_time())
        raise InvalidUpdate(f"a question that is none: {what!r}")

    def _predict_batch(self, content: bytes) -> list[sealapi.Ciphertext]:
        relin, _ = self._evaluation_keys()
        return predict_batch(self._network, self._arithmetic, relin, self._read(content, len(self._network.pixels)))

    def _predict_one(self, content: bytes) -> sealapi.Ciphertext:
        relin, galois = self._evaluation_keys()
        return self._one.predict(list(self._read(content, len(self._one.layout.input_packing.index))), relin, galois)

    def _evaluation_keys(self) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        if self._keys is None:
            raise InvalidUpdate("no evaluation keys were sent")
        return self._keys

    def _read_keys(self, material: bytes) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        """Return the keys for squares and for every rotation; with others SEAL would end the process."""
        context = self._arithmetic.context
        streams = split_streams(material, max_packed_bytes(self._relin.size, self._galois.size))
        if any(is_secret_key(context, stream) for stream in streams):
            raise InvalidUpdate("what was sent to the server holds a secret key")
        if len(streams) != 2:
            raise InvalidUpdate(f"no evaluation keys of this ring: {len(streams)} streams where 2 are needed")
        try:
            relin = read(sealapi.RelinKeys(), self._relin, streams[0])
            return relin, read(sealapi.GaloisKeys(), self._galois, streams[1])
        except InvalidUpdate as error:
            raise InvalidUpdate(f"no evaluation keys of this ring: {error}") from None

    def _read(self, content: bytes, needed: int) -> Iterator[sealapi.Ciphertext]:
        """Yield the ciphertexts of a question, one at a time: a batch has hundreds of megabytes."""
        chunks = split_streams(content, max_packed_bytes(*[max(self._fresh.sizes)] * needed))
        if len(chunks) != needed:
            raise InvalidUpdate(f"{len(chunks)} ciphertexts where {needed} are needed")
        for cipher in read_all(sealapi.Ciphertext, self._fresh, chunks):
            if cipher.is_transparent():
                raise InvalidUpdate("a ciphertext that hides nothing")
            yield cipher


def evaluation_key_shapes(evaluator: CkksEvaluator, layout: Layout) -> tuple[SwitchingKeyFormat, SwitchingKeyFormat]:
    """Return what the keys for squares, and for the rotations of a layout, are like."""
    ring = evaluator.ring
    # SEAL keeps the key for a power of the roots, which is odd, at half of it.
    places = frozenset(ring.power(step) // 2 for step in layout.required_rotations())
    return (
        SwitchingKeyFormat(evaluator.context, 1, frozenset({0})),
        SwitchingKeyFormat(evaluator.context, ring.degree, places),
    )


def start_inference_server(network: PolynomialNetwork) -> tuple[RpcConnection, Callable[[], None]]:
    """Start a server in a process of its own, and return the line to it and what ends it.

    It is forked, and has what there is in memory at this moment: call it before there are images and keys.
    """
    lines, stop = start_process("server", lambda: InferenceServer(network), [frozenset({KEYS, BATCH, ONE, SECONDS})])
    return lines[0], stop
