"""Key recovery from approximate decryptions (Li & Micciancio, EUROCRYPT 2021, ePrint 2020/1533), tried on this project.

A ciphertext ``(c0, c1)`` of CKKS decrypts to ``m = c0 + c1 s``, the message with the error of the encryption. A party
with the ciphertext, such as the server, and all bits of ``m``, such as every recipient of a decryption, computes the
secret key ``s`` by a division. Two values per slot contain all of ``m``, so that one ciphertext suffices. One value per
slot contains half of it, so that two ciphertexts are needed, which an update of a few thousand values has in one round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from tenseal import sealapi

from ppml.aggregation.ckks import CkksEncoding
from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.aggregation.lattice import deserialize
from ppml.config.technique import Ckks

from .local import Local

CLIENTS = 5
SPEC = Ckks()
CODEC = FixedPointCodec(SPEC.clip, SPEC.fractional_bits)
DEGREE = SPEC.poly_modulus_degree
SCALE = 2.0**SPEC.scale_bits

Shown = Callable[[np.ndarray], np.ndarray]
"""The published part of a decrypted sum: float64 values in, float64 values out."""


@dataclass(frozen=True)
class Seen:
    """The server's knowledge about one encrypted sum.

    Parameters
    ----------
    cipher : list of NDArray
        ``c0`` and ``c1``, as Python integers modulo ``q``, at the roots of 1.
    average : NDArray
        Published sum divided by the number of clients; complex for two values per slot.
    """

    cipher: Sequence[np.ndarray]
    average: np.ndarray


def words(one, count: int, start: int = 0) -> np.ndarray:
    return np.array([one[place] for place in range(start, start + count)], dtype=object)


def at_the_roots(context: sealapi.SEALContext, slots: np.ndarray) -> np.ndarray:
    """Return the values of the slots' polynomial at the roots of 1, in the order of the ciphertexts."""
    plain = sealapi.Plaintext()
    sealapi.CKKSEncoder(context).encode(slots.tolist(), SCALE, plain)
    return words(plain, DEGREE)


def modulus(context: sealapi.SEALContext) -> int:
    return int(context.first_context_data().parms().coeff_modulus()[0].value())


def secret(side: Local) -> np.ndarray:
    """Return the secret key at the roots of 1, modulo the first prime."""
    return words(side.keys._secret.data(), DEGREE)


def from_complex_slots(context: sealapi.SEALContext, one: Seen) -> np.ndarray:
    """Return the key from one sum with two values per slot: ``s = (m - c0) / c1``."""
    q = modulus(context)
    message = at_the_roots(context, one.average * CLIENTS)
    return (message - one.cipher[0]) * inverse(one.cipher[1], q) % q


def from_real_slots(context: sealapi.SEALContext, first: Seen, second: Seen) -> np.ndarray:
    """Return the key from two sums with one value per slot.

    Published is ``m + m'``, where ``m'`` is ``m`` at the inverse roots, so that with ``a = c1`` and ``b = c1'`` there
    is
    ``a s + b s' = m + m' - c0 - c0'``: two equations for ``s`` and ``s'`` at each pair of roots. The inverse of root
    ``i`` is root ``N - 1 - i`` in the order of SEAL.
    """
    q = modulus(context)
    equations = []
    for one in (first, second):
        c0, c1 = one.cipher
        shown = at_the_roots(context, 2 * one.average * CLIENTS)
        equations.append((c1, c1[::-1], (shown - c0 - c0[::-1]) % q))
    (a, b, right), (c, d, below) = equations
    return (d * right - b * below) * inverse((a * d - b * c) % q, q) % q


def inverse(values: np.ndarray, q: int) -> np.ndarray:
    return np.array([pow(int(value), -1, q) if value % q else 0 for value in values], dtype=object)


def recovered(context: sealapi.SEALContext, side: Local, found: np.ndarray) -> float:
    """Return the recovered fraction of the key, at its roots."""
    return float(np.mean(found == secret(side)))


