"""Pseudorandom integers from a seed, for shares and masks."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from ppml.aggregation_parameters import max_grid_value
from ppml.config.technique import FixedPointSpec

KEY_BYTES = 32
"""Bytes of a public or secret key."""


def integer_width(clients: int, spec: FixedPointSpec) -> int:
    """Return the bytes of an integer that holds the sum of ``clients`` grid values."""
    return 4 if clients * max_grid_value(spec.clip, spec.fractional_bits) < 2**31 else 8


def prg(seed: bytes, length: int, width: int) -> NDArray[np.unsignedinteger]:
    """Return ``length`` pseudorandom integers of ``width`` bytes: AES-256 in counter mode under a single-use key."""
    encryptor = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(length * width)), dtype=f"<u{width}")
