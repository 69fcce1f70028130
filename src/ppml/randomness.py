"""Randomness as an argument: every generator is derived from one root seed and a path of names.

Two generators with different paths are independent for all practical purposes, and neither depends on how many others
were made before, on the number of cores or on the order in which jobs run. Torch's generator keeps 32 bits of a seed:
enough to repeat a run, no secret. Keys and encryption never use this module: they draw from the operating system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Randomness:
    """A node in the tree of seeds.

    Parameters
    ----------
    root : int
        The root seed, from the configuration.
    path : tuple of str or int
        Where in the tree this node is, for instance ``("seed", 0, "round", 3, "client", 7)``.

    Examples
    --------
    >>> rng = Randomness(2024).child("seed", 0)
    >>> rng.seed == Randomness(2024, ("seed", 0)).seed
    True
    >>> rng.child("noise").seed == rng.child("sampling").seed
    False
    """

    root: int
    path: tuple[str | int, ...] = field(default=())

    def child(self, *names: str | int) -> Randomness:
        """Return the node below this one that ``names`` lead to."""
        return Randomness(self.root, (*self.path, *names))

    @property
    def seed(self) -> int:
        """A seed of 63 bits, the largest that every generator here takes."""
        text = repr((self.root, self.path)).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a torch generator that starts at this node."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed)

    def numpy(self) -> np.random.Generator:
        """Return a numpy generator that starts at this node."""
        import numpy as np

        return np.random.default_rng(self.seed)
