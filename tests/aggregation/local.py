"""An encrypted aggregation in one process, with a key that tests can read."""

from __future__ import annotations

from collections.abc import Callable

from ppml.aggregation.factory import build_parties, build_server_side
from ppml.aggregation.fixed_point import Grid
from ppml.aggregation.interfaces import Parties, ProtectedUpdate, ServerKeyMaterial
from ppml.aggregation.key_holder import KeyHolderService
from ppml.aggregation.key_service import scheme_of
from ppml.aggregation.lattice import KeyPair, LatticeServer, PublicKeyClients, Scheme, SharedKeyClients, ciphertext_id
from ppml.config.technique import Bfv, Ckks, Encrypted, Plaintext

SPECS: dict[str, Encrypted] = {
    f"{kind.__name__.lower()} {keys}": kind(keys=keys)  # type: ignore[call-arg]
    for kind in (Ckks, Bfv)
    for keys in ("public", "shared")
}


class Material(ServerKeyMaterial):
    """Key material of a key holder in the same process, or of a fabricated one.

    Parameters
    ----------
    give : callable
        Returns the public key.
    announce : callable
        Receives the identifier of each sum.
    """

    def __init__(self, give: Callable[[], bytes], announce: Callable[[bytes], object] = lambda name: None) -> None:
        self._give, self._announce = give, announce

    def __call__(self) -> bytes:
        return self._give()

    def announce(self, total: ProtectedUpdate) -> None:
        self._announce(ciphertext_id(total))


class Local:
    """Clients and their key holder in one process.

    Parameters
    ----------
    spec : Ckks or Bfv
        Specification of the encryption.
    clients : int
        Number of clients.
    """

    def __init__(self, spec: Ckks | Bfv, clients: int) -> None:
        self.spec, self.clients = spec, clients
        self.scheme: Scheme = scheme_of(spec, clients)
        self.ring = KeyHolderService(self.scheme, spec.rounds_per_key)
        self.material = Material(self.ring.public, self.ring.announce)
        if spec.keys == "public":
            self.side: PublicKeyClients | SharedKeyClients = PublicKeyClients(self.scheme, self.ring)
        else:
            self.side = SharedKeyClients(self.scheme, self.keys.fingerprint, self.ring.secret)

    @property
    def keys(self) -> KeyPair:
        return self.ring._current

    @property
    def fingerprint(self) -> bytes:
        return self.keys.fingerprint

    def server(self) -> LatticeServer:
        server = build_server_side(self.spec, self.clients, self.material)
        assert isinstance(server, LatticeServer)
        return server

    def protect(self, update: Grid, *turn: int) -> ProtectedUpdate:
        return self.side.protect(update, *turn)

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Decrypt any ciphertext, as if the server had announced it."""
        self.material.announce(total)
        return self.side.reveal(total)


def local_parties(spec: Plaintext | Encrypted, clients: int) -> Parties:
    """Return the parties of an aggregation in one process; the server gets the bytes of the first public key."""
    if not isinstance(spec, Ckks | Bfv):
        return build_parties(spec, clients)
    local = Local(spec, clients)
    public = local.material()
    return Parties(local, Material(lambda: public))
