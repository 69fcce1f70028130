"""The apps of a training whose client 1 sends invalid ciphertexts; one of them crashes SEAL's reader."""

from __future__ import annotations

import struct
import sys
from functools import partial
from pathlib import Path

import zstandard

from ppml.aggregation import lattice
from ppml.aggregation.envelope import FINGERPRINT_BYTES, HEADER_BYTES, header_of
from ppml.aggregation.interfaces import ProtectedUpdate
from ppml.federation.client import ClientPool
from ppml.federation.engines.namespaces import raise_loopback
from ppml.federation.engines.ray import run_on_ray
from ppml.io.atomic import read_json
from ppml.stages import federation_job, flower_apps

LIAR = 1
_protect = lattice.PublicKeyClients.protect


def protect(self: lattice.PublicKeyClients, update, client: int = 0, number: int = 0) -> ProtectedUpdate:
    """Protect the update like an honest client; as client 1, send another invalid stream in each round."""
    honest = _protect(self, update, client, number)
    if client != LIAR:
        return honest
    key, rest = honest.payload[:FINGERPRINT_BYTES], memoryview(honest.payload)[2 * FINGERPRINT_BYTES + HEADER_BYTES :]
    chunks = [bytes(chunk) for chunk in lattice.split_length_prefixed(rest)]
    stream = bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(chunks[0][16:]))
    compressed = 0
    if number == 1:
        stream[32] = 0
    elif number == 2:
        # This crashes SEAL's own reader.
        stream[stream.find(b"\x5e\xa1\x10\x04\x03") + 5] = 2
        del stream[46593:]
        stream, compressed = bytearray(zstandard.ZstdCompressor().compress(bytes(stream))), 2
    else:
        stream = bytearray(b"no ciphertext bytes")
    head = bytearray(chunks[0][:16])
    head[5] = compressed
    struct.pack_into("<Q", head, 8, 16 + len(stream))
    chunks[0] = bytes(head) + bytes(stream)
    return self._scheme.pack(key, honest.length, chunks, header_of(client, number))


lattice.PublicKeyClients.protect = protect  # type: ignore[method-assign]

# Flower searches the text of the module for these names.
server_app = flower_apps.server_app
client_app = flower_apps.client_app


def load_clients(job: str, clients: tuple[int, ...]) -> ClientPool:
    """Return the clients, in a process that has imported this module."""
    return federation_job.load_clients(job, clients)


def main() -> None:
    """Train on Ray in namespaces: ``python -m tests.long.hostile JOB RESULT``."""
    raise_loopback()
    job, result = sys.argv[1:]
    clients = tuple(range(len(read_json(Path(job))["sizes"])))
    flower_apps.write_result(
        result, run_on_ray(federation_job.load_server(job), partial(load_clients, job, clients), workers=2)
    )


if __name__ == "__main__":
    from tests.long import hostile

    # Ray's workers must import this module by its name.
    hostile.main()
