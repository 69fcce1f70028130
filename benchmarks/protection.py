"""Protection of an update: plaintext, common uses of TenSEAL, and this project's aggregations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CLIENTS = 8
THRESHOLD = 2 * CLIENTS // 3 + 1
"""Clients whose shares unmask an update under pairwise masks."""

CLIP, FRACTIONAL_BITS = 8.0, 20


@dataclass(frozen=True)
class Way:
    """One kind of protection.

    Parameters
    ----------
    kind : {"plaintext", "tenseal", "project", "secret_sharing", "masking"}
        The implementation.
    options : dict
        The parameters.
    access : str
        The parties that can read one upload together.
    min_clients : int
        The number of clients that a round needs until its end.
    """

    kind: str
    options: dict[str, Any]
    access: str
    min_clients: int = 1


class Protection(Protocol):
    """Interface of the measurements."""

    extra_bytes: int = 0
    """Bytes that a client sends beside its upload, known after the sum."""

    def protect(self, update: NDArray[np.int64]) -> bytes:
        """Return the message of an update."""
        ...

    def add(self, uploads: Sequence[bytes], length: int) -> bytes:
        """Return the message of the sum."""
        ...

    def reveal(self, total: bytes, length: int) -> NDArray[np.float64]:
        """Return the revealed sum, in steps of the grid."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Return ring dimension, bits of the modulus, and fractional bits of the grid."""
        ...


class PlaintextUpdates(Protection):
    """Fixed-point numbers of 4 bytes."""

    def protect(self, update: NDArray[np.int64]) -> bytes:
        """Return the message of an update."""
        return update.astype("<i4").tobytes()

    def add(self, uploads: Sequence[bytes], length: int) -> bytes:
        """Return the message of the sum."""
        return np.sum([np.frombuffer(one, "<i4") for one in uploads], axis=0, dtype=np.int64).astype("<i4").tobytes()

    def reveal(self, total: bytes, length: int) -> NDArray[np.float64]:
        """Return the revealed sum, in steps of the grid."""
        return np.frombuffer(total, "<i4").astype(np.float64)

    def parameters(self) -> dict[str, Any]:
        """Return ring dimension, bits of the modulus, and fractional bits of the grid."""
        return {"degree": 0, "modulus_bits": 0, "fractional_bits": FRACTIONAL_BITS}


class TenSealVectors(Protection):
    """TenSEAL's own vectors, one real value per slot; the sum is the raw decryption."""

    DEGREE = 8192

    def __init__(self, bits: list[int], symmetric: bool) -> None:
        import tenseal

        self._tenseal, self._bits = tenseal, bits
        kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC if symmetric else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
        self._context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, self.DEGREE, -1, bits, n_threads=1, encryption_type=kind
        )
        self._context.global_scale = 2.0**40

    def protect(self, update: NDArray[np.int64]) -> bytes:
        """Return the message of an update."""
        values, slots = update * 2.0**-FRACTIONAL_BITS, self.DEGREE // 2
        chunks = (values[start : start + slots] for start in range(0, len(values), slots))
        return _frame(self._tenseal.ckks_vector(self._context, chunk).serialize() for chunk in chunks)

    def add(self, uploads: Sequence[bytes], length: int) -> bytes:
        """Return the message of the sum."""
        return _frame(self._add_column(column) for column in zip(*map(_split, uploads), strict=True))

    def _add_column(self, column: Sequence[bytes]) -> bytes:
        total = self._tenseal.ckks_vector_from(self._context, column[0])
        for one in column[1:]:
            total += self._tenseal.ckks_vector_from(self._context, one)
        return bytes(total.serialize())

    def reveal(self, total: bytes, length: int) -> NDArray[np.float64]:
        """Return the revealed sum, in steps of the grid."""
        parts = [self._tenseal.ckks_vector_from(self._context, one).decrypt() for one in _split(total)]
        return np.concatenate(parts) * 2.0**FRACTIONAL_BITS

    def parameters(self) -> dict[str, Any]:
        """Return ring dimension, bits of the modulus, and fractional bits of the grid."""
        return {"degree": self.DEGREE, "modulus_bits": sum(self._bits), "fractional_bits": FRACTIONAL_BITS}


def _frame(chunks: Iterator[bytes]) -> bytes:
    return b"".join(len(chunk).to_bytes(4, "little") + chunk for chunk in chunks)


