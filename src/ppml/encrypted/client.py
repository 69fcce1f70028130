"""The owner of images: makes the keys, encrypts, and opens what comes back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tenseal import sealapi

from ppml.aggregation.lattice import loaded, packed, saved, unpacked
from ppml.encrypted.layout import Layout
from ppml.encrypted.network import Network, Values
from ppml.encrypted.ring import SCALE, Depth


class Client:
    """The one who has the secret key; it is drawn from the operating system's entropy by SEAL.

    Parameters
    ----------
    network : Network
        Whose architecture says how an image is laid out. Its weights are not looked at.
    """

    def __init__(self, network: Network) -> None:
        self.depth = Depth(len(network.layers))
        self.layout = Layout.of(network, self.depth.slots)
        self._pixels = network.pixels
        self._context = self.depth.context()
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._generator = sealapi.KeyGenerator(self._context)
        secret = self._generator.secret_key()
        # Under the secret key: half of a ciphertext is a seed then.
        self._encryptor = sealapi.Encryptor(self._context, secret)
        self._decryptor = sealapi.Decryptor(self._context, secret)

    def evaluation_keys(self) -> bytes:
        """Return what the server multiplies and rotates with; it opens nothing."""
        relin = saved(self._generator.create_relin_keys())
        # SEAL takes a list as powers of the roots: a rotation by k slots is the power of 3^k.
        powers = [pow(3, step % self.depth.slots, 2 * self.depth.degree) for step in self.layout.rotations()]
        return packed([relin, saved(self._generator.create_galois_keys(powers))])

    def seal_batch(self, images: Values) -> bytes:
        """Return at most ``depth.slots`` images, ``(n, pixels)``, encrypted: a ciphertext a pixel, an image a slot.

        Pixels that no output reads are left out.
        """
        return packed(map(self._sealed, images.T[self._pixels]))

    def open_batch(self, answer: bytes, count: int) -> Values:
        """Return the logits of ``count`` images, ``(count, classes)``."""
        return np.stack([slots[:count] for slots in self._opened(answer)], axis=1)

    def seal_one(self, image: Values) -> bytes:
        """Return one image, ``(pixels,)``, encrypted."""
        return packed(map(self._sealed, self.layout.taps.spread(image)))

    def open_one(self, answer: bytes, classes: int) -> Values:
        """Return the logits of one image, ``(classes,)``."""
        (slots,) = self._opened(answer)
        return slots[: classes * self.layout.logits : self.layout.logits]

    def _sealed(self, values: Values) -> bytes:
        plain = sealapi.Plaintext()
        self._encoder.encode(values.tolist(), SCALE, plain)
        return saved(self._encryptor.encrypt_symmetric(plain))

    def _opened(self, answer: bytes) -> Iterator[Values]:
        for chunk in unpacked(memoryview(answer)):
            plain = sealapi.Plaintext()
            self._decryptor.decrypt(loaded(sealapi.Ciphertext(), self._context, chunk), plain)
            yield np.array(self._encoder.decode_double(plain))
