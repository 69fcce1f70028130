"""The fixed-point codec of every aggregation, plaintext included.

Clients clip and round updates to a grid before they protect them, and a decrypted sum is rounded to the same grid. So
every aggregation yields the same weights bit for bit. The error of an approximate decryption, which can reveal a secret
key (Li & Micciancio, EUROCRYPT 2021), is never published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.int64]
"""Values as multiples of the grid step."""


@dataclass(frozen=True)
class FixedPointCodec:
    """Real values as integers on the grid ``2^-fractional_bits``.

    Parameters
    ----------
    clip : float
        Values are clipped to ``[-clip, clip]``.
    fractional_bits : int
        Bits after the binary point.

    Examples
    --------
    >>> codec = FixedPointCodec(clip=1.0, fractional_bits=4)
    >>> codec.decode(codec.encode(np.array([0.26, -7.0]))).tolist()
    [0.25, -1.0]
    """

    clip: float
    fractional_bits: int

    @property
    def step(self) -> float:
        """The distance between neighbouring grid points."""
        return 2.0**-self.fractional_bits

    def encode(self, values: NDArray[np.floating]) -> Grid:
        """Return ``values`` clipped and rounded to the grid, as integers.

        Raises
        ------
        ValueError
            A value is not finite.
        """
        exact = np.array(values, dtype=np.float64)
        if not np.isfinite(exact).all():
            raise ValueError("an update with a value that is not finite cannot be aggregated")
        # In place: memory traffic costs more than the arithmetic for a large update.
        np.clip(exact, -self.clip, self.clip, out=exact)
        np.multiply(exact, 1.0 / self.step, out=exact)
        return np.rint(exact, out=exact).astype(np.int64)

    def decode(self, grid: Grid) -> NDArray[np.float64]:
        """Return the real values of grid points; exact up to 2^53 steps."""
        return grid.astype(np.float64) * self.step
