"""Each source of error has the variance that is stated, in SEAL as it is."""

from __future__ import annotations

import numpy as np
import pytest
from tenseal import sealapi

from ppml.encrypted_inference.ckks_noise import KEY_TAIL_FACTOR, CkksNoise
from ppml.encrypted_inference.ckks_parameters import SCALE, CkksEvaluator, Ring
from ppml.encrypted_inference.network import Values

RING = Ring(3)
NOISE = CkksNoise(RING)
KEYS = 6


class Holder:
    """A key pair of the ring."""

    def __init__(self) -> None:
        self.evaluator = CkksEvaluator(RING)
        context = self.evaluator.context
        self.encoder, self.generator = sealapi.CKKSEncoder(context), sealapi.KeyGenerator(context)
        # Kept: what is made of it only refers to it.
        self.secret = self.generator.secret_key()
        self.encryptor = sealapi.Encryptor(context, self.secret)
        self.decryptor = sealapi.Decryptor(context, self.secret)

    def zeros(self, level: int = 0) -> sealapi.Ciphertext:
        plain, cipher = sealapi.Plaintext(), sealapi.Ciphertext()
        self.encoder.encode(0.0, self.evaluator.levels[level].parms_id, SCALE, plain)
        self.encryptor.encrypt_symmetric(plain, cipher)
        return cipher

    def opened(self, cipher: sealapi.Ciphertext) -> Values:
        plain = sealapi.Plaintext()
        self.decryptor.decrypt(cipher, plain)
        return np.array(self.encoder.decode_double(plain))


def test_fresh_encryption() -> None:
    holder = Holder()
    errors = np.concatenate([holder.opened(holder.zeros()) for _ in range(5)])
    assert errors.var() == pytest.approx(NOISE.fresh(), rel=0.1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_weights_of_a_slot_each(number: int) -> None:
    """The errors of real values are real: twice what half of them would be."""
    evaluator = CkksEvaluator(RING)
    encoder = sealapi.CKKSEncoder(evaluator.context)
    weights = np.random.default_rng(0).normal(size=RING.slots)
    errors = np.array(encoder.decode_double(evaluator.weight(weights.tolist(), number))) - weights
    assert errors.var() == pytest.approx(NOISE.encoding_of_vector(number), rel=0.1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_weight_that_all_slots_share(number: int) -> None:
    evaluator = CkksEvaluator(RING)
    encoder = sealapi.CKKSEncoder(evaluator.context)
    weights = np.random.default_rng(0).normal(size=300)
    errors = [encoder.decode_double(evaluator.weight(weight, number))[0] - weight for weight in weights.tolist()]
    assert np.var(errors) == pytest.approx(NOISE.encoding_of_scalar(number), rel=0.3)


def test_a_division_by_a_prime() -> None:
    """Of the mean slot: an unlucky one counts ``KEY_TAIL_FACTOR`` times."""
    squares = []
    for _ in range(KEYS):
        holder = Holder()
        cipher = holder.zeros()
        # At a scale that the division takes back to ours, so that nothing is seen but its rounding.
        plain = sealapi.Plaintext()
        last = float(holder.evaluator.levels[0].last)
        holder.encoder.encode(0.5, SCALE * last, plain)
        holder.encryptor.encrypt_symmetric(plain, cipher)
        holder.evaluator.evaluator.rescale_to_next_inplace(cipher)
        squares.append(np.mean((holder.opened(cipher) - 0.5) ** 2))
    assert np.mean(squares) == pytest.approx(NOISE.division_of_square() / KEY_TAIL_FACTOR, rel=0.25)


def test_a_rotation_and_that_the_first_slots_have_far_more() -> None:
    """Of six keys: in the mean slot, and in slot 0, where the root is next to 1."""
    number, everywhere, first = 1, [], []
    for _ in range(KEYS):
        holder = Holder()
        galois, turned = sealapi.GaloisKeys(), sealapi.Ciphertext()
        holder.generator.create_galois_keys([RING.power(64)], galois)
        holder.evaluator.evaluator.rotate_vector(holder.zeros(2 * number), 64, galois, turned)
        errors = holder.opened(turned)
        everywhere.append(errors[100:] ** 2)
        first.append(errors[0] ** 2)
    stated = NOISE.key_switching(number)
    # The rounding after the switch has no unlucky part here worth speaking of.
    assert np.mean(everywhere) == pytest.approx(stated[100:].mean() / KEY_TAIL_FACTOR, rel=0.4)
    assert stated[0] > 1000 * np.median(stated)
    assert 0.05 < np.mean(first) / (stated[0] / KEY_TAIL_FACTOR) < 6