def _split(payload: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(payload):
        length = int.from_bytes(payload[place : place + 4], "little")
        yield payload[place + 4 : place + 4 + length]
        place += 4 + length


class ProjectEncryption(Protection):
    """Encryption of this project; the key holder is in this process, so that its time is measured."""

    def __init__(self, kind: str, clients: int = CLIENTS, **options: Any) -> None:
        from pydantic import TypeAdapter

        from ppml.aggregation.envelope import fingerprint
        from ppml.aggregation.factory import build_server_side
        from ppml.aggregation.interfaces import ProtectedUpdate, ServerKeyMaterial
        from ppml.aggregation.key_holder import KeyHolderService
        from ppml.aggregation.key_service import scheme_of
        from ppml.aggregation.lattice import PublicKeyClients, SharedKeyClients, ciphertext_id
        from ppml.config.technique import Bfv, Ckks, Encrypted

        spec: Encrypted = TypeAdapter(Ckks if kind == "ckks" else Bfv).validate_python({"kind": kind, **options})
        spec.check_sum(clients)
        self._spec, self._clients_count = spec, clients
        self._scheme = scheme_of(spec, clients)  # type: ignore[arg-type]
        ring = KeyHolderService(self._scheme)

        class Material(ServerKeyMaterial):
            def __call__(self) -> bytes:
                return ring.public()

            def announce(self, total: ProtectedUpdate) -> None:
                ring.announce(ciphertext_id(total))

        self._side: PublicKeyClients | SharedKeyClients = (
            PublicKeyClients(self._scheme, ring)
            if spec.keys == "public"
            else SharedKeyClients(self._scheme, fingerprint(ring.public()), ring.secret)
        )
        self._server = build_server_side(spec, clients, Material())  # type: ignore[arg-type]

    def protect(self, update: NDArray[np.int64]) -> bytes:
        """Return the message of an update."""
        return self._side.protect(update).payload

    def add(self, uploads: Sequence[bytes], length: int) -> bytes:
        """Return the message of the sum."""
        updates = [self._update(one, length) for one in uploads]
        for one in updates:
            self._server.check(one)
        return self._server.add(updates).payload

    def reveal(self, total: bytes, length: int) -> NDArray[np.float64]:
        """Return the revealed sum, in steps of the grid."""
        return self._side.reveal(self._update(total, length)).astype(np.float64)

    def _update(self, payload: bytes, length: int) -> Any:
        from ppml.aggregation.interfaces import ProtectedUpdate

        return ProtectedUpdate(self._scheme.name, length, payload)

    def parameters(self) -> dict[str, Any]:
        """Return ring dimension, bits of the modulus, and fractional bits of the grid."""
        parameters = self._scheme.context.key_context_data().parms()
        bits = sum(prime.bit_count() for prime in parameters.coeff_modulus())
        fine = self._spec.fractional_bits
        return {"degree": parameters.poly_modulus_degree(), "modulus_bits": bits, "fractional_bits": fine}


class SecretShares(Protection):
    """Secret sharing; all servers are in this process, so that their time is measured."""

    def __init__(self) -> None:
        from ppml.aggregation.secret_sharing import ShareServer, SharingClients, SharingServer

        share_servers = [ShareServer() for _ in range(2)]
        self._clients = SharingClients([server.answer for server in share_servers], 4)
        self._server = SharingServer([server.answer for server in share_servers], 4)
        self._uploads = 0

    def protect(self, update: NDArray[np.int64]) -> bytes:
        """Return the message of an update."""
        self._uploads += 1
        return self._clients.protect(update, self._uploads - 1, 1).payload

    def add(self, uploads: Sequence[bytes], length: int) -> bytes:
        """Return the message of the sum."""
        from ppml.aggregation.interfaces import ProtectedUpdate

        updates = [ProtectedUpdate("shares", length, one) for one in uploads]
        for client, one in enumerate(updates):
            self._server.check(one, client, 1)
        return self._server.add(updates).payload

    def reveal(self, total: bytes, length: int) -> NDArray[np.float64]:
        """Return the revealed sum, in steps of the grid."""
        from ppml.aggregation.interfaces import ProtectedUpdate

        return self._clients.reveal(ProtectedUpdate("shares", length, total)).astype(np.float64)

    def parameters(self) -> dict[str, Any]:
        """Return ring dimension, bits of the modulus, and fractional bits of the grid."""
        return {"degree": 0, "modulus_bits": 0, "fractional_bits": FRACTIONAL_BITS}


class PairwiseMasks(Protection):
    """Pairwise masks. The steps of the clients before the upload, and their bytes, count as protection."""

    def __init__(self) -> None:
        from ppml.aggregation.masking_clients import MaskingClients
        from ppml.aggregation.masking_server import MaskingServer

        self._clients, self._server = MaskingClients(THRESHOLD, CLIENTS, 4), MaskingServer(THRESHOLD, 4)
        self._uploads = 0

    def _step(self, step: str) -> None:
        for client, request in self._server.request(step, range(CLIENTS), 1).items():
            reply = self._clients.respond(step, client, 1, request)
            self.extra_bytes += len(reply) if client == 0 else 0
            if step != "upload":
                self._server.handle_reply(step, client, reply)

    def protect(self, update: NDArray[np.int64]) -> bytes:
        """Return the message of an update."""
        if self._uploads == 0:
            for step in ("keys", "shares", "encrypted_shares", "disputes", "upload"):
                self._step(step)
        self._uploads += 1
        return self._clients.protect(update, self._uploads - 1, 1).payload

    def add(self, uploads: Sequence[bytes], length: int) -> bytes:
        """Return the message of the sum."""
        from ppml.aggregation.interfaces import ProtectedUpdate

        updates = [ProtectedUpdate("masking", length, one) for one in uploads]
        for client, one in enumerate(updates):
            self._server.check(one, client, 1)
        self._step("unmask")
        return self._server.add(updates).payload

    def reveal(self, total: bytes, length: int) -> NDArray[np.float64]:
        """Return the revealed sum, in steps of the grid."""
        from ppml.aggregation.interfaces import ProtectedUpdate

        return self._clients.reveal(ProtectedUpdate("masking", length, total)).astype(np.float64)

    def parameters(self) -> dict[str, Any]:
        """Return ring dimension, bits of the modulus, and fractional bits of the grid."""
        return {"degree": 0, "modulus_bits": 0, "fractional_bits": FRACTIONAL_BITS}


def build_protection(way: Way) -> Protection:
    """Return the implementation of a row."""
    match way.kind:
        case "plaintext":
            return PlaintextUpdates()
        case "tenseal":
            return TenSealVectors(**way.options)
        case "secret_sharing":
            return SecretShares()
        case "masking":
            return PairwiseMasks()
        case _:
            return ProjectEncryption(**way.options)
