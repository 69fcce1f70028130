"""The data sets that are a part of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import SklearnDataset
from ppml.data.raw_examples import RawExamples

if TYPE_CHECKING:
    import pyarrow

TARGET = "target"
"""The name of the column of classes."""


def load_bunch(loader: str) -> Any:
    """Return a data set of ``sklearn.datasets``."""
    # An import statement, so that the code digest of a subset counts the version of scikit-learn.
    from sklearn import datasets

    return getattr(datasets, f"load_{loader}")()


def cut_patches(photos: Sequence[NDArray[np.uint8]], size: Sequence[int]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return patches of photos without overlap, ``(n, height, width, channels)``, in turns, and the photo of each."""
    height, width = size
    parts = []
    for photo in photos:
        down, across = photo.shape[0] // height, photo.shape[1] // width
        cut = photo[: down * height, : across * width].reshape(down, height, across, width, -1)
        parts.append(cut.swapaxes(1, 2).reshape(down * across, height, width, -1))
    count = min(map(len, parts))
    patches = np.stack([part[:count] for part in parts], axis=1).reshape(count * len(parts), *parts[0].shape[1:])
    return patches, np.tile(np.arange(len(parts)), count)


def bunch_table(bunch: Any) -> pyarrow.Table:
    """Return the features and the names of the classes, in the column ``target``, as a table."""
    import pyarrow

    columns = {str(name): values for name, values in zip(bunch.feature_names, np.asarray(bunch.data).T, strict=True)}
    names = [str(name) for name in bunch.target_names]
    return pyarrow.table({**columns, TARGET: [names[label] for label in bunch.target]})


def load_sklearn(spec: SklearnDataset) -> RawExamples:
    """Return all examples of a data set of scikit-learn.

    Raises
    ------
    UserError
        The declared columns or pictures are not those of the data set.
    """
    bunch = load_bunch(spec.loader)
    place = f"sklearn.datasets.load_{spec.loader}"
    if spec.shape:
        from ppml.data.formats.pictures import picture_examples

        if spec.loader == "sample_images":
            return picture_examples(spec, *cut_patches(bunch.images, spec.shape[1:]), (place, place))
        return picture_examples(spec, bunch.images, bunch.target.astype(np.int64), (place, place))
    from ppml.data.formats.table_encoding import encode_table
    from ppml.data.formats.table_files import TableFile, check_columns

    table = bunch_table(bunch)
    check_columns(spec, table.column_names, place)
    return encode_table(spec, TableFile(place, table))
