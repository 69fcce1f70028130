"""Randomness as an argument: every generator is derived from one root seed and a path of names.

Two generators with different paths are independent for all practical purposes, and neither depends on how many others
were made before, on the number of cores or on the order in which jobs run. Every generator starts from at least 128
bits of key, a CUDA generator from 64: no two of them coincide by chance. The root seed is in the configuration, so a
generator is no secret from a reader of the configuration. Keys and encryption never use this module: they draw from
the operating system.
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
"""Bytes of torch's state of a Mersenne twister before its words: seed, words left, whether seeded, next word."""


@dataclass(frozen=True)
class Randomness:
    """A node in the tree of seeds.

    Parameters
    ----------
    root : int or bytes
        The root seed, from the configuration; or the seed of a party, which :meth:`party` returns.
    path : tuple of str, int or float
        Where in the tree this node is, for instance ``("seed", 0, "round", 3)``.

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
        """Return the node below this one that ``names`` lead to."""
        return Randomness(self.root, (*self.path, *names))

    def party(self, *names: str | int) -> Randomness:
        """Return the root of a tree of its own, which a party draws from.

        The seed of a party is derived by HMAC-SHA-256: it tells neither the root seed nor the seed of another party.
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

        ``manual_seed`` keeps 32 bits of a seed on a CPU, so that the whole state of the Mersenne twister is set there.
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
    """Return torch's state of a Mersenne twister whose words are SHAKE-256 of ``key``."""
    import numpy as np
    import torch

    state = torch.Generator().get_state().numpy().copy()
    words = np.frombuffer(hashlib.shake_256(key).digest(4 * _TWISTER_WORDS), dtype="<u4")
    # torch keeps each word of 32 bits in 64.
    end = _TWISTER_HEADER + 8 * _TWISTER_WORDS
    state[_TWISTER_HEADER:end] = words.astype(np.uint64).view(np.uint8)
    return torch.from_numpy(state)
