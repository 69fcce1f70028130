"""The apps of a training in which client 1 sends other streams than ciphertexts; one of them crashes SEAL's reader."""

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
from ppml.stages import federation_job as sites
from ppml.stages import flower_apps as deployed

LIAR = 1
_seal = lattice.PublicKeyClients.protect


def protect(self: lattice.PublicKeyClients, update, client: int = 0, number: int = 0) -> ProtectedUpdate:
    """Seal as an honest client does, or in each round something else."""
    honest = _seal(self, update, client, number)
    if client != LIAR:
        return honest
    key, rest = honest.payload[:FINGERPRINT_BYTES], memoryview(honest.payload)[2 * FINGERPRINT_BYTES + HEADER_BYTES :]
    chunks = [bytes(chunk) for chunk in lattice.split_length_prefixed(rest)]
    stream = bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(chunks[0][16:]))
    compressed = 0
    if number == 1:
        stream[32] = 0
    elif number == 2:
        # In SEAL's own reader this ends the process.
        stream[stream.find(b"\x5e\xa1\x10\x04\x03") + 5] = 2
        del stream[46593:]
        stream, compressed = bytearray(zstandard.ZstdCompressor().compress(bytes(stream))), 2
    else:
        stream = bytearray(b"no stream at all")
    head = bytearray(chunks[0][:16])
    head[5] = compressed
    struct.pack_into("<Q", head, 8, 16 + len(stream))
    chunks[0] = bytes(head) + bytes(stream)
    return self._scheme.sealed(key, honest.length, chunks, header_of(client, number))


lattice.PublicKeyClients.protect = seal  # type: ignore[method-assign]

# Flower looks for these names in the text of the module.
server_app = deployed.server_app
client_app = deployed.client_app


def population(job: str, clients: tuple[int, ...]) -> ClientPool:
    """Return the clients, in a process that has imported this module."""
    return sites.population(job, clients)


def main() -> None:
    """Train on Ray: ``python -m tests.long.hostile JOB RESULT``, in an enclosure."""
    raise_loopback()
    job, result = sys.argv[1:]
    clients = tuple(range(len(read_json(Path(job))["sizes"])))
    deployed.write(result, run_on_ray(sites.server(job), partial(population, job, clients), workers=2))


if __name__ == "__main__":
    from tests.long import hostile

    # So that Ray's workers import this module by its name.
    hostile.main()
