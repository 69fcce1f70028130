"""Evaluation of a network on encrypted images: agreement with plain predictions, error, and cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.encrypted_inference.ckks_parameters import MAX_LOGIT
from ppml.encrypted_inference.client import ImageOwner
from ppml.encrypted_inference.error_bound import batch_bound, logit_margins, single_bound
from ppml.encrypted_inference.network import PolynomialNetwork, Values
from ppml.encrypted_inference.server import BATCH, CPU_SECONDS, KEYS, ONE, SECONDS
from ppml.errors import InvalidUpdate, UserError
from ppml.ipc.process import RpcConnection


@dataclass(frozen=True)
class InferenceResult:
    """Results that repeat exactly.

    Parameters
    ----------
    images : int
        Images in batches.
    plain_right : int
        Correct plain predictions.
    sure : int
        Images whose two largest logits differ by more than twice the bound; both predictions must agree on these.
    bound : float
        The largest bound of a logit's error, over images and both methods.
    single_images : int
        Images that were also sent one by one.
    degree : int
        Degree of the ring.
    modulus_bits : int
        Total bits of the primes; for 128 bits of security at most 109 (degree 4096), 218 (8192).
    """

    images: int
    plain_right: int
    sure: int
    bound: float
    single_images: int
    degree: int
    modulus_bits: int


@dataclass(frozen=True)
class InferenceCost:
    """Measured errors and costs; seconds are CPU seconds of one core.

    Parameters
    ----------
    right : int
        Correct encrypted predictions, in batches. It may vary between runs if some images are not sure.
    differ : int
        Images with different encrypted and plain predictions.
    error : float
        The largest error of a logit.
    error_share : float
        The largest error of an image's logits divided by its bound.
    one_client, one_server : float
        Median seconds for a single image.
    one_up, one_down : int
        Bytes for a single image.
    slots : int
        Images in a full batch. A smaller batch takes as long.
    batch_client, batch_server : float
        Median seconds for one batch.
    batch_up, batch_down : int
        Bytes for one batch.
    keys : int
        Bytes of the evaluation keys, sent once.
    keys_client : float
        Seconds for making the keys.
    """

    right: int
    differ: int
    error: float
    error_share: float
    one_client: float
    one_server: float
    one_up: int
    one_down: int
    slots: int
    batch_client: float
    batch_server: float
    batch_up: int
    batch_down: int
    keys: int
    keys_client: float


@dataclass(frozen=True)
class Query:
    """The answer to one request, with its cost."""

    logits: Values
    client_seconds: float
    server_seconds: float
    up: int
    down: int


def evaluate_encrypted(
    network: PolynomialNetwork,
    line: RpcConnection,
    images: Values,
    labels: NDArray[np.int64],
    *,
    single_images: int,
    report: Callable[[str], None],
) -> tuple[InferenceResult, InferenceCost]:
    """Predict encrypted ``images`` with a server, and compare with plain predictions.

    Parameters
    ----------
    network : PolynomialNetwork
        The model. The evaluator has both client's and server's view, for the comparison.
    line : RpcConnection
        Connection to the server.
    images : float64 array, shape ``(n, pixels)``
        The images.
    labels : int64 array, shape ``(n,)``
        Their classes.
    single_images : int
        Number of images, from the first, that are also sent one by one.
    report : callable
        Called with a line after each batch.

    Raises
    ------
    UserError
        A logit is too large for the ring or has an error above its bound, or the server refuses or fails.
    """
    plain = network.logits(images)
    check_logit_range(plain)
    try:
        client = _TimedClient(line, ImageOwner(network))
        batches = []
        for start in range(0, len(images), client.slots):
            batches.append(client.batch(images[start : start + client.slots]))
            report(f"{start + len(batches[-1].logits)} of {len(images)} images in batches")
        singles = [client.single(image) for image in images[:single_images]]
        report(f"{len(singles)} images one by one")
    except (InvalidUpdate, ChildProcessError) as error:
        raise UserError(f"inference: {error}") from None
    logits = np.concatenate([batch.logits for batch in batches])
    single_logits = np.concatenate([single.logits for single in singles])
    bounds = batch_bound(network, images)
    single_bounds = np.array([single_bound(network, image) for image in images[: len(single_logits)]])
    fractions = [
        check_error_bound(plain, logits, bounds, "a batch"),
        check_error_bound(plain[: len(single_logits)], single_logits, single_bounds, "single images"),
    ]
    encrypted_class, plain_class = logits.argmax(axis=1), plain.argmax(axis=1)
    result = InferenceResult(
        images=len(images),
        plain_right=int((plain_class == labels).sum()),
        sure=int((logit_margins(plain) > 2 * bounds).sum()),
        bound=float(max(bounds.max(), single_bounds.max())),
        single_images=len(single_logits),
        degree=client.ring.degree,
        modulus_bits=sum(client.ring.bits),
    )
    cost = InferenceCost(
        right=int((encrypted_class == labels).sum()),
        differ=int((encrypted_class != plain_class).sum()),
        error=float(max(np.abs(logits - plain).max(), np.abs(single_logits - plain[: len(single_logits)]).max())),
        error_share=max(fractions),
        **client.costs(singles, batches),
    )
    return result, cost


class _TimedClient:
    """Sends requests to the server and measures their cost."""

    def __init__(self, line: RpcConnection, client: ImageOwner) -> None:
        self._line, self._client = line, client
        self.ring, self.slots = client.ring, client.ring.slots
        started = time.process_time()
        material = client.evaluation_keys()
        self._keys = {"keys": len(material), "keys_client": round(time.process_time() - started, 4)}
        line.ask(KEYS, material)

    def batch(self, images: Values) -> Query:
        return self._ask(
            BATCH,
            lambda: self._client.encrypt_batch(images),
            lambda answer: self._client.decrypt_batch(answer, len(images)),
        )

    def single(self, image: Values) -> Query:
        return self._ask(
            ONE,
            lambda: self._client.encrypt_image(image),
            lambda answer: self._client.decrypt_image(answer)[None],
        )

    def costs(self, singles: Sequence[Query], batches: Sequence[Query]) -> dict[str, Any]:
        """Return the fields of :class:`InferenceCost` about seconds and bytes."""
        found: dict[str, Any] = {"slots": self.slots, **self._keys}
        for name, queries in (("one", singles), ("batch", batches)):
            found[f"{name}_client"] = _median([query.client_seconds for query in queries])
            found[f"{name}_server"] = _median([query.server_seconds for query in queries])
            found |= {f"{name}_up": queries[0].up, f"{name}_down": queries[0].down}
        return found

    def _ask(self, code: bytes, encrypt: Callable[[], bytes], decrypt: Callable[[bytes], Values]) -> Query:
        started = time.process_time()
        request = encrypt()
        encryption, before = time.process_time() - started, self._server_seconds()
        answer = self._line.ask(code, request)
        after, started = self._server_seconds(), time.process_time()
        logits = decrypt(answer)
        seconds = encryption + time.process_time() - started
        return Query(logits, seconds, after - before, len(request), len(answer))

    def _server_seconds(self) -> float:
        seconds: float = CPU_SECONDS.unpack(self._line.ask(SECONDS))[0]
        return seconds


def check_logit_range(logits: Values) -> None:
    """Raise a :class:`UserError` if a logit is too large for the ring."""
    largest = float(np.abs(logits).max())
    if largest > MAX_LOGIT:
        raise UserError(
            f"inference: the network's largest logit is {largest:.3g}; at most {MAX_LOGIT:g} fits in the ring; train "
            "with a lower training.learning_rate, or for fewer epochs"
        )


def check_error_bound(plain: Values, logits: Values, bounds: Values, method: str) -> float:
    """Return the largest error of an image's logits divided by its bound.

    Raises
    ------
    UserError
        An error exceeds its bound, so that a prediction may differ.
    """
    errors = np.abs(logits - plain).max(axis=1)
    off = np.flatnonzero(~(errors <= bounds))
    if len(off):
        raise UserError(
            f"inference: {len(off)} of {len(plain)} images in {method} have an error above the bound, the first "
            f"{errors[off[0]]:.3g} with bound {bounds[off[0]]:.3g}; encrypted predictions may differ from plain ones, "
            "so nothing is published"
        )
    return float((errors / bounds).max())


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 4)
