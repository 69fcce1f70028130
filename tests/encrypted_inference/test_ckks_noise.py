"""Each source of error has the stated variance in SEAL."""

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
        # Keep a reference: encryptor and decryptor do not copy the key.
        self.secret = self.generator.secret_key()
        self.encryptor = sealapi.Encryptor(context, self.secret)
        self.decryptor = sealapi.Decryptor(context, self.secret)

    def zeros(self, level: int = 0) -> sealapi.Ciphertext:
        plain, cipher = sealapi.Plaintext(), sealapi.Ciphertext()
        self.encoder.encode(0.0, self.evaluator.levels[level].parms_id, SCALE, plain)
        self.encryptor.encrypt_symmetric(plain, cipher)
        return cipher

    def decrypt(self, cipher: sealapi.Ciphertext) -> Values:
        plain = sealapi.Plaintext()
        self.decryptor.decrypt(cipher, plain)
        return np.array(self.encoder.decode_double(plain))


def test_fresh_encryption() -> None:
    holder = Holder()
    errors = np.concatenate([holder.decrypt(holder.zeros()) for _ in range(5)])
    assert errors.var() == pytest.approx(NOISE.fresh(), rel=0.1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_vector_weights(number: int) -> None:
    """Errors of real values are real, with twice the variance of the real part of complex errors."""
    evaluator = CkksEvaluator(RING)
    encoder = sealapi.CKKSEncoder(evaluator.context)
    weights = np.random.default_rng(0).normal(size=RING.slots)
    errors = np.array(encoder.decode_double(evaluator.weight(weights.tolist(), number))) - weights
    assert errors.var() == pytest.approx(NOISE.encoding_of_vector(number), rel=0.1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_scalar_weights(number: int) -> None:
    evaluator = CkksEvaluator(RING)
    encoder = sealapi.CKKSEncoder(evaluator.context)
    weights = np.random.default_rng(0).normal(size=300)
    errors = [encoder.decode_double(evaluator.weight(weight, number))[0] - weight for weight in weights.tolist()]
    assert np.var(errors) == pytest.approx(NOISE.encoding_of_scalar(number), rel=0.3)


def test_division_by_prime() -> None:
    """Compare the mean slot; a bound for the worst slot has the factor ``KEY_TAIL_FACTOR``."""
    squares = []
    for _ in range(KEYS):
        holder = Holder()
        cipher = holder.zeros()
        # The division restores the usual scale, so that the only error is its rounding.
        plain = sealapi.Plaintext()
        last = float(holder.evaluator.levels[0].last)
        holder.encoder.encode(0.5, SCALE * last, plain)
        holder.encryptor.encrypt_symmetric(plain, cipher)
        holder.evaluator.seal.rescale_to_next_inplace(cipher)
        squares.append(np.mean((holder.decrypt(cipher) - 0.5) ** 2))
    assert np.mean(squares) == pytest.approx(NOISE.division_of_square() / KEY_TAIL_FACTOR, rel=0.25)


def test_rotation_error_is_larger_in_first_slots() -> None:
    """Compare, for six keys, the mean slot and slot 0, where the root is close to 1."""
    number, everywhere, first = 1, [], []
    for _ in range(KEYS):
        holder = Holder()
        galois, rotated = sealapi.GaloisKeys(), sealapi.Ciphertext()
        holder.generator.create_galois_keys([RING.power(64)], galois)
        holder.evaluator.seal.rotate_vector(holder.zeros(2 * number), 64, galois, rotated)
        errors = holder.decrypt(rotated)
        everywhere.append(errors[100:] ** 2)
        first.append(errors[0] ** 2)
    stated = NOISE.key_switching(number)
    # The rounding after the key switching is negligible.
    assert np.mean(everywhere) == pytest.approx(stated[100:].mean() / KEY_TAIL_FACTOR, rel=0.4)
    assert stated[0] > 1000 * np.median(stated)
    assert 0.05 < np.mean(first) / (stated[0] / KEY_TAIL_FACTOR) < 6
