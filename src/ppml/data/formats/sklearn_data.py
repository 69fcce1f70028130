"""The data sets that are a part of scikit-learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

TARGET = "target"
"""The name of the column of classes."""


def load_bunch(loader: str) -> Any:
    """Return a data set of ``sklearn.datasets``."""
    return getattr(importlib.import_module("sklearn.datasets"), f"load_{loader}")()


def bunch_table(bunch: Any) -> pyarrow.Table:
    """Return the features and the names of the classes, in the column ``target``, as a table."""
    import pyarrow

    columns = {str(name): values for name, values in zip(bunch.feature_names, np.asarray(bunch.data).T, strict=True)}
    names = [str(name) for name in bunch.target_names]
    return pyarrow.table({**columns, TARGET: [names[label] for label in bunch.target]})
