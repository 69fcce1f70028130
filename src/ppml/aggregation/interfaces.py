"""Who does what in an aggregation: clients seal, the server adds, a key holder opens the sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ppml.aggregation.fixed_point import Grid
from ppml.errors import InvalidUpdate
from ppml.ipc.isolation import IsolationHooks

UPLOAD = "seal"
"""The step in which clients seal their updates; it goes with the order to train."""


@dataclass(frozen=True)
class ProtectedUpdate:
    """An update, or a sum of updates, as it travels.

    Parameters
    ----------
    scheme : str
        ``"plaintext"``, ``"ckks"``, ``"bfv"``.
    length : int
        Number of values inside.
    payload : bytes
        What is sent.
    """

    scheme: str
    length: int
    payload: bytes


class ClientProtector(Protocol):
    """A client."""

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return ``update`` of ``client`` in round ``number`` as it may leave the client."""
        ...


class Aggregator(Protocol):
    """The server; it never holds a secret key.

    Attributes
    ----------
    before, after : tuple of str
        Steps that clients take before they train, and after their updates are there.
    """

    before: ClassVar[tuple[str, ...]]
    after: ClassVar[tuple[str, ...]]

    def request(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Return what each of ``clients`` is told in a step of round ``number``; the upload's own is ``"seal"``.

        A client that is told nothing has nothing to do in a step before or after the upload, and has taken it.

        Raises
        ------
        InvalidUpdate
            They are too few.
        """
        ...

    def handle_reply(self, step: str, client: int, content: bytes) -> None:
        """Take what a client answers in a step, or raise :class:`InvalidUpdate`."""
        ...

    def check(self, sealed: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise :class:`InvalidUpdate` if ``sealed`` is not what ``client`` may add in round ``number``.

        It is called before anything of it touches a sum.
        """
        ...

    def add(self, sealed: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the sum of updates, sealed as they are."""
        ...


class SumReceiver(Protocol):
    """Whoever may see the sum; who that is belongs to the threat statement."""

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum as exact grid points."""
        ...


class SecretKeyExposed(RuntimeError):
    """A secret key reached a party that must not hold it; the run stops."""


def check_scheme(sealed: ProtectedUpdate, scheme: str) -> None:
    """Raise an error unless ``sealed`` says that it is of ``scheme``."""
    if sealed.scheme != scheme:
        raise InvalidUpdate(f"it is sealed by {sealed.scheme!r}, not by {scheme!r}")


class ClientSide(ClientProtector, SumReceiver, Protocol):
    """What the clients have: they seal, and learn the sum."""

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Take a step of round ``number``, or raise :class:`InvalidUpdate` where that would give something away."""
        ...


class SingleStep:
    """A side of an aggregation in which clients send their updates and say nothing else."""

    before: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()

    def request(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Tell nobody anything."""
        return {}

    def handle_reply(self, step: str, client: int, content: bytes) -> None:
        """Refuse."""
        raise InvalidUpdate(f"there is no step {step!r} in this aggregation")

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Refuse."""
        raise InvalidUpdate(f"there is no step {step!r} in this aggregation")


class ServerKeyMaterial:
    """What the server has of whoever opens sums; this is where nobody holds a key: there is nothing."""

    def __call__(self) -> bytes:
        """Return what the server needs to add in this round: never a secret key."""
        return b""

    def announce(self, total: ProtectedUpdate) -> None:
        """Say that ``total`` is a sum: who holds a key opens nothing else."""


NO_MATERIAL = ServerKeyMaterial()


@dataclass(frozen=True)
class Parties:
    """An aggregation with keys of its own.

    Parameters
    ----------
    clients : ClientSide
        What the clients have.
    material : ServerKeyMaterial
        What the server gets of them.
    close : callable
        Ends what holds the keys, and forgets them.
    apart : Apart or None
        Where the clients hold what the server must not have, they are to live in a process of their own. None: they
        hold nothing of the kind.
    """

    clients: ClientSide
    material: ServerKeyMaterial = NO_MATERIAL
    close: Callable[[], None] = lambda: None
    apart: IsolationHooks | None = None
