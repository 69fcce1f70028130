"""The owner of images: makes the keys, encrypts, and opens what comes back."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi

from ppml.aggregation.lattice import split_streams, max_packed_bytes, length_prefixed
from ppml.aggregation.sandboxed_reader import SEAL_ERRORS, read_all
from ppml.aggregation.seal_serialization import serialize
from ppml.aggregation.seal_streams import CiphertextFormat
from ppml.encrypted_inference.ckks_parameters import LOGIT_SCALE, SCALE, Ring
from ppml.encrypted_inference.network import PolynomialNetwork, Values
from ppml.encrypted_inference.packing import Layout
from ppml.errors import InvalidUpdate


class ImageOwner:
    """The one who has the secret key; it is drawn from the operating system's entropy by SEAL.

    Parameters
    ----------
    network : Network
        Whose architecture says how an image is laid out, and how many logits there are. Its weights are not looked at.
    """

    def __init__(self, network: PolynomialNetwork) -> None:
        self.ring = Ring(len(network.layers))
        self.layout = Layout.of(network, self.ring.slots)
        self._pixels, self._classes = network.pixels, len(network.layers[-1].bias)
        self._context = self.ring.context()
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._generator = sealapi.KeyGenerator(self._context)
        secret = self._generator.secret_key()
        # Under the secret key: half of a ciphertext is a seed then.
        self._encryptor = sealapi.Encryptor(self._context, secret)
        self._decryptor = sealapi.Decryptor(self._context, secret)
        # One prime is left; scales were multiplied and divided on the way.
        last = self._context.last_context_data()
        self._answer = CiphertextFormat(self._context, last, ntt=True, scale=LOGIT_SCALE, seeded=False, rounding=1e-9)

    def evaluation_keys(self) -> bytes:
        """Return what the server multiplies and rotates with; it opens nothing."""
        relin = serialize(self._generator.create_relin_keys())
        # SEAL takes a list as powers of the roots.
        powers = [self.ring.power(step) for step in self.layout.required_rotations()]
        return length_prefixed([relin, serialize(self._generator.create_galois_keys(powers))])

    def encrypt_batch(self, images: Values) -> bytes:
        """Return images, ``(n, pixels)``, encrypted: a ciphertext a pixel, an image a slot.

        Pixels that no output reads are left out.

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
        """Return one image, ``(pixels,)``, encrypted."""
        return length_prefixed(map(self._encrypt, self.layout.input_packing.pack(image)))

    def decrypt_image(self, answer: bytes) -> Values:
        """Return the logits of one image, ``(classes,)``; a bad answer raises :class:`InvalidUpdate`."""
        (slots,) = self._decrypt(answer, 1)
        return slots[: self._classes]

    def _encrypt(self, values: Values) -> bytes:
        plain = sealapi.Plaintext()
        self._encoder.encode(values.tolist(), SCALE, plain)
        return serialize(self._encryptor.encrypt_symmetric(plain))

    def _decrypt(self, answer: bytes, wanted: int) -> list[Values]:
        try:
            chunks = split_streams(answer, max_packed_bytes(*self._answer.sizes * wanted))
            if len(chunks) != wanted:
                raise InvalidUpdate(f"{len(chunks)} ciphertexts where {wanted} are wanted")
            return [self._decode(cipher) for cipher in read_all(sealapi.Ciphertext, self._answer, chunks)]
        except SEAL_ERRORS as error:
            raise InvalidUpdate(f"an answer that cannot be opened: {error}") from None

    def _decode(self, cipher: sealapi.Ciphertext) -> Values:
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(cipher, plain)
        return np.array(self._encoder.decode_double(plain))
