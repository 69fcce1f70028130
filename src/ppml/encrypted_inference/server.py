"""The inference server: predicts on encrypted images, with the model and without a secret key."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

from tenseal import sealapi

from ppml.aggregation.lattice import length_prefixed, max_packed_bytes, split_streams
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
"""Request codes: evaluation keys, a batch of images, a single image, CPU seconds."""

CPU_SECONDS = struct.Struct("<d")


class InferenceServer:
    """A server with a polynomial network.

    Parameters
    ----------
    network : PolynomialNetwork
        The model.
    """

    def __init__(self, network: PolynomialNetwork) -> None:
        self._network = network
        self._evaluator = CkksEvaluator(Ring(len(network.layers)))
        self._single = SingleImagePredictor(network, self._evaluator)
        self._fresh = fresh_ciphertext(self._evaluator.context, ntt=True, scale=SCALE)
        self._relin, self._galois = evaluation_key_formats(self._evaluator, self._single.layout)
        self._keys: tuple[sealapi.RelinKeys, sealapi.GaloisKeys] | None = None

    def answer(self, code: bytes, content: bytes) -> bytes:
        """Return the answer to a request; see :class:`~ppml.ipc.process.RequestHandler`.

        Raises
        ------
        InvalidUpdate
            The request is damaged, from another ring, not freshly encrypted, or contains a secret key. Earlier keys
            stay valid.
        """
        try:
            if code == KEYS:
                self._keys = self._read_keys(content)
                return b""
            if code == BATCH:
                return length_prefixed(map(serialize, self._predict_batch(content)))
            if code == ONE:
                return length_prefixed([serialize(self._predict_one(content))])
        except InvalidUpdate:
            raise
        except SEAL_ERRORS as error:
            raise InvalidUpdate(f"invalid request: {error}") from None
        if code == SECONDS:
            return CPU_SECONDS.pack(time.process_time())
        raise InvalidUpdate(f"unknown request code: {code!r}")

    def _predict_batch(self, content: bytes) -> list[sealapi.Ciphertext]:
        relin, _ = self._evaluation_keys()
        return predict_batch(self._network, self._evaluator, relin, self._read(content, len(self._network.pixels)))

    def _predict_one(self, content: bytes) -> sealapi.Ciphertext:
        relin, galois = self._evaluation_keys()
        return self._single.predict(
            list(self._read(content, len(self._single.layout.input_packing.index))), relin, galois
        )

    def _evaluation_keys(self) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        if self._keys is None:
            raise InvalidUpdate("evaluation keys are missing")
        return self._keys

    def _read_keys(self, material: bytes) -> tuple[sealapi.RelinKeys, sealapi.GaloisKeys]:
        """Return the keys for squares and for all rotations; with missing keys SEAL would end the process."""
        context = self._evaluator.context
        streams = split_streams(material, max_packed_bytes(self._relin.size, self._galois.size))
        if any(is_secret_key(context, stream) for stream in streams):
            raise InvalidUpdate("the request contains a secret key")
        if len(streams) != 2:
            raise InvalidUpdate(f"invalid evaluation keys: {len(streams)} streams instead of 2")
        try:
            relin = read(sealapi.RelinKeys(), self._relin, streams[0])
            return relin, read(sealapi.GaloisKeys(), self._galois, streams[1])
        except InvalidUpdate as error:
            raise InvalidUpdate(f"invalid evaluation keys: {error}") from None

    def _read(self, content: bytes, needed: int) -> Iterator[sealapi.Ciphertext]:
        """Yield the ciphertexts of a request one at a time: a batch has hundreds of megabytes."""
        chunks = split_streams(content, max_packed_bytes(*[max(self._fresh.sizes)] * needed))
        if len(chunks) != needed:
            raise InvalidUpdate(f"{len(chunks)} ciphertexts instead of {needed}")
        for cipher in read_all(sealapi.Ciphertext, self._fresh, chunks):
            if cipher.is_transparent():
                raise InvalidUpdate("a transparent ciphertext")
            yield cipher


def evaluation_key_formats(evaluator: CkksEvaluator, layout: Layout) -> tuple[SwitchingKeyFormat, SwitchingKeyFormat]:
    """Return the formats of the keys for squares and for the rotations of a layout."""
    ring = evaluator.ring
    # SEAL stores the key for an odd power of the roots at index power // 2.
    indices = frozenset(ring.power(step) // 2 for step in layout.required_rotations())
    return (
        SwitchingKeyFormat(evaluator.context, 1, frozenset({0})),
        SwitchingKeyFormat(evaluator.context, ring.degree, indices),
    )


def start_inference_server(network: PolynomialNetwork) -> tuple[RpcConnection, Callable[[], None]]:
    """Start a server process; return the connection to it and a function that stops it.

    The process is a fork with a copy of the current memory: start it before images and keys are in memory.
    """
    lines, stop = start_process("server", lambda: InferenceServer(network), [frozenset({KEYS, BATCH, ONE, SECONDS})])
    return lines[0], stop
