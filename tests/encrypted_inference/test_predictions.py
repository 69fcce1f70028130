"""The server predicts encrypted images as the model does; invalid requests are refused."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import numpy as np
import pytest
from tenseal import sealapi

from ppml.aggregation.lattice import deserialize, length_prefixed, serialize, split_length_prefixed
from ppml.encrypted_inference import evaluation
from ppml.encrypted_inference.ckks_parameters import MAX_LOGIT, SCALE, Ring
from ppml.encrypted_inference.client import ImageOwner
from ppml.encrypted_inference.error_bound import batch_bound, single_bound
from ppml.encrypted_inference.evaluation import InferenceCost, InferenceResult, evaluate_encrypted
from ppml.encrypted_inference.network import Affine, PolynomialNetwork
from ppml.encrypted_inference.server import BATCH, KEYS, ONE, SECONDS, InferenceServer, start_inference_server
from ppml.errors import InvalidUpdate, UserError
from ppml.ipc.process import RpcConnection

from ..federation.scanner import holds_a_run, secret_words
from .networks import known

LABELS = np.zeros(64, dtype=np.int64)


def silent(text: str) -> None:
    """Print nothing."""


class Pair:
    """A client, and a server with its keys."""

    def __init__(self, name: str) -> None:
        self.network, self.images = known(name)
        self.client, self.server = ImageOwner(self.network), InferenceServer(self.network)
        self.material = self.client.evaluation_keys()
        self.server.answer(KEYS, self.material)
        self.plain = self.network.logits(self.images)

    def one(self, place: int) -> np.ndarray:
        return self.client.decrypt_image(self.server.answer(ONE, self.client.encrypt_image(self.images[place])))


@pytest.fixture(scope="module")
def small() -> Pair:
    return Pair("small")


@pytest.fixture(scope="module")
def cnn() -> Pair:
    return Pair("square_cnn")


def test_batch_error_is_within_tight_bound(small: Pair) -> None:
    answer = small.server.answer(BATCH, small.client.encrypt_batch(small.images))
    found = small.client.decrypt_batch(answer, len(small.images))
    shares = np.abs(found - small.plain).max(axis=1) / batch_bound(small.network, small.images)
    assert 1 / 30 < shares.max() < 1


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_single_image_error_is_within_tight_bound(name: str, request: pytest.FixtureRequest) -> None:
    pair = request.getfixturevalue(name)
    shares = [
        np.abs(pair.one(place) - pair.plain[place]).max() / single_bound(pair.network, pair.images[place])
        for place in range(4)
    ]
    assert 1 / 30 < max(shares) < 1


def test_logistic_regression_needs_small_ring() -> None:
    pair = Pair("logistic")
    assert pair.client.ring.degree == 4096
    found = np.stack([pair.one(place) for place in range(8)])
    bounds = np.array([single_bound(pair.network, image) for image in pair.images[:8]])
    assert (np.abs(found - pair.plain[:8]).max(axis=1) < bounds).all()
    assert (found.argmax(axis=1) == pair.plain[:8].argmax(axis=1)).all()


@pytest.mark.parametrize("times", [3.0, 0.2])
def test_bound_scales_with_weights(times: float) -> None:
    network, images = known("small")
    first, *others = network.layers
    other = PolynomialNetwork((Affine(times * first.weights, first.bias, first.support), *others))
    plain = other.logits(images)
    client, server = ImageOwner(other), InferenceServer(other)
    server.answer(KEYS, client.evaluation_keys())
    for image, logits in zip(images[:4], plain, strict=False):
        error = np.abs(client.decrypt_image(server.answer(ONE, client.encrypt_image(image))) - logits).max()
        assert error < single_bound(other, image)
    assert (batch_bound(other, images).mean() > batch_bound(network, images).mean()) == (times > 1)


def test_dead_units_are_supported() -> None:
    """SEAL refuses to multiply by 0."""
    alive, images = known("small")
    network = copy.deepcopy(alive)
    _, second, last = network.layers
    second.weights[2], last.weights[:, 2], last.weights[4] = 0.0, 0.0, 0.0
    plain = network.logits(images)
    client, server = ImageOwner(network), InferenceServer(network)
    server.answer(KEYS, client.evaluation_keys())
    found = client.decrypt_image(server.answer(ONE, client.encrypt_image(images[0])))
    assert np.abs(found - plain[0]).max() < single_bound(network, images[0])
    many = client.decrypt_batch(server.answer(BATCH, client.encrypt_batch(images[:2])), 2)
    assert np.abs(many - plain[:2]).max() < batch_bound(network, images[:2]).max()


@pytest.mark.parametrize("maps", [1, 2, 3, 4])
def test_ring_has_128_bits_of_security(maps: int) -> None:
    ring = Ring(maps)
    assert ring.context().parameters_set()
    assert sum(ring.bits) <= {4096: 109, 8192: 218, 16384: 438}[ring.degree]


def test_too_deep_network_is_refused() -> None:
    with pytest.raises(ValueError, match="15 maps need 938 bits, more than any ring has"):
        _ = Ring(15).degree


# Keys.


def secret_key_words(client: ImageOwner) -> np.ndarray:
    secret = client._generator.secret_key()
    polynomial = secret.data()
    coefficients = np.array([polynomial[place] for place in range(polynomial.coeff_count())], dtype="<u8")
    # The header is the same in every SEAL stream.
    return secret_words([coefficients.tobytes(), serialize(secret)], known=client.evaluation_keys()[:100])


def test_client_messages_do_not_contain_secret_key(small: Pair) -> None:
    words = secret_key_words(small.client)
    sent = [small.material, small.client.encrypt_image(small.images[0]), small.client.encrypt_batch(small.images)]
    assert not any(holds_a_run(message, words) for message in sent)
    # The scan finds a planted key.
    planted = length_prefixed(
        [
            *map(bytes, split_length_prefixed(memoryview(small.material))),
            serialize(small.client._generator.secret_key()),
        ]
    )
    assert holds_a_run(planted, words)


def test_secret_key_among_evaluation_keys_is_refused(small: Pair) -> None:
    streams = [bytes(stream) for stream in split_length_prefixed(memoryview(small.material))]
    secret = serialize(small.client._generator.secret_key())
    for planted in ([*streams, secret], [secret, streams[1]], [streams[0], secret]):
        with pytest.raises(InvalidUpdate, match="contains a secret key"):
            InferenceServer(small.network).answer(KEYS, length_prefixed(planted))


def test_server_survives_secret_key(small: Pair) -> None:
    line, stop = start_inference_server(small.network)
    try:
        with pytest.raises(InvalidUpdate, match="contains a secret key"):
            line.ask(KEYS, length_prefixed([serialize(small.client._generator.secret_key())]))
        assert line.ask(KEYS, small.material) == b""
    finally:
        stop()


def test_server_has_no_object_that_decrypts(small: Pair) -> None:
    seen, waiting = set(), [small.server]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        assert not isinstance(one, sealapi.SecretKey | sealapi.Decryptor | sealapi.KeyGenerator | ImageOwner)
        if type(one).__module__.startswith(("ppml", "builtins")):
            waiting += gc.get_referents(one)
    assert len(seen) > 20


# Invalid requests.


def chunks(message: bytes) -> list[bytes]:
    return [bytes(chunk) for chunk in split_length_prefixed(memoryview(message))]


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda sent: sent[:-1], "truncated"),
    "one too few": (lambda sent: length_prefixed(chunks(sent)[:-1]), r"\d+ ciphertexts instead of \d+"),
    "one too many": (
        lambda sent: length_prefixed([*chunks(sent), chunks(sent)[0]]),
        r"\d+ ciphertexts instead of \d+|a message of \d+ bytes",
    ),
    "nothing": (lambda sent: b"", r"0 ciphertexts instead of \d+"),
    "no ciphertext": (
        lambda sent: length_prefixed([b"x" * 40] * len(chunks(sent))),
        "another length than its header says",
    ),
    "cut within": (
        lambda sent: length_prefixed([one[:-9] for one in chunks(sent)]),
        "another length than its header says",
    ),
}


@pytest.mark.parametrize("question", [ONE, BATCH])
@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_request_is_refused(small: Pair, fault: str, question: bytes) -> None:
    spoil, message = FAULTS[fault]
    image = small.images[0]
    sent = small.client.encrypt_image(image) if question == ONE else small.client.encrypt_batch(image[None])
    with pytest.raises(InvalidUpdate, match=message):
        small.server.answer(question, spoil(sent))
    assert np.abs(small.one(0) - small.plain[0]).max() < 1e-2


def fresh(pair: Pair, scale: float = SCALE) -> sealapi.Ciphertext:
    """Return a freshly encrypted ciphertext."""
    plain = sealapi.Plaintext()
    pair.client._encoder.encode([0.5], scale, plain)
    message = serialize(pair.client._encryptor.encrypt_symmetric(plain))
    return deserialize(sealapi.Ciphertext(), pair.client._context, message)


def in_another_form(pair: Pair) -> sealapi.Ciphertext:
    cipher = fresh(pair)
    sealapi.Evaluator(pair.client._context).transform_from_ntt_inplace(cipher)
    return cipher


def squared(pair: Pair) -> sealapi.Ciphertext:
    cipher = fresh(pair, 2.0**15)
    sealapi.Evaluator(pair.client._context).square_inplace(cipher)
    return cipher


ODD: dict[str, tuple[Callable[[Pair], sealapi.Ciphertext], str]] = {
    "another scale": (lambda pair: fresh(pair, SCALE / 2), "at scale 5.36871e\\+08, not 1.07374e\\+09"),
    "three polynomials": (squared, "not fresh"),
    "another form": (in_another_form, "not fresh"),
}


@pytest.mark.parametrize("kind", ODD)
def test_unusual_ciphertext_is_refused(small: Pair, kind: str) -> None:
    make, message = ODD[kind]
    with pytest.raises(InvalidUpdate, match=message):
        small.server.answer(
            ONE, length_prefixed([serialize(make(small))] * len(small.client.layout.input_packing.index))
        )


def test_ciphertext_of_other_ring_is_refused(small: Pair) -> None:
    other = Pair("logistic").client
    wrong = length_prefixed(
        [chunks(other.encrypt_image(np.zeros(784)))[0]] * len(small.client.layout.input_packing.index)
    )
    with pytest.raises(InvalidUpdate, match="no ciphertext of this ring"):
        small.server.answer(ONE, wrong)


def test_answer_as_request_is_refused(small: Pair) -> None:
    answer = small.server.answer(ONE, small.client.encrypt_image(small.images[0]))
    with pytest.raises(InvalidUpdate, match="not fresh"):
        small.server.answer(ONE, length_prefixed(chunks(answer) * len(small.client.layout.input_packing.index)))


@pytest.mark.parametrize("question", [ONE, BATCH])
def test_request_without_keys_is_refused(small: Pair, question: bytes) -> None:
    with pytest.raises(InvalidUpdate, match="evaluation keys are missing"):
        InferenceServer(small.network).answer(question, small.client.encrypt_image(small.images[0]))


def lacking(pair: Pair) -> bytes:
    """Return evaluation keys with only one rotation."""
    few = pair.client._generator.create_galois_keys([3])
    return length_prefixed([chunks(pair.material)[0], serialize(few)])


BAD_KEYS: dict[str, tuple[Callable[[Pair], bytes], str]] = {
    "another ring's": (lambda pair: Pair("logistic").material, "invalid evaluation keys"),
    "in the other order": (lambda pair: length_prefixed(chunks(pair.material)[::-1]), "relinearization"),
    "one twice": (lambda pair: length_prefixed(chunks(pair.material)[:1] * 2), "relinearization"),
    "too few rotations": (lacking, "rotation keys"),
    "one alone": (lambda pair: length_prefixed(chunks(pair.material)[:1]), "invalid evaluation keys"),
    "another client's, then nothing": (
        lambda pair: length_prefixed([chunks(ImageOwner(pair.network).evaluation_keys())[0], b"x" * 40]),
        "invalid evaluation keys",
    ),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_bad_keys_are_refused_and_old_keys_stay(small: Pair, kind: str) -> None:
    make, message = BAD_KEYS[kind]
    with pytest.raises(InvalidUpdate, match=message):
        small.server.answer(KEYS, make(small))
    assert np.abs(small.one(0) - small.plain[0]).max() < 1e-2


def test_client_refuses_more_images_than_slots(small: Pair) -> None:
    with pytest.raises(ValueError, match="5000 images in a batch of 4096 slots"):
        small.client.encrypt_batch(np.zeros((5000, 144)))


@pytest.mark.parametrize("answer", [b"", length_prefixed([b"x" * 40]), length_prefixed([b"x" * 40] * 10)])
def test_client_refuses_invalid_answer(small: Pair, answer: bytes) -> None:
    with pytest.raises(InvalidUpdate, match="answer"):
        small.client.decrypt_image(answer)
    with pytest.raises(InvalidUpdate, match="answer"):
        small.client.decrypt_batch(answer, 3)


# Evaluation.


def evaluated(
    network: PolynomialNetwork, *, served: PolynomialNetwork | None = None, single_images: int = 1
) -> tuple[InferenceResult, InferenceCost]:
    """Evaluate ``network`` with a server that predicts with ``served``."""
    images = known("small")[1]
    line, stop = start_inference_server(served or network)
    try:
        return evaluate_encrypted(network, line, images, LABELS, single_images=single_images, report=silent)
    finally:
        stop()


def test_evaluation_reports_predictions_and_cost() -> None:
    network, images = known("small")
    labels = network.logits(images).argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 10
    lines: list[str] = []
    line, stop = start_inference_server(network)
    try:
        result, cost = evaluate_encrypted(network, line, images, labels, single_images=2, report=lines.append)
    finally:
        stop()
    assert (result.images, cost.right, result.plain_right, result.single_images) == (64, 60, 60, 2)
    assert (result.degree, result.modulus_bits) == (8192, 218)
    assert result.sure >= 60 and cost.differ == 0
    assert 0 < cost.error < result.bound and 0 < cost.error_share < 1
    # A seed replaces half of a ciphertext; the answer has one prime left.
    assert len(images[0]) * 150_000 < cost.batch_up < len(images[0]) * 260_000
    assert cost.slots == 4096 and cost.one_down < 100_000 < cost.one_up
    assert cost.one_server > 0.01 and cost.batch_server > cost.one_server
    assert lines == ["64 of 64 images in batches", "2 images one by one"]


def test_server_is_separate_process() -> None:
    line, stop = start_inference_server(known("small")[0])
    assert isinstance(line, RpcConnection) and len(line.ask(SECONDS)) == 8
    with pytest.raises(InvalidUpdate, match="gives no answer to that"):
        line.ask(b"?")
    stop()
    with pytest.raises(ChildProcessError, match="the server has ended"):
        line.ask(SECONDS)


def test_stopped_server_is_user_error() -> None:
    network, images = known("small")
    line, stop = start_inference_server(network)
    stop()
    with pytest.raises(UserError, match="inference: the server has ended"):
        evaluate_encrypted(network, line, images, LABELS, single_images=1, report=silent)


def test_evaluation_keys_of_other_client_are_detected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Confused(ImageOwner):
        def evaluation_keys(self) -> bytes:
            return ImageOwner(known("small")[0]).evaluation_keys()

    monkeypatch.setattr(evaluation, "ImageOwner", Confused)
    with pytest.raises(UserError, match=r"64 of 64 images in a batch .* nothing is published"):
        evaluated(known("small")[0])


def test_server_with_other_weights_is_detected() -> None:
    network, _ = known("small")
    *others, last = network.layers
    with pytest.raises(UserError, match="have an error above the bound"):
        evaluated(network, served=PolynomialNetwork((*others, Affine(last.weights + 1e-3, last.bias, last.support))))


def test_large_logits_are_refused_before_encryption() -> None:
    network, images = known("small")
    *others, last = network.layers
    largest = np.abs(network.logits(images) - last.bias).max()
    wide = PolynomialNetwork((*others, Affine(last.weights * (1.1 * MAX_LOGIT / largest), last.bias, last.support)))
    with pytest.raises(UserError, match=r"largest logit is .*; at most 128 fits"):
        evaluated(wide)
