"""The roles of an aggregation: clients protect updates, the server adds them, a key holder reveals the sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ppml.aggregation.fixed_point import Grid
from ppml.errors import InvalidUpdate
from ppml.ipc.isolation import IsolationHooks

UPLOAD = "upload"
"""The step in which clients protect their updates; its request travels with the training request."""


@dataclass(frozen=True)
class ProtectedUpdate:
    """An update, or a sum of updates, in its wire format.

    Parameters
    ----------
    scheme : str
        The kind of aggregation, for instance ``"ckks"``.
    length : int
        Number of values.
    payload : bytes
        The protected values.
    """

    scheme: str
    length: int
    payload: bytes


class ClientProtector(Protocol):
    """The part of a client that protects its updates."""

    def protect(self, update: Grid, client: int = 0, number: int = 0) -> ProtectedUpdate:
        """Return the protected ``update`` of ``client`` in round ``number``."""
        ...


class Aggregator(Protocol):
    """The server, which never holds a secret key.

    Attributes
    ----------
    setup_steps, unmask_steps : tuple of str
        Steps of the clients before they train, and after the server has their updates.
    """

    setup_steps: ClassVar[tuple[str, ...]]
    unmask_steps: ClassVar[tuple[str, ...]]

    def request(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Return the request to each of ``clients`` in a step of round ``number``; the upload is step ``"upload"``.

        A client without a request has nothing to do in a setup or unmask step, and counts as having completed it.

        Raises
        ------
        InvalidUpdate
            The clients are too few.
        """
        ...

    def handle_reply(self, step: str, client: int, content: bytes) -> None:
        """Store the reply of ``client`` in a step, or raise :class:`~ppml.errors.InvalidUpdate`."""
        ...

    def check(self, upload: ProtectedUpdate, client: int = 0, number: int = 0) -> None:
        """Raise :class:`~ppml.errors.InvalidUpdate` unless ``client`` may add ``upload`` in round ``number``.

        The server checks an upload before it adds any part of it.
        """
        ...

    def add(self, uploads: Sequence[ProtectedUpdate]) -> ProtectedUpdate:
        """Return the protected sum of uploads."""
        ...


class SumReceiver(Protocol):
    """A party that learns the sum, as the threat statement says."""

    def reveal(self, total: ProtectedUpdate) -> Grid:
        """Return the sum as exact grid points."""
        ...


class SecretKeyExposed(RuntimeError):
    """A secret key reached a party that must not hold it; the run stops."""


def check_scheme(upload: ProtectedUpdate, scheme: str) -> None:
    """Raise an error unless ``upload`` names ``scheme``."""
    if upload.scheme != scheme:
        raise InvalidUpdate(f"the upload is protected by {upload.scheme!r}, not by {scheme!r}")


class ClientSide(ClientProtector, SumReceiver, Protocol):
    """The clients: they protect their updates and learn the sum."""

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Return the reply of ``client`` in a step of round ``number``.

        Raises
        ------
        InvalidUpdate
            The request does not fit the protocol, or a reply would reveal more than a sum.
        """
        ...


class SingleStep:
    """Base class of protocols that consist of the upload alone."""

    setup_steps: ClassVar[tuple[str, ...]] = ()
    unmask_steps: ClassVar[tuple[str, ...]] = ()

    def request(self, step: str, clients: Sequence[int], number: int = 0) -> dict[int, bytes]:
        """Return no requests."""
        return {}

    def handle_reply(self, step: str, client: int, content: bytes) -> None:
        """Raise an error: the protocol has no such step."""
        raise InvalidUpdate(f"the aggregation has no step {step!r}")

    def respond(self, step: str, client: int, number: int, content: bytes) -> bytes:
        """Raise an error: the protocol has no such step."""
        raise InvalidUpdate(f"the aggregation has no step {step!r}")


class ServerKeyMaterial:
    """The server's access to public keys; this base class is for an aggregation without keys."""

    def __call__(self) -> bytes:
        """Return the public key of this round, never a secret key."""
        return b""

    def announce(self, total: ProtectedUpdate) -> None:
        """Announce ``total`` as a sum: the key holder decrypts announced sums only."""


NO_MATERIAL = ServerKeyMaterial()


@dataclass(frozen=True)
class Parties:
    """The parties of an aggregation, with new keys.

    Parameters
    ----------
    clients : ClientSide
        The clients.
    material : ServerKeyMaterial
        Public keys for the server.
    close : callable
        Ends the processes that hold keys.
    isolation : IsolationHooks or None
        Hooks for clients that need a process of their own, since they hold secrets; None for clients without secrets.
    """

    clients: ClientSide
    material: ServerKeyMaterial = NO_MATERIAL
    close: Callable[[], None] = lambda: None
    isolation: IsolationHooks | None = None
