"""The numbers of a table as bins of their declared ranges."""

from __future__ import annotations

import torch

from ppml.config.transforms import Binned
from ppml.contract import DataContract


class BinnedNumbers:
    """Each number in [-1, 1] as inputs of 0 and 1, of which one is 1; the other columns stay as they are.

    Parameters
    ----------
    settings : Binned
        The configuration.
    contract : DataContract
        The contract of the table.
    """

    def __init__(self, settings: Binned, contract: DataContract) -> None:
        self._bins = settings.bins
        self._is_number = [name in contract.numbers for name in contract.columns]
        self.size = settings.output(contract).size

    def copies(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the binned rows, float32 ``(n, size)``."""
        return self.viewed(inputs)

    def viewed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the binned rows, float32 ``(n, size)``."""
        found = torch.zeros(len(inputs), self.size)
        start = 0
        for column, is_number in zip(inputs.T, self._is_number, strict=True):
            if is_number:
                place = ((column + 1) / 2 * self._bins).long().clamp_(0, self._bins - 1)
                found[torch.arange(len(inputs)), start + place] = 1.0
                start += self._bins
            else:
                found[:, start] = column
                start += 1
        return found
