"""Partitions of examples among clients.

The libraries with these partitions need a data set class of their own, and two of them fail at small alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.data import Dirichlet, Iid, Shards
from ppml.errors import UserError

Owned = list[NDArray[np.int64]]
"""The positions of each client's examples, ascending."""

DIRICHLET_ATTEMPTS = 100


def random_path(spec: Iid | Shards | Dirichlet) -> dict[str, Any]:
    """Return ``spec`` as part of a path of randomness, in which no name ever changes."""
    return {"records" if key == "sample_size" else key: value for key, value in spec.to_json().items()}


def sample_examples(spec: Iid | Shards | Dirichlet, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the positions, ascending, of the examples that ``spec`` divides; the others have no owner.

    Raises
    ------
    UserError
        ``spec`` asks for more than ``count`` examples.
    """
    if spec.sample_size is None:
        return np.arange(count)
    if spec.sample_size > count:
        raise UserError(
            f"sample_size: got {spec.sample_size}, more than the {count} examples; at most {count} are allowed"
        )
    return np.sort(rng.permutation(count)[: spec.sample_size])


def partition(spec: Iid | Shards | Dirichlet, labels: NDArray[np.int64], rng: np.random.Generator) -> Owned:
    """Divide all examples with ``labels`` among the clients of ``spec``; each example has one owner.

    Raises
    ------
    UserError
        There are more clients than examples, or a client has no example.
    """
    if spec.clients > len(labels):
        raise UserError(
            f"clients: got {spec.clients}, more than the {len(labels)} examples; at most {len(labels)} are allowed"
        )
    match spec:
        case Iid():
            parts = np.array_split(rng.permutation(len(labels)), spec.clients)
        case Shards():
            parts = _shards(spec, labels, rng)
        case Dirichlet():
            parts = _dirichlet(spec, labels, rng)
    empty = [client for client, part in enumerate(parts) if len(part) == 0]
    if empty:
        raise UserError(
            f"{spec.kind} with {spec.clients} clients leaves client {empty[0]} without examples "
            f"({len(empty)} of {spec.clients} are empty, {len(labels)} examples); use fewer clients"
            + (f", or a larger alpha than {spec.alpha}" if isinstance(spec, Dirichlet) else "")
            + (f", or fewer shards than {spec.shards_per_client} a client" if isinstance(spec, Shards) else "")
        )
    return [np.sort(part).astype(np.int64) for part in parts]


def divide_by_group(groups: NDArray[np.int64], chosen: Sequence[int], names: Sequence[str]) -> Owned:
    """Return the positions of each chosen group's examples; the examples of other groups have no owner.

    Parameters
    ----------
    groups : int64 array, shape ``(n,)``
        The group of each example.
    chosen : sequence of int
        The groups that are clients.
    names : sequence of str
        The names of the chosen groups, for messages.

    Raises
    ------
    UserError
        A client has no example.
    """
    parts = [np.flatnonzero(groups == group) for group in chosen]
    empty = [name for name, part in zip(names, parts, strict=True) if not len(part)]
    if empty:
        raise UserError(
            f"groups: {empty[0]!r} has no example among the {len(groups)} ({len(empty)} of {len(parts)} groups are "
            "empty); name the groups that are clients in groups, or raise data.train"
        )
    return parts


def _shards(spec: Shards, labels: NDArray[np.int64], rng: np.random.Generator) -> Owned:
    # A random order within each label, so that seeds differ in more than which shard goes where.
    order = rng.permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    shards = np.array_split(by_label, spec.clients * spec.shards_per_client)
    dealt = rng.permutation(len(shards)).reshape(spec.clients, spec.shards_per_client)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in dealt]


def _dirichlet(spec: Dirichlet, labels: NDArray[np.int64], rng: np.random.Generator) -> Owned:
    # A draw that leaves a client empty is drawn again, a bounded number of times.
    for _ in range(DIRICHLET_ATTEMPTS):
        pieces: list[list[NDArray[np.int64]]] = [[] for _ in range(spec.clients)]
        for cls in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == cls))
            shares = rng.dirichlet(np.full(spec.clients, spec.alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for client, piece in enumerate(np.split(members, cuts)):
                pieces[client].append(piece)
        parts = [np.concatenate(piece) for piece in pieces]
        if all(len(part) for part in parts):
            break
    return parts
