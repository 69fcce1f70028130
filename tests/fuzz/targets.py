"""Readers of other parties' messages: each accepts one message, or refuses it with one of a few errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ppml.aggregation.envelope import HEADER_BYTES, header_of, make_envelope
from ppml.aggregation.factory import build_parties, build_server_side
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.interfaces import UPLOAD, ProtectedUpdate, SecretKeyExposed
from ppml.aggregation.lattice import length_prefixed, require_public_key, serialize, split_length_prefixed
from ppml.aggregation.plaintext import PlaintextAggregation
from ppml.config.technique import Bfv, Ckks, Masking, SecretSharing
from ppml.encrypted_inference.client import ImageOwner
from ppml.encrypted_inference.network import Affine, PolynomialNetwork
from ppml.encrypted_inference.server import BATCH, KEYS, ONE, InferenceServer
from ppml.errors import InvalidUpdate
from ppml.federation.reply_validation import refuse_malformed

from ..aggregation.local import Local
from ..aggregation.share_faults import send_unreadable_shares
from .mutations import Mutator

CODEC = FixedPointCodec(8.0, 20)
Take = Callable[[], object]
"""Reads one message."""


@dataclass(frozen=True)
class Target:
    """A reader of messages.

    Parameters
    ----------
    name : str
        Name of the reader.
    changed : callable
        Returns the reading of a message that a mutator has changed.
    honest : callable
        Reads an unchanged message.
    """

    name: str
    changed: Callable[[Mutator], Take]
    honest: Take


REFUSALS = (InvalidUpdate, SecretKeyExposed)


def updates(count: int) -> list[np.ndarray]:
    """Return updates of ``count`` values, of three clients."""
    return [np.random.default_rng(client).integers(-1000, 1000, count) for client in range(3)]


# Uploads.


def in_the_clear() -> Iterator[Target]:
    """Yield the reader of plaintext uploads."""
    side = PlaintextAggregation(CODEC, 3)
    sent = [side.protect(update) for update in updates(500)]

    def take(sealed: ProtectedUpdate) -> None:
        side.check(sealed, 0, 1)
        side.reveal(side.add([sealed, sent[1]]))

    def changed(mutator: Mutator) -> Take:
        payload = mutator.changed(sent[0].payload, [one.payload for one in sent[1:]])
        return partial(take, ProtectedUpdate("plaintext", 500, payload))

    yield Target("plaintext: uploads", changed, partial(take, sent[0]))


def encrypted(spec: Ckks | Bfv) -> Iterator[Target]:
    """Yield the readers of uploads, of sums and of public keys under one scheme."""
    local = Local(spec, 3)
    server, scheme, count = local.server(), local.scheme, local.scheme.encoding.values + 100
    name = f"{spec.kind} {spec.keys}"
    sent = [local.protect(update, client, 1) for client, update in enumerate(updates(count))]
    sent.append(local.protect(updates(count)[0], 0, 2))
    foreign = Local(spec, 3).protect(updates(count)[0], 0, 1)
    total = server.add(sent[:2])
    payloads = [one.payload for one in (*sent[1:], foreign, total)]

    def streams_of(sealed: ProtectedUpdate) -> list[bytes]:
        return [bytes(one) for one in split_length_prefixed(memoryview(sealed.payload)[32 + HEADER_BYTES :])]

    streams = [one for each in (*sent[1:], foreign, total) for one in streams_of(each)]
    streams.append(local.material())

    def resealed(mutator: Mutator, sealed: ProtectedUpdate, origin: bytes) -> ProtectedUpdate:
        if mutator.rng.random() < 0.25:
            return ProtectedUpdate(scheme.name, count, mutator.changed(sealed.payload, payloads))
        return scheme.pack(local.fingerprint, count, mutator.chunks(streams_of(sealed), streams), origin)

    def take(sealed: ProtectedUpdate) -> None:
        server.check(sealed, 0, 1)
        server.add([sealed, sent[1]])

    def opened(sealed: ProtectedUpdate) -> None:
        local.reveal(sealed)

    def public(material: bytes) -> None:
        require_public_key(scheme.context, material)

    yield Target(
        f"{name}: uploads",
        lambda mutator: partial(take, resealed(mutator, sent[0], header_of(0, 1))),
        partial(take, sent[0]),
    )
    yield Target(
        f"{name}: sums",
        lambda mutator: partial(opened, resealed(mutator, total, bytes(HEADER_BYTES))),
        partial(opened, total),
    )
    key = local.material()
    yield Target(
        f"{name}: public keys",
        lambda mutator: partial(public, mutator.stream(key, streams)),
        partial(public, key),
    )


# Masks and shares.


def masks() -> Iterator[Target]:
    """Yield the readers of a client's replies and of its upload in secure aggregation."""
    both = build_parties(Masking(threshold=3), 4)
    server, clients = build_server_side(Masking(threshold=3), 4, both.material), range(4)
    heard: dict[str, dict[int, bytes]] = {}
    for step in ("keys", "shares", "encrypted_shares", "disputes"):
        if step == "shares":
            # Clients 0 and 1 complain about each other, so that each step has a message.
            send_unreadable_shares(both.clients, {0: [1], 1: [0]})
        heard[step] = _step(server, both.clients, step)
    told = server.request(UPLOAD, clients, 1)
    for client in clients:
        both.clients.respond(UPLOAD, client, 1, told[client])
    values = updates(300)[0]
    uploads = [both.clients.protect(values, client, 1) for client in clients]
    for one, client in zip(uploads, clients, strict=True):
        server.check(one, client, 1)

    def take(sealed: ProtectedUpdate) -> None:
        server.check(sealed, 0, 1)

    yield Target("masks: uploads", partial(_changed_upload, uploads, take), partial(take, uploads[0]))
    heard["unmask"] = _step(server, both.clients, "unmask")
    for step, said in heard.items():

        def hear(content: bytes, step: str = step) -> None:
            try:
                with refuse_malformed("its reply"):
                    server.handle_reply(step, 0, content)
                    if step == "unmask":
                        server.add(uploads)
            finally:
                server.handle_reply(step, 0, heard[step][0])

        def changed(mutator: Mutator, said: dict[int, bytes] = said, hear: Any = hear) -> Take:
            return partial(hear, mutator.changed(said[0], [said[client] for client in sorted(said)[1:3]]))

        yield Target(f"masks: {step}", changed, partial(hear, said[0]))


