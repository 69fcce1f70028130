"""The owner of images: makes the keys, encrypts, and opens what comes back."""

from __future__ import annotations

import numpy as np
from tenseal import sealapi

from ppml.aggregation.interfaces import BadUpdate
from ppml.aggregation.lattice import cut_up, longest, packed
from ppml.aggregation.sandboxed_reader import FAULTS, read_all
from ppml.aggregation.seal_serialization import saved
from ppml.aggregation.seal_streams import CipherShape
from ppml.encrypted_inference.ckks_parameters import LOGIT_SCALE, SCALE, Ring
from ppml.encrypted_inference.network import Network, Values
from ppml.encrypted_inference.packing import Layout


class Client:
    """The one who has the secret key; it is drawn from the operating system's entropy by SEAL.

    Parameters
    ----------
    network : Network
        Whose architecture says how an image is laid out, and how many logits there are. Its weights are not looked at.
    """

    def __init__(self, network: Network) -> None:
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
        self._answer = CipherShape(self._context, last, ntt=True, scale=LOGIT_SCALE, seeded=False, rounding=1e-9)

    def evaluation_keys(self) -> bytes:
        """Return what the server multiplies and rotates with; it opens nothing."""
        relin = saved(self._generator.create_relin_keys())
        # SEAL takes a list as powers of the roots.
        powers = [self.ring.power(step) for step in self.layout.rotations()]
        return packed([relin, saved(self._generator.create_galois_keys(powers))])

    def seal_batch(self, images: Values) -> bytes:
        """Return images, ``(n, pixels)``, encrypted: a ciphertext a pixel, an image a slot.

        Pixels that no output reads are left out.

        Raises
        ------
        ValueError
            There are more images than ``ring.slots``.
        """
        if len(images) > self.ring.slots:
            raise ValueError(f"{len(images)} images in a batch of {self.ring.slots} slots")
        return packed(map(self._sealed, images.T[self._pixels]))

    def open_batch(self, answer: bytes, count: int) -> Values:
        """Return the logits of ``count`` images, ``(count, classes)``; a bad answer raises :class:`BadUpdate`."""
        return np.stack([slots[:count] for slots in self._opened(answer, self._classes)], axis=1)

    def seal_one(self, image: Values) -> bytes:
        """Return one image, ``(pixels,)``, encrypted."""
        return packed(map(self._sealed, self.layout.taps.spread(image)))

    def open_one(self, answer: bytes) -> Values:
        """Return the logits of one image, ``(classes,)``; a bad answer raises :class:`BadUpdate`."""
        (slots,) = self._opened(answer, 1)
        return slots[: self._classes]

    def _sealed(self, values: Values) -> bytes:
        plain = sealapi.Plaintext()
        self._encoder.encode(values.tolist(), SCALE, plain)
        return saved(self._encryptor.encrypt_symmetric(plain))

    def _opened(self, answer: bytes, wanted: int) -> list[Values]:
        try:
            chunks = cut_up(answer, longest(*self._answer.sizes * wanted))
            if len(chunks) != wanted:
                raise BadUpdate(f"{len(chunks)} ciphertexts where {wanted} are wanted")
            return [self._decoded(cipher) for cipher in read_all(sealapi.Ciphertext, self._answer, chunks)]
        except FAULTS as error:
            raise BadUpdate(f"an answer that cannot be opened: {error}") from None

    def _decoded(self, cipher: sealapi.Ciphertext) -> Values:
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(cipher, plain)
        return np.array(self._encoder.decode_double(plain))
