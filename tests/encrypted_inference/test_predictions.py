"""The server predicts encrypted images as the model does; invalid requests are refused."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


class Pair:
    """A client, and a server with its keys."""

    def __init__(self, network: PolynomialNetwork, images: np.ndarray) -> None:
        self.network, self.images = network, images
        self.client, self.server = ImageOwner(network), InferenceServer(network)
        self.material = self.client.evaluation_keys()
        self.server.answer(KEYS, self.material)
        self.plain = network.logits(images)

    def one(self, place: int) -> np.ndarray:
        return self.client.decrypt_image(self.server.answer(ONE, self.client.encrypt_image(self.images[place])))

    def batch(self, count: int) -> np.ndarray:
        answer = self.server.answer(BATCH, self.client.encrypt_batch(self.images[:count]))
        return self.client.decrypt_batch(answer, count)

    def check_image_is_predicted(self) -> None:
        """Check that the server still has the keys of the client."""
        assert np.abs(self.one(0) - self.plain[0]).max() < 1e-2


@contextmanager
def served(network: PolynomialNetwork) -> Iterator[RpcConnection]:
    """Start a server in a process of its own."""
    line, stop = start_inference_server(network)
    try:
        yield line
    finally:
        stop()


@pytest.fixture(scope="module")
def small() -> Pair:
    return Pair(*known("small"))


@pytest.fixture(scope="module")
def cnn() -> Pair:
    return Pair(*known("square_cnn"))


def test_batch_error_is_within_tight_bound(small: Pair) -> None:
    shares = np.abs(small.batch(len(small.images)) - small.plain).max(axis=1) / batch_bound(small.network, small.images)
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
    pair = Pair(*known("logistic"))
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
    pair = Pair(other, images)
    for place in range(4):
        assert np.abs(pair.one(place) - pair.plain[place]).max() < single_bound(other, images[place])
    assert (batch_bound(other, images).mean() > batch_bound(network, images).mean()) == (times > 1)


def test_dead_units_are_supported() -> None:
    """SEAL refuses to multiply by 0."""
    alive, images = known("small")
    network = copy.deepcopy(alive)
    _, second, last = network.layers
    second.weights[2], last.weights[:, 2], last.weights[4] = 0.0, 0.0, 0.0
    pair = Pair(network, images)
    assert np.abs(pair.one(0) - pair.plain[0]).max() < single_bound(network, images[0])
    assert np.abs(pair.batch(2) - pair.plain[:2]).max() < batch_bound(network, images[:2]).max()


@pytest.mark.parametrize("maps", [1, 2, 3, 4])
def test_ring_has_128_bits_of_security(maps: int) -> None:
    ring = Ring(maps)
    assert ring.context().parameters_set()
    assert sum(ring.bits) <= {4096: 109, 8192: 218, 16384: 438}[ring.degree]


def test_too_deep_network_is_refused() -> None:
    with pytest.raises(ValueError, match="15 maps need 938 bits, more than any ring has"):
        _ = Ring(15).degree


# Keys.


def chunks(message: bytes) -> list[bytes]:
    return [bytes(chunk) for chunk in split_length_prefixed(memoryview(message))]


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
    planted = length_prefixed([*chunks(small.material), serialize(small.client._generator.secret_key())])
    assert holds_a_run(planted, words)


def test_secret_key_among_evaluation_keys_is_refused(small: Pair) -> None:
    streams = chunks(small.material)
    secret = serialize(small.client._generator.secret_key())
    for planted in ([*streams, secret], [secret, streams[1]], [streams[0], secret]):
        with pytest.raises(InvalidUpdate, match="contains a secret key"):
            InferenceServer(small.network).answer(KEYS, length_prefixed(planted))


def test_server_survives_secret_key(small: Pair) -> None:
    with served(small.network) as line:
        with pytest.raises(InvalidUpdate, match="contains a secret key"):
            line.ask(KEYS, length_prefixed([serialize(small.client._generator.secret_key())]))
        assert line.ask(KEYS, small.material) == b""


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
    small.check_image_is_predicted()


def fresh(pair: Pair, scale: float = SCALE) -> sealapi.Ciphertext:
    """Return a freshly encrypted ciphertext."""
    plain = sealapi.Plaintext()
    pair.client._encoder.encode([0.5], scale, plain)
    message = serialize(pair.client._encryptor.encrypt_symmetric(plain))
    return deserialize(sealapi.Ciphertext(), pair.client._context, message)


def in_another_form(pair: Pair) -> bytes:
    cipher = fresh(pair)
    sealapi.Evaluator(pair.client._context).transform_from_ntt_inplace(cipher)
    return serialize(cipher)


def squared(pair: Pair) -> bytes:
    cipher = fresh(pair, 2.0**15)
    sealapi.Evaluator(pair.client._context).square_inplace(cipher)
    return serialize(cipher)


ODD: dict[str, tuple[Callable[[Pair], bytes], str]] = {
    "another scale": (lambda pair: serialize(fresh(pair, SCALE / 2)), "at scale 5.36871e\\+08, not 1.07374e\\+09"),
    "three polynomials": (squared, "not fresh"),
    "another form": (in_another_form, "not fresh"),
    "another ring": (
        lambda pair: chunks(ImageOwner(known("logistic")[0]).encrypt_image(np.zeros(784)))[0],
        "no ciphertext of this ring",
    ),
    "an answer": (
        lambda pair: chunks(pair.server.answer(ONE, pair.client.encrypt_image(pair.images[0])))[0],
        "not fresh",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_unusual_ciphertext_is_refused(small: Pair, kind: str) -> None:
    make, message = ODD[kind]
    with pytest.raises(InvalidUpdate, match=message):
        small.server.answer(ONE, length_prefixed([make(small)] * len(small.client.layout.input_packing.index)))


@pytest.mark.parametrize("question", [ONE, BATCH])
def test_request_without_keys_is_refused(small: Pair, question: bytes) -> None:
    with pytest.raises(InvalidUpdate, match="evaluation keys are missing"):
        InferenceServer(small.network).answer(question, small.client.encrypt_image(small.images[0]))


def lacking(pair: Pair) -> bytes:
    """Return evaluation keys with only one rotation."""
    few = pair.client._generator.create_galois_keys([3])
    return length_prefixed([chunks(pair.material)[0], serialize(few)])


BAD_KEYS: dict[str, tuple[Callable[[Pair], bytes], str]] = {
    "another ring's": (lambda pair: ImageOwner(known("logistic")[0]).evaluation_keys(), "invalid evaluation keys"),
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
    small.check_image_is_predicted()


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


def evaluate(line: RpcConnection, network: PolynomialNetwork) -> tuple[InferenceResult, InferenceCost]:
    """Evaluate ``network`` with a server."""
    return evaluate_encrypted(network, line, known("small")[1], LABELS, single_images=1, report=lambda text: None)


def test_evaluation_reports_predictions_and_cost() -> None:
    network, images = known("small")
    labels = network.logits(images).argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 10
    lines: list[str] = []
    with served(network) as line:
        result, cost = evaluate_encrypted(network, line, images, labels, single_images=2, report=lines.append)
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
    network, _ = known("small")
    line, stop = start_inference_server(network)
    stop()
    with pytest.raises(UserError, match="inference: the server has ended"):
        evaluate(line, network)


def test_evaluation_keys_of_other_client_are_detected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Confused(ImageOwner):
        def evaluation_keys(self) -> bytes:
            return ImageOwner(known("small")[0]).evaluation_keys()

    monkeypatch.setattr(evaluation, "ImageOwner", Confused)
    network, _ = known("small")
    with (
        served(network) as line,
        pytest.raises(UserError, match=r"64 of 64 images in a batch .* nothing is published"),
    ):
        evaluate(line, network)


def test_server_with_other_weights_is_detected() -> None:
    network, _ = known("small")
    *others, last = network.layers
    other = PolynomialNetwork((*others, Affine(last.weights + 1e-3, last.bias, last.support)))
    with served(other) as line, pytest.raises(UserError, match="have an error above the bound"):
        evaluate(line, network)


def test_large_logits_are_refused_before_encryption() -> None:
    network, images = known("small")
    *others, last = network.layers
    largest = np.abs(network.logits(images) - last.bias).max()
    wide = PolynomialNetwork((*others, Affine(last.weights * (1.1 * MAX_LOGIT / largest), last.bias, last.support)))
    with served(wide) as line, pytest.raises(UserError, match=r"largest logit is .*; at most 128 fits"):
        evaluate(line, wide)
