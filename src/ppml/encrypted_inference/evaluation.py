"""One network tried on encrypted images: does it predict what it predicts in the clear, and what does that cost."""

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
    """What was tried, and what is the same each time.

    Parameters
    ----------
    images : int
        Sent in batches.
    plain_right : int
        Predictions in the clear that are the label.
    sure : int
        Images whose largest logit is above the next by more than twice the bound: on these both must agree.
    bound : float
        The largest bound of a logit's error, over images and ways of evaluating.
    single_images : int
        Images that were also sent one by one.
    degree : int
        Of the ring.
    modulus_bits : int
        Of all its primes; at 128 bits of security at most 109 (degree 4096), 218 (8192).
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
    """What came out and what it took; seconds are of one core.

    Parameters
    ----------
    right : int
        Predictions from encrypted images, in batches, that are the label. Where an image is not sure, that may be
        another number the next time.
    differ : int
        Images whose encrypted prediction is not the plain one.
    error : float
        The largest error of a logit.
    error_share : float
        The largest error of an image's logits over its bound.
    one_client, one_server : float
        CPU seconds for one image, sent alone: the median.
    one_up, one_down : int
        Bytes for one image, sent alone.
    slots : int
        Images of a full batch. One that is not full takes as long.
    batch_client, batch_server : float
        CPU seconds for one batch: the median.
    batch_up, batch_down : int
        Bytes for one batch.
    keys : int
        Bytes of the evaluation keys, sent once.
    keys_client : float
        CPU seconds for making them.
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
    """One question and its answer."""

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
    """Predict ``images`` by a server that cannot see them, and compare with predictions in the clear.

    Parameters
    ----------
    network : Network
        What predicts: the one who tries it compares, and so has both sides' part, which no client would.
    line : Line
        To the server.
    images : float64 array, shape ``(n, pixels)``
    labels : int64 array, shape ``(n,)``
    single_images : int
        How many of the first images are also sent one by one.
    say : callable
        Gets a line after each batch.

    Raises
    ------
    UserError
        A logit is too large for the ring, off by more than its bound, or the server refuses or is gone.
    """
    plain = network.logits(images)
    check_logit_range(plain)
    try:
        asker = _TimedClient(line, ImageOwner(network))
        batches = []
        for start in range(0, len(images), asker.slots):
            batches.append(asker.batch(images[start : start + asker.slots]))
            report(f"{start + len(batches[-1].logits)} of {len(images)} images in batches")
        alone = [asker.one(image) for image in images[:single_images]]
        report(f"{len(alone)} images one by one")
    except (InvalidUpdate, ChildProcessError) as error:
        raise UserError(f"inference: {error}") from None
    logits = np.concatenate([batch.logits for batch in batches])
    each = np.concatenate([one.logits for one in alone])
    bounds = batch_bound(network, images)
    bounds_alone = np.array([single_bound(network, image) for image in images[: len(each)]])
    shares = [
        check_error_bound(plain, logits, bounds, "a batch"),
        check_error_bound(plain[: len(each)], each, bounds_alone, "images sent alone"),
    ]
    guessed, said = logits.argmax(axis=1), plain.argmax(axis=1)
    trial = InferenceResult(
        images=len(images),
        plain_right=int((said == labels).sum()),
        sure=int((logit_margins(plain) > 2 * bounds).sum()),
        bound=float(max(bounds.max(), bounds_alone.max())),
        single_images=len(each),
        degree=asker.ring.degree,
        modulus_bits=sum(asker.ring.bits),
    )
    measured = InferenceCost(
        right=int((guessed == labels).sum()),
        differ=int((guessed != said).sum()),
        error=float(max(np.abs(logits - plain).max(), np.abs(each - plain[: len(each)]).max())),
        error_share=max(shares),
        **asker.costs(alone, batches),
    )
    return trial, measured


class _TimedClient:
    """Asks the server and measures."""

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

    def one(self, image: Values) -> Query:
        return self._ask(ONE, lambda: self._client.encrypt_image(image), lambda answer: self._client.decrypt_image(answer)[None])

    def costs(self, alone: Sequence[Query], batches: Sequence[Query]) -> dict[str, Any]:
        """Return the part of :class:`InferenceCost` that is about seconds and bytes."""
        found: dict[str, Any] = {"slots": self.slots, **self._keys}
        for name, queries in (("one", alone), ("batch", batches)):
            found[f"{name}_client"] = _median([query.client_seconds for query in queries])
            found[f"{name}_server"] = _median([query.server_seconds for query in queries])
            found |= {f"{name}_up": queries[0].up, f"{name}_down": queries[0].down}
        return found

    def _ask(self, what: bytes, seal: Callable[[], bytes], unseal: Callable[[bytes], Values]) -> Query:
        started = time.process_time()
        sealed = seal()
        sealing, before = time.process_time() - started, self._server_seconds()
        answer = self._line.ask(what, sealed)
        after, started = self._server_seconds(), time.process_time()
        logits = unseal(answer)
        seconds = sealing + time.process_time() - started
        return Query(logits, seconds, after - before, len(sealed), len(answer))

    def _server_seconds(self) -> float:
        seconds: float = CPU_SECONDS.unpack(self._line.ask(SECONDS))[0]
        return seconds


def check_logit_range(logits: Values) -> None:
    """Raise an error where a logit would not fit."""
    largest = float(np.abs(logits).max())
    if largest > MAX_LOGIT:
        raise UserError(
            f"inference: the network's largest logit is {largest:.3g}, and the ring holds {MAX_LOGIT:g}; train "
            "with a lower training.learning_rate, or for fewer epochs"
        )


def check_error_bound(plain: Values, logits: Values, bounds: Values, how: str) -> float:
    """Return the largest error of an image's logits over its bound.

    Raises
    ------
    UserError
        It is above 1: then a prediction may differ where it must not.
    """
    errors = np.abs(logits - plain).max(axis=1)
    off = np.flatnonzero(~(errors <= bounds))
    if len(off):
        raise UserError(
            f"inference: {len(off)} of {len(plain)} images in {how} have a logit that is off by more than the bound of "
            f"its error, the first {errors[off[0]]:.3g} where at most {bounds[off[0]]:.3g} is possible; nothing is "
            "published while encrypted predictions are not those in the clear"
        )
    return float((errors / bounds).max())


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 4)
