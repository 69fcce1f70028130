"""One network tried on encrypted images: does it predict what it predicts in the clear, and what does that cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.party import Line
from ppml.encrypted.client import Client
from ppml.encrypted.error import logit_bound, margins
from ppml.encrypted.network import Network, Values
from ppml.encrypted.ring import LARGEST_LOGIT
from ppml.encrypted.server import BATCH, CPU_SECONDS, KEYS, ONE, SECONDS, start_server
from ppml.errors import UserError


@dataclass(frozen=True)
class Trial:
    """What was predicted.

    Parameters
    ----------
    images : int
        Sent in batches.
    right, plain_right : int
        Predictions, from encrypted images and in the clear, that are the label.
    sure : int
        Images whose largest logit is above the next by more than twice the bound: on these both must agree.
    bound : float
        The largest bound of a logit's error.
    singly : int
        Images that were also sent one by one.
    degree : int
        Of the ring.
    modulus_bits : int
        Of all its primes; at 128 bits of security at most 109 (degree 4096), 218 (8192).
    """

    images: int
    right: int
    plain_right: int
    sure: int
    bound: float
    singly: int
    degree: int
    modulus_bits: int


@dataclass(frozen=True)
class Cost:
    """What it took; seconds are of one core.

    Parameters
    ----------
    differ : int
        Images whose encrypted prediction is not the plain one.
    error : float
        The largest error of a logit.
    one_client, one_server : float
        CPU seconds for one image, sent alone: the median.
    one_up, one_down : int
        Bytes for one image, sent alone.
    batch : int
        Images of a full batch, as many as there are slots.
    batch_client, batch_server : float
        CPU seconds for one batch: the median. A batch that is not full takes as long.
    batch_up, batch_down : int
        Bytes for one batch.
    keys : int
        Bytes of the evaluation keys, sent once.
    keys_client : float
        CPU seconds for making them.
    """

    differ: int
    error: float
    one_client: float
    one_server: float
    one_up: int
    one_down: int
    batch: int
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


def try_network(
    network: Network,
    images: Values,
    labels: NDArray[np.int64],
    *,
    singly: int,
    say: Callable[[str], None],
) -> tuple[Trial, Cost]:
    """Predict ``images`` by a server that cannot see them.

    Parameters
    ----------
    network : Network
        What predicts.
    images : float64 array, shape ``(n, pixels)``
    labels : int64 array, shape ``(n,)``
    singly : int
        How many of the first images are also sent one by one.
    say : callable
        Gets a line after each batch.

    Raises
    ------
    UserError
        A logit is too large for the ring, off by more than its bound, or a prediction differs where it must not.
    """
    plain = network.values(images)[-1]
    refuse_large(plain)
    bounds = logit_bound(network, images)
    line, stop = start_server(network)
    try:
        client = Client(network)
        started = time.process_time()
        material = client.evaluation_keys()
        making = time.process_time() - started
        line.ask(KEYS, material)
        asker = _Asker(line, client, plain.shape[1])
        batches = []
        for start in range(0, len(images), client.depth.slots):
            batches.append(asker.batch(images[start : start + client.depth.slots]))
            say(f"{start + len(batches[-1].logits)} of {len(images)} images in batches")
        alone = [asker.one(image) for image in images[:singly]]
        say(f"{len(alone)} images one by one")
    finally:
        stop()
    logits = np.concatenate([batch.logits for batch in batches])
    each = np.concatenate([one.logits for one in alone])
    sure = margins(plain) > 2 * bounds
    refuse_difference(plain, logits, bounds, "a batch")
    refuse_difference(plain[: len(each)], each, bounds[: len(each)], "images sent alone")
    guessed, said = logits.argmax(axis=1), plain.argmax(axis=1)
    trial = Trial(
        images=len(images),
        right=int((guessed == labels).sum()),
        plain_right=int((said == labels).sum()),
        sure=int(sure.sum()),
        bound=float(bounds.max()),
        singly=len(each),
        degree=client.depth.degree,
        modulus_bits=sum(client.depth.bits),
    )
    error = max(np.abs(logits - plain).max(), np.abs(each - plain[: len(each)]).max())
    cost = Cost(
        differ=int((guessed != said).sum()),
        error=float(error),
        one_client=_median([one.client_seconds for one in alone]),
        one_server=_median([one.server_seconds for one in alone]),
        one_up=alone[0].up,
        one_down=alone[0].down,
        batch=client.depth.slots,
        batch_client=_median([batch.client_seconds for batch in batches]),
        batch_server=_median([batch.server_seconds for batch in batches]),
        batch_up=batches[0].up,
        batch_down=batches[0].down,
        keys=len(material),
        keys_client=round(making, 4),
    )
    return trial, cost


class _Asker:
    """Asks the server and measures."""

    def __init__(self, line: Line, client: Client, classes: int) -> None:
        self._line, self._client, self._classes = line, client, classes

    def batch(self, images: Values) -> Query:
        return self._ask(
            BATCH,
            lambda: self._client.seal_batch(images),
            lambda answer: self._client.open_batch(answer, len(images)),
        )

    def one(self, image: Values) -> Query:
        return self._ask(
            ONE,
            lambda: self._client.seal_one(image),
            lambda answer: self._client.open_one(answer, self._classes)[None],
        )

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


def refuse_large(logits: Values) -> None:
    """Raise an error where a logit would not fit."""
    largest = float(np.abs(logits).max())
    if largest > LARGEST_LOGIT:
        raise UserError(
            f"inference: the network's largest logit is {largest:.3g}, and the ring holds {LARGEST_LOGIT:g}; train "
            "with a lower training.learning_rate, or for fewer epochs"
        )


def refuse_difference(plain: Values, logits: Values, bounds: Values, how: str) -> None:
    """Raise an error where a logit is off by more than its bound: then predictions may differ where they must not."""
    errors = np.abs(logits - plain).max(axis=1)
    off = np.flatnonzero(~(errors <= bounds))
    if len(off):
        raise UserError(
            f"inference: {len(off)} of {len(plain)} images in {how} have a logit that is off by more than the bound of "
            f"its error, the first {errors[off[0]]:.3g} where at most {bounds[off[0]]:.3g} is possible; nothing is "
            "published while encrypted predictions are not those in the clear"
        )


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 4)
