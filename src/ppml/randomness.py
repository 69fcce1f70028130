"""Randomness as an argument: every generator is derived from one root seed and a path of names.

Generators with different paths are independent for all practical purposes. A generator does not depend on the number of
earlier generators, on the number of cores or on the order of jobs. Every generator starts from at least 128 bits of
key, a CUDA generator from 64, so no two coincide by chance. The root seed is in the configuration, so generators are no
secrets. Keys and encryption never use this module: they draw from the operating system.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

KEY_BYTES = 32
"""Length of the key of a node."""

_TWISTER_WORDS = 624
_TWISTER_HEADER = 24
"""Bytes before the words in torch's state of a Mersenne twister: seed, remaining words, seeded flag, next word."""


@dataclass(frozen=True)
class Randomness:
    """A node in the tree of seeds.

    Parameters
    ----------
    root : int or bytes
        The root seed, from the configuration; or the seed of a party, from :meth:`party`.
    path : tuple of str, int or float
        The path of the node in the tree, for example ``("seed", 0, "round", 3)``.

    Examples
    --------
    >>> rng = Randomness(2024).child("seed", 0)
    >>> rng.key == Randomness(2024, ("seed", 0)).key
    True
    >>> rng.child("noise").key == rng.child("sampling").key
    False
    """

    root: int | bytes = field(repr=False)
    path: tuple[str | int | float, ...] = field(default=())

    def child(self, *names: str | int | float) -> Randomness:
        """Return the descendant of this node at the path ``names``."""
        return Randomness(self.root, (*self.path, *names))

    def party(self, *names: str | int) -> Randomness:
        """Return the root of the separate tree of a party.

        HMAC-SHA-256 derives the seed of a party: it reveals neither the root seed nor the seed of another party.
        """
        return Randomness(self.child(*names)._derive("party"))

    @property
    def key(self) -> bytes:
        """The key of this node: 32 bytes, for keyed hashes."""
        return self._derive("key")

    def _derive(self, purpose: str) -> bytes:
        secret = self.root if isinstance(self.root, bytes) else f"root seed {self.root}".encode()
        return hmac.digest(secret, repr((purpose, self.path)).encode(), "sha256")

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a torch generator that starts at this node.

        ``manual_seed`` keeps 32 bits of a seed on a CPU, so this method sets the whole state of the Mersenne twister.
        """
        import torch

        generator = torch.Generator(device=device)
        if generator.device.type != "cpu":
            return generator.manual_seed(int.from_bytes(self.key[:8], "big"))
        return generator.set_state(_twister_state(self.key))

    def numpy(self) -> np.random.Generator:
        """Return a numpy generator that starts at this node."""
        import numpy as np

        return np.random.default_rng(int.from_bytes(self.key, "big"))


def _twister_state(key: bytes) -> torch.Tensor:
    """Return torch's state of a Mersenne twister with the words SHAKE-256 of ``key``."""
    import numpy as np
    import torch

    state = torch.Generator().get_state().numpy().copy()
    words = np.frombuffer(hashlib.shake_256(key).digest(4 * _TWISTER_WORDS), dtype="<u4")
    # torch stores each word of 32 bits in 64 bits.
    end = _TWISTER_HEADER + 8 * _TWISTER_WORDS
    state[_TWISTER_HEADER:end] = words.astype(np.uint64).view(np.uint8)
    return torch.from_numpy(state)
