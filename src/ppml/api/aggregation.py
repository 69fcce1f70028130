"""A sum of client updates by an aggregation of the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ppml.aggregation.factory import build_parties, build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.interfaces import UPLOAD, Aggregator, Parties, ProtectedUpdate
from ppml.config.error_lines import problem_from
from ppml.config.technique import Aggregation
from ppml.errors import UserError


@dataclass(frozen=True, eq=False)
class AggregatedSum:
    """The sum of client updates, and its traffic.

    Parameters
    ----------
    values : ndarray
        The sum, float64. It is the same for every aggregation with the same grid.
    upload_bytes : tuple of int
        The bytes of each client's protected update.
    """

    values: NDArray[np.float64]
    upload_bytes: tuple[int, ...]


def aggregate(updates: Sequence[ArrayLike], method: str = "plaintext", **settings: Any) -> AggregatedSum:
    """Return the sum of the updates of several clients.

    All parties are on this machine; separate processes hold the keys. The function shows the protocol and its traffic.
    A federation on several machines is a configuration of the workflow.

    Parameters
    ----------
    updates : sequence of array
        The update of each client: the same number of values for all.
    method : {"plaintext", "secret_sharing", "masking", "ckks", "bfv"}
        The aggregation. ``ckks`` and ``bfv`` need the extra ``he``.
    **settings
        The keys of the aggregation in a configuration. ``clip`` (8.0) and ``fractional_bits`` (20): values are clipped
        to ``[-clip, clip]`` and rounded to the grid ``2^-fractional_bits``.

    Raises
    ------
    UserError
        The updates do not fit each other, or a setting is not allowed.

    Examples
    --------
    >>> aggregate([[0.5, -1.0], [0.25, 2.0], [0.0, 1.0]], "secret_sharing").values.tolist()
    [0.75, 2.0]
    """
    vectors = _vectors(updates)
    try:
        spec: Aggregation = TypeAdapter(Aggregation).validate_python({**settings, "kind": method})
        spec.check_sum(len(vectors))
    except ValidationError as error:
        (first, *_) = error.errors()
        # The location of the key in a configuration.
        problem = problem_from({**first, "loc": ("arms", "", "aggregation", *first["loc"])})
        raise UserError(str(replace(problem, key=problem.key[2:]))) from None
    except PydanticCustomError as error:
        raise UserError(error.message()) from None
    codec = FixedPointCodec(spec.clip, spec.fractional_bits)
    try:
        parties = build_parties(spec, len(vectors))
        server = build_server_side(spec, len(vectors), parties.material)
    except ModuleNotFoundError as error:
        raise UserError(
            f"aggregation {method!r}: the package {error.name} is not installed; pip install 'ppml-comparison[he]'"
        ) from None
    try:
        total, uploads = _run_round(parties, server, [codec.encode(vector) for vector in vectors])
    finally:
        parties.close()
    return AggregatedSum(codec.decode(total), tuple(len(upload.payload) for upload in uploads))


def _vectors(updates: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    try:
        vectors = [np.asarray(update, dtype=np.float64) for update in updates]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"updates: {error}; allowed: numbers") from None
    shapes = {vector.shape for vector in vectors}
    if len(shapes) != 1 or any(vector.ndim != 1 or not vector.size for vector in vectors):
        raise UserError(
            f"updates: got the shapes {sorted(shapes)}; allowed: one vector for each client, all of one length"
        )
    if not all(np.isfinite(vector).all() for vector in vectors):
        raise UserError("updates: got a value that is not finite; allowed: finite numbers")
    return vectors


def _run_round(parties: Parties, server: Aggregator, updates: Sequence[Grid]) -> tuple[Grid, list[ProtectedUpdate]]:
    """Return the sum of a round without dropouts, and the uploads of the clients."""
    clients, number = range(len(updates)), 1

    def run_step(step: str) -> None:
        for client, content in server.request(step, clients, number).items():
            server.handle_reply(step, client, parties.clients.respond(step, client, number, content))

    for step in server.setup_steps:
        run_step(step)
    if server.setup_steps:
        for client, content in server.request(UPLOAD, clients, number).items():
            parties.clients.respond(UPLOAD, client, number, content)
    uploads = [parties.clients.protect(update, client, number) for client, update in enumerate(updates)]
    for client, upload in enumerate(uploads):
        server.check(upload, client, number)
    for step in server.unmask_steps:
        run_step(step)
    return parties.clients.reveal(server.add(uploads)), uploads