def sums(side: Local, values: np.ndarray, real: bool) -> list[bytes]:
    """Return the encrypted sums of the clients' values, shape ``(clients, values)``, one ciphertext each.

    TenSEAL's vectors have one value per slot; this project has two.
    """
    server = side.server()
    if not real:
        sealed = [side.protect(CODEC.encode(update)) for update in values]
        return list(side.scheme.ciphertexts(server.add(sealed), side.fingerprint))
    slots = DEGREE // 2
    under_key = sealapi.Encryptor(side.scheme.context, side.keys._secret)
    under_key.set_public_key(deserialize(sealapi.PublicKey(), side.scheme.context, side.material()))
    encrypt = under_key.encrypt_symmetric if side.spec.keys == "shared" else under_key.encrypt
    encoder, evaluator = sealapi.CKKSEncoder(side.scheme.context), sealapi.Evaluator(side.scheme.context)
    found = []
    for start in range(0, values.shape[1], slots):
        total = None
        for update in values[:, start : start + slots]:
            plain, cipher = sealapi.Plaintext(), sealapi.Ciphertext()
            encoder.encode(update.tolist(), SCALE, plain)
            encrypt(plain, cipher)
            if total is None:
                total = cipher
            else:
                evaluator.add_inplace(total, cipher)
        found.append(total)
    return found


def seen(side: Local, real: bool, shown: Shown, values: np.ndarray) -> list[Seen]:
    """Return the server's knowledge after one round."""
    context, decryptor = side.scheme.context, side.keys._decryptor
    encoder = sealapi.CKKSEncoder(context)
    found = []
    for one in sums(side, values, real):
        cipher = one if real else deserialize(sealapi.Ciphertext(), context, one)
        plain = sealapi.Plaintext()
        decryptor.decrypt(cipher, plain)
        raw = np.array(encoder.decode_double(plain) if real else encoder.decode_complex(plain))
        average = shown(raw) / CLIENTS if real else (shown(raw.real) + 1j * shown(raw.imag)) / CLIENTS
        found.append(Seen([words(cipher, DEGREE), words(cipher, DEGREE, DEGREE)], average))
    return found


def updates(seed: int, ciphertexts: int, real: bool) -> np.ndarray:
    """Return updates on the grid that fill ``ciphertexts`` ciphertexts."""
    length = ciphertexts * (DEGREE // 2 if real else DEGREE)
    values = np.random.default_rng(seed).normal(0, 0.1, (CLIENTS, length))
    return CODEC.decode(CODEC.encode(values))


def identity(values: np.ndarray) -> np.ndarray:
    """Return the float64 sum of an approximate decryption unchanged, as other libraries do."""
    return values


def on_the_grid(values: np.ndarray) -> np.ndarray:
    """Return the sum rounded to the grid, as this project does."""
    return np.rint(values / CODEC.step) * CODEC.step


def attack(side: Local, real: bool, rounds: int, shown: Shown) -> float:
    """Return the fraction of the key that the server recovers from ``rounds`` rounds under one key."""
    known = []
    for number in range(rounds):
        known += seen(side, real, shown, updates(number, 2 // rounds, real))
    context = side.scheme.context
    found = from_real_slots(context, *known[:2]) if real else from_complex_slots(context, known[0])
    return recovered(context, side, found)


@pytest.mark.parametrize("keys", ["public", "shared"])
@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("real", [True, False], ids=["one value a slot", "two values a slot"])
def test_raw_sums_reveal_key_and_rounded_sums_do_not(real, rounds, keys):
    side = Local(Ckks(keys=keys), CLIENTS)
    assert attack(side, real, rounds, identity) == 1.0
    assert attack(side, real, rounds, on_the_grid) < 0.01


def opened_gives(side: Local) -> tuple[bool, float]:
    """Return whether the decrypted sum is exact, and the fraction of the key that the server recovers from it."""
    values = updates(0, 1, real=False)
    total = side.server().add([side.protect(CODEC.encode(update)) for update in values])
    opened = side.reveal(total) * CODEC.step
    (chunk,) = side.scheme.ciphertexts(total, side.fingerprint)
    cipher = deserialize(sealapi.Ciphertext(), side.scheme.context, chunk)
    average = (opened[: DEGREE // 2] + 1j * opened[DEGREE // 2 :]) / CLIENTS
    known = Seen([words(cipher, DEGREE), words(cipher, DEGREE, DEGREE)], average)
    found = recovered(side.scheme.context, side, from_complex_slots(side.scheme.context, known))
    return bool(np.array_equal(opened, values.sum(axis=0))), found


def test_decrypted_sum_is_exact_and_reveals_no_key():
    exact, found = opened_gives(Local(SPEC, CLIENTS))
    assert exact and found < 0.01


def test_key_holder_without_rounding_is_detected(monkeypatch):
    def careless(encoding, plain):
        slots = np.array(encoding._encoder.decode_complex(plain))
        return np.concatenate([slots.real, slots.imag]) / CODEC.step

    monkeypatch.setattr(CkksEncoding, "decode", careless)
    assert opened_gives(Local(SPEC, CLIENTS)) == (False, 1.0)
