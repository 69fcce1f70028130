"""Examples as the files of a data set hold them, before normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RawExamples:
    """Examples before normalisation.

    Parameters
    ----------
    inputs : array, shape ``(n, *contract.shape)``
        uint8 pixels of images, or float32 numbers of a table.
    labels : int64 array, shape ``(n,)``
        Numbers of classes.
    groups : mapping
        Name of a column -> the group of each example, int64, shape ``(n,)``.
    times : float64 array, shape ``(n,)``, or None
        Seconds since 1970; None without a column of times.
    units : int64 array, shape ``(n,)``, or None
        The number of the unit of each example, for instance of a person; None without a column of units.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    groups: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    times: NDArray[np.float64] | None = None
    units: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: NDArray[np.int64]) -> RawExamples:
        """Return the examples at the positions ``index``."""
        return RawExamples(
            self.inputs[index],
            self.labels[index],
            {name: values[index] for name, values in self.groups.items()},
            None if self.times is None else self.times[index],
            None if self.units is None else self.units[index],
        )


def group_tensor(column: str) -> str:
    """Return the name of the tensor with the groups of a column, in the file of a subset."""
    return f"group.{column}"
