"""The client: makes the keys, encrypts images, decrypts logits."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi

from ppml.aggregation.lattice import length_prefixed, max_packed_bytes, split_streams
from ppml.aggregation.sandboxed_reader import SEAL_ERRORS, read_all
from ppml.aggregation.seal_serialization import serialize
from ppml.aggregation.seal_streams import CiphertextFormat
from ppml.encrypted_inference.ckks_parameters import LOGIT_SCALE, SCALE, Ring
from ppml.encrypted_inference.network import PolynomialNetwork, Values
from ppml.encrypted_inference.packing import Layout
from ppml.errors import InvalidUpdate


class ImageOwner:
    """The client with the secret key, which SEAL draws from the operating system's entropy.

    Parameters
    ----------
    network : PolynomialNetwork
        Its architecture gives the packing of an image and the number of logits. The weights are not read.
    """

    def __init__(self, network: PolynomialNetwork) -> None:
        self.ring = Ring(len(network.layers))
        self.layout = Layout.of(network, self.ring.slots)
        self._pixels, self._classes = network.pixels, len(network.layers[-1].bias)
        self._context = self.ring.context()
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._generator = sealapi.KeyGenerator(self._context)
        secret = self._generator.secret_key()
        # Symmetric encryption: half of a ciphertext is a seed.
        self._encryptor = sealapi.Encryptor(self._context, secret)
        self._decryptor = sealapi.Decryptor(self._context, secret)
        # An answer has one prime left, and rounding errors in its scale.
        last = self._context.last_context_data()
        self._answer = CiphertextFormat(self._context, last, ntt=True, scale=LOGIT_SCALE, seeded=False, rounding=1e-9)

    def evaluation_keys(self) -> bytes:
        """Return the server's keys for squares and rotations; they decrypt nothing."""
        relin = serialize(self._generator.create_relin_keys())
        # SEAL expects rotations as powers of the roots.
        powers = [self.ring.power(step) for step in self.layout.required_rotations()]
        return length_prefixed([relin, serialize(self._generator.create_galois_keys(powers))])

    def encrypt_batch(self, images: Values) -> bytes:
        """Encrypt images, ``(n, pixels)``: one ciphertext per pixel, one image per slot.

        Pixels without an effect on the outputs are omitted.

        Raises
        ------
        ValueError
            There are more images than ``ring.slots``.
        """
        if len(images) > self.ring.slots:
            raise ValueError(f"{len(images)} images in a batch of {self.ring.slots} slots")
        return length_prefixed(map(self._encrypt, images.T[self._pixels]))

    def decrypt_batch(self, answer: bytes, count: int) -> Values:
        """Return the logits of ``count`` images, ``(count, classes)``; a bad answer raises :class:`InvalidUpdate`."""
        return np.stack([slots[:count] for slots in self._decrypt(answer, self._classes)], axis=1)

    def encrypt_image(self, image: Values) -> bytes:
        """Encrypt one image, ``(pixels,)``."""
        return length_prefixed(map(self._encrypt, self.layout.input_packing.pack(image)))

    def decrypt_image(self, answer: bytes) -> Values:
        """Return the logits of one image, ``(classes,)``; a bad answer raises :class:`InvalidUpdate`."""
        (slots,) = self._decrypt(answer, 1)
        return slots[: self._classes]

    def _encrypt(self, values: Values) -> bytes:
        plain = sealapi.Plaintext()
        self._encoder.encode(values.tolist(), SCALE, plain)
        return serialize(self._encryptor.encrypt_symmetric(plain))

    def _decrypt(self, answer: bytes, expected: int) -> list[Values]:
        try:
            chunks = split_streams(answer, max_packed_bytes(*self._answer.sizes * expected))
            if len(chunks) != expected:
                raise InvalidUpdate(f"{len(chunks)} ciphertexts instead of {expected}")
            return [self._decode(cipher) for cipher in read_all(sealapi.Ciphertext, self._answer, chunks)]
        except SEAL_ERRORS as error:
            raise InvalidUpdate(f"invalid answer: {error}") from None

    def _decode(self, cipher: sealapi.Ciphertext) -> Values:
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(cipher, plain)
        return np.array(self._encoder.decode_double(plain))
