"""A server that cannot see the images predicts what the model predicts; what is sent amiss is refused by name."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tenseal import sealapi

from ppml.aggregation.lattice import packed, saved, unpacked
from ppml.aggregation.party import Line
from ppml.aggregation.protocol import BadUpdate, SecretKeyExposed
from ppml.encrypted import trial as trials
from ppml.encrypted.client import Client
from ppml.encrypted.error import logit_bound
from ppml.encrypted.network import Affine, Network
from ppml.encrypted.ring import LARGEST_LOGIT, Depth
from ppml.encrypted.server import BATCH, KEYS, ONE, SECONDS, Server, start_server
from ppml.encrypted.trial import try_network
from ppml.errors import UserError

from ..federation.scanner import holds_a_run, telling_words
from .networks import known

LABELS = np.zeros(64, dtype=np.int64)


def silent(text: str) -> None:
    """Say nothing."""


class Pair:
    """A client and a server that has its keys."""

    def __init__(self, name: str) -> None:
        self.network, self.images = known(name)
        self.client, self.server = Client(self.network), Server(self.network)
        self.material = self.client.evaluation_keys()
        self.server.answer(KEYS, self.material)
        self.plain = self.network.values(self.images)[-1]

    def one(self, place: int) -> np.ndarray:
        return self.client.open_one(self.server.answer(ONE, self.client.seal_one(self.images[place])), 10)


@pytest.fixture(scope="module")
def small() -> Pair:
    return Pair("small")


@pytest.fixture(scope="module")
def cnn() -> Pair:
    return Pair("square_cnn")


def test_a_batch_is_predicted_within_the_bound_and_the_bound_is_no_empty_word(small: Pair) -> None:
    answer = small.server.answer(BATCH, small.client.seal_batch(small.images))
    found = small.client.open_batch(answer, len(small.images))
    errors = np.abs(found - small.plain).max(axis=1)
    bounds = logit_bound(small.network, small.images)
    assert (errors < bounds).all()
    assert errors.max() > bounds.max() / 100
    assert bounds.max() < 0.01


@pytest.mark.parametrize("name", ["small", "cnn"])
def test_one_image_is_predicted_within_the_bound(name: str, request: pytest.FixtureRequest) -> None:
    pair = request.getfixturevalue(name)
    bounds = logit_bound(pair.network, pair.images)
    for place in range(3):
        assert np.abs(pair.one(place) - pair.plain[place]).max() < bounds[place]


def test_a_logistic_regression_is_evaluated_by_adding_and_multiplying_and_needs_a_small_ring() -> None:
    pair = Pair("logistic")
    assert pair.client.depth.degree == 4096
    found = np.stack([pair.one(place) for place in range(8)])
    assert np.abs(found - pair.plain[:8]).max() < 1e-3
    assert (found.argmax(axis=1) == pair.plain[:8].argmax(axis=1)).all()


def test_the_bound_holds_for_large_weights_too() -> None:
    """Errors grow with weights; the bound must follow."""
    pair = Pair("small")
    first, *others = pair.network.layers
    large = Network((Affine(3 * first.weights, first.bias, first.reads), *others))
    plain = large.values(pair.images)[-1]
    client, server = Client(large), Server(large)
    server.answer(KEYS, client.evaluation_keys())
    found = np.stack([client.open_one(server.answer(ONE, client.seal_one(one)), 10) for one in pair.images[:4]])
    assert np.abs(found - plain[:4]).max() < logit_bound(large, pair.images[:4]).max()
    assert logit_bound(large, pair.images).mean() > 2 * logit_bound(pair.network, pair.images).mean()


@pytest.mark.parametrize("maps", [1, 2, 3, 4])
def test_every_ring_has_128_bits_of_security(maps: int) -> None:
    depth = Depth(maps)
    assert depth.context().parameters_set()
    assert sum(depth.bits) <= {4096: 109, 8192: 218, 16384: 438}[depth.degree]


def test_a_network_too_deep_for_any_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="15 maps need 938 bits, more than any ring has"):
        _ = Depth(15).degree


# --- keys -----------------------------------------------------------------------------------------------------------


def secret_words(client: Client) -> np.ndarray:
    secret = client._generator.secret_key()
    polynomial = secret.data()
    coefficients = np.array([polynomial[place] for place in range(polynomial.coeff_count())], dtype="<u8")
    # How every stream of SEAL begins tells nothing.
    return telling_words([coefficients.tobytes(), saved(secret)], known=client.evaluation_keys()[:100])


def test_nothing_that_reaches_the_server_holds_the_secret_key(small: Pair) -> None:
    words = secret_words(small.client)
    sent = [small.material, small.client.seal_one(small.images[0]), small.client.seal_batch(small.images)]
    assert not any(holds_a_run(message, words) for message in sent)
    # The scan finds what it looks for.
    planted = packed([*map(bytes, unpacked(memoryview(small.material))), saved(small.client._generator.secret_key())])
    assert holds_a_run(planted, words)


def test_a_secret_key_among_the_material_is_refused(small: Pair) -> None:
    streams = [bytes(stream) for stream in unpacked(memoryview(small.material))]
    secret = saved(small.client._generator.secret_key())
    for planted in ([*streams, secret], [secret, streams[1]], [streams[0], secret]):
        with pytest.raises(SecretKeyExposed, match="holds a secret key"):
            Server(small.network).answer(KEYS, packed(planted))


def test_the_server_keeps_no_object_that_could_decrypt(small: Pair) -> None:
    seen, waiting = set(), [small.server]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        assert not isinstance(one, sealapi.SecretKey | sealapi.Decryptor | sealapi.KeyGenerator | Client)
        if type(one).__module__.startswith(("ppml", "builtins")):
            waiting += gc.get_referents(one)
    assert len(seen) > 20


# --- what is sent amiss ---------------------------------------------------------------------------------------------


def chunks(message: bytes) -> list[bytes]:
    return [bytes(chunk) for chunk in unpacked(memoryview(message))]


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda sent: sent[:-1], "cut off"),
    "one too few": (lambda sent: packed(chunks(sent)[:-1]), r"\d+ ciphertexts where \d+ are needed"),
    "one too many": (lambda sent: packed([*chunks(sent), chunks(sent)[0]]), r"\d+ ciphertexts where \d+ are needed"),
    "nothing": (lambda sent: b"", r"0 ciphertexts where \d+ are needed"),
    "no ciphertext": (lambda sent: packed([b"x" * 40] * len(chunks(sent))), "no ciphertext of this ring"),
    "cut within": (lambda sent: packed([one[:-9] for one in chunks(sent)]), "no ciphertext of this ring"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_question_is_refused_and_the_next_is_answered(small: Pair, fault: str) -> None:
    spoil, says = FAULTS[fault]
    with pytest.raises(BadUpdate, match=says):
        small.server.answer(ONE, spoil(small.client.seal_one(small.images[0])))
    assert np.abs(small.one(0) - small.plain[0]).max() < 1e-2


def test_a_ciphertext_of_another_ring_is_refused(small: Pair) -> None:
    other = Pair("logistic").client
    wrong = packed([chunks(other.seal_one(np.zeros(784)))[0]] * len(small.client.layout.taps.index))
    with pytest.raises(BadUpdate, match="no ciphertext of this ring"):
        small.server.answer(ONE, wrong)


def test_an_answer_sent_back_as_a_question_is_refused(small: Pair) -> None:
    answer = small.server.answer(ONE, small.client.seal_one(small.images[0]))
    with pytest.raises(BadUpdate, match="not fresh"):
        small.server.answer(ONE, packed(chunks(answer) * len(small.client.layout.taps.index)))


@pytest.mark.parametrize("question", [ONE, BATCH])
def test_without_keys_there_is_no_answer(small: Pair, question: bytes) -> None:
    with pytest.raises(BadUpdate, match="no evaluation keys were sent"):
        Server(small.network).answer(question, small.client.seal_one(small.images[0]))


def test_keys_of_another_ring_are_refused(small: Pair) -> None:
    with pytest.raises(BadUpdate, match="no evaluation keys of this ring"):
        small.server.answer(KEYS, Pair("logistic").material)
    assert np.abs(small.one(0) - small.plain[0]).max() < 1e-2


# --- the trial ------------------------------------------------------------------------------------------------------


def test_a_trial_says_what_was_predicted_and_what_it_cost() -> None:
    network, images = known("small")
    labels = network.values(images)[-1].argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 10
    lines: list[str] = []
    found, cost = try_network(network, images, labels, singly=2, say=lines.append)
    assert (found.images, found.right, found.plain_right, found.singly) == (64, 60, 60, 2)
    assert (found.degree, found.modulus_bits) == (8192, 218)
    assert found.sure >= 60 and cost.differ == 0
    assert 0 < cost.error < found.bound
    # A seed stands for half of a ciphertext; the answer has one prime left.
    assert len(images[0]) * 150_000 < cost.batch_up < len(images[0]) * 260_000
    assert cost.batch == 4096 and cost.one_down < 100_000 < cost.one_up
    assert cost.one_server > 0.01 and cost.batch_server > cost.one_server
    assert lines == ["64 of 64 images in batches", "2 images one by one"]


def test_the_server_of_a_trial_is_another_process_and_ends_with_it() -> None:
    line, stop = start_server(known("small")[0])
    assert isinstance(line, Line) and len(line.ask(SECONDS)) == 8
    with pytest.raises(BadUpdate, match="gives no answer to that"):
        line.ask(b"?")
    stop()
    with pytest.raises(ChildProcessError, match="the server is gone"):
        line.ask(SECONDS)


@pytest.fixture
def other_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the client encrypt under a key that the evaluation keys do not belong to."""

    class Confused(Client):
        def evaluation_keys(self) -> bytes:
            return Client(known("small")[0]).evaluation_keys()

    monkeypatch.setattr(trials, "Client", Confused)
    yield


@pytest.mark.usefixtures("other_key")
def test_evaluation_keys_of_another_client_are_noticed_and_nothing_is_published() -> None:
    network, images = known("small")
    with pytest.raises(UserError, match=r"64 of 64 images in a batch .* nothing is published while"):
        try_network(network, images, LABELS, singly=1, say=silent)


def test_a_server_with_other_weights_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = known("small")
    *others, last = network.layers
    near = Network((*others, Affine(last.weights + 1e-3, last.bias, last.reads)))
    monkeypatch.setattr(trials, "start_server", lambda network: start_server(near))
    with pytest.raises(UserError, match="off by more than the bound of its error"):
        try_network(network, images, LABELS, singly=1, say=silent)


def test_logits_that_would_wrap_round_are_refused_before_anything_is_encrypted() -> None:
    network, images = known("small")
    *others, last = network.layers
    largest = np.abs(network.values(images)[-1] - last.bias).max()
    wide = Network((*others, Affine(last.weights * (1.1 * LARGEST_LOGIT / largest), last.bias, last.reads)))
    with pytest.raises(UserError, match=r"largest logit is .*, and the ring holds 128"):
        try_network(wide, images, LABELS, singly=1, say=silent)