def _step(server: Any, side: Any, step: str) -> dict[int, bytes]:
    told = server.request(step, range(4), 1)
    said = {client: side.respond(step, client, 1, content) for client, content in told.items()}
    for client, content in said.items():
        server.handle_reply(step, client, content)
    return said


def _changed_upload(
    uploads: Sequence[ProtectedUpdate], take: Callable[[ProtectedUpdate], object], mutator: Mutator
) -> Take:
    """Return the reading of a changed upload, mostly with a correct checksum."""
    one, others = uploads[0], [other.payload for other in uploads[1:]]
    if mutator.rng.random() < 0.3:
        return partial(take, ProtectedUpdate(one.scheme, one.length, mutator.changed(one.payload, others)))
    content = mutator.changed(one.payload[16 + HEADER_BYTES :], [other[16 + HEADER_BYTES :] for other in others])
    return partial(take, make_envelope(one.scheme, one.length, content, header_of(0, 1)))


def shares() -> Iterator[Target]:
    """Yield the reader of secret-shared uploads, with two share servers in processes of their own."""
    both = build_parties(SecretSharing(), 3)
    server = build_server_side(SecretSharing(), 3, both.material)
    uploads = [both.clients.protect(update, client, 1) for client, update in enumerate(updates(300))]

    def take(sealed: ProtectedUpdate) -> None:
        with refuse_malformed("its update"):
            server.check(sealed, 0, 1)

    yield Target("shares: uploads", partial(_changed_upload, uploads, take), partial(take, uploads[0]))


# Prediction.


def prediction() -> Iterator[Target]:
    """Yield the readers of inference requests, of evaluation keys and of replies."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (10, 64))
    network = PolynomialNetwork((Affine(weights, rng.normal(0, 0.1, 10), np.ones_like(weights, dtype=bool)),))
    server, client, other = InferenceServer(network), ImageOwner(network), ImageOwner(network)
    images = rng.random((3, 64))
    keys = client.evaluation_keys()
    server.answer(KEYS, keys)
    of_keys = [keys, other.evaluation_keys()]
    one = [client.encrypt_image(image) for image in images]
    many = client.encrypt_batch(images)
    answers = [server.answer(ONE, one[0]), server.answer(BATCH, many)]
    secret = serialize(client._generator.secret_key())
    others = [*one[1:], other.encrypt_image(images[0]), answers[0]]
    streams = [*(stream for message in others for stream in _streams(message)), *_streams(keys), secret]

    def changed(message: bytes, mutator: Mutator) -> bytes:
        if mutator.rng.random() < 0.2:
            return mutator.changed(message, [*others, *of_keys, many])
        return length_prefixed(mutator.chunks(_streams(message), streams))

    def target(name: str, message: bytes, take: Callable[[bytes], object]) -> Target:
        return Target(name, lambda mutator: partial(take, changed(message, mutator)), partial(take, message))

    yield target("prediction: questions", one[0], partial(server.answer, ONE))
    yield target("prediction: batches", many, partial(server.answer, BATCH))
    yield target("prediction: keys", keys, partial(_with_keys, server, keys))
    yield target("prediction: answers", answers[0], client.decrypt_image)
    yield target("prediction: answers to batches", answers[1], lambda answer: client.decrypt_batch(answer, 3))


def _streams(message: bytes) -> list[bytes]:
    return [bytes(stream) for stream in split_length_prefixed(memoryview(message))]


def _with_keys(server: InferenceServer, honest: bytes, material: bytes) -> None:
    kept = server._keys
    try:
        server.answer(KEYS, material)
    finally:
        server._keys = kept


GROUPS: dict[str, Callable[[], Iterator[Target]]] = {
    "plaintext": in_the_clear,
    **{
        f"{kind.__name__.lower()} {keys}": partial(encrypted, kind(keys=keys))  # type: ignore[call-arg]
        for kind in (Ckks, Bfv)
        for keys in ("public", "shared")
    },
    "masks": masks,
    "shares": shares,
    "prediction": prediction,
}
"""Readers by group."""
