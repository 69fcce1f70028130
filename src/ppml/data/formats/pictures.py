"""The public rules by which arrays of pictures become inputs: axes, size, border."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import IdxDataset, PictureFields
from ppml.data.raw_examples import RawExamples
from ppml.errors import UserError

RESIZED_AT_ONCE = 1024
"""Pictures per call: float32 copies of all would need four times the memory of the pictures."""


def picture_examples(
    spec: PictureFields, values: NDArray[Any], labels: NDArray[Any], places: tuple[Path | str, Path | str]
) -> RawExamples:
    """Return pictures, or the numbers of a table without columns, as examples.

    Parameters
    ----------
    spec : PictureFields
        The data set.
    values : array, shape ``(n, ...)``
        Pictures in any order of their axes, or rows of numbers.
    labels : array, shape ``(n,)`` or ``(n, columns)``
        Numbers of classes; in QMNIST's files in the first of several columns.
    places : (path, path)
        The origins of inputs and labels, for messages.

    Raises
    ------
    UserError
        The arrays do not fit the data set.
    """
    inputs_place, labels_place = places
    classes = _checked_labels(spec, labels, labels_place)
    if not values.ndim or values.dtype.kind not in "uif":
        raise UserError(
            f"{inputs_place}: has values of type {values.dtype} and shape {_sizes(values.shape)}; give an array of "
            "numbers, the first axis of which counts the examples"
        )
    if len(values) != len(classes):
        raise UserError(
            f"{inputs_place}: has {len(values)} examples, and {labels_place} has {len(classes)} labels; each example "
            "needs one label"
        )
    if len(spec.shape) == 1:
        return RawExamples(_numbers(spec, values, inputs_place), classes)
    return RawExamples(fit_pictures(spec, _with_channels_first(spec, values, inputs_place)), classes)


def fit_pictures(spec: PictureFields, pictures: NDArray[Any]) -> NDArray[np.uint8]:
    """Return pictures, shape ``(n, channels, height, width)``, with the size and border of ``spec``, as uint8."""
    if spec.transpose:
        pictures = pictures.swapaxes(2, 3)
    if not spec.resize and not spec.border and spec.white == 255:
        return np.ascontiguousarray(pictures)
    count = len(pictures)
    fitted = np.empty((count, *spec.shape), dtype=np.uint8)
    for start in range(0, count, RESIZED_AT_ONCE):
        fitted[start : start + RESIZED_AT_ONCE] = _resized(spec, pictures[start : start + RESIZED_AT_ONCE])
    return fitted


def _resized(spec: PictureFields, pictures: NDArray[Any]) -> NDArray[np.uint8]:
    import torch
    from torch.nn import functional

    values = torch.from_numpy(pictures.astype(np.float32)) * (255.0 / spec.white)
    if spec.resize:
        smaller = values.shape[-2] > spec.resize[0] or values.shape[-1] > spec.resize[1]
        values = functional.interpolate(
            values, size=spec.resize, mode="bilinear", align_corners=False, antialias=smaller
        )
    values = functional.pad(values, (spec.border,) * 4)
    found: NDArray[np.uint8] = values.round().clamp(0, 255).to(torch.uint8).numpy()
    return found


def _with_channels_first(spec: PictureFields, values: NDArray[Any], place: Path | str) -> NDArray[Any]:
    """Return pictures as ``(n, channels, height, width)``."""
    channels, height, width = spec.stored_shape
    if spec.transpose and not spec.resize:
        height, width = width, height
    found = values.shape[1:]
    if spec.white == 255 and values.dtype != np.uint8:
        raise UserError(
            f"{place}: has values of type {values.dtype.name}; a picture needs uint8, or state `white`, the number of "
            "a white pixel"
        )
    if spec.white != 255 and values.size:
        darkest, brightest = values.min(), values.max()
        # A comparison with NaN is false.
        if not (darkest >= 0 and brightest <= spec.white):
            raise UserError(
                f"{place}: has pixels from {darkest} to {brightest}, and white states 0 to {spec.white}; correct white"
            )
    if spec.resize:
        if len(found) == 2 and channels == 1:
            return values[:, None]
        if len(found) == 3 and found[-1] == channels:
            return values.transpose(0, 3, 1, 2)
        if len(found) == 3 and found[0] == channels:
            return values
    elif found in ((height, width), (height * width,)) and channels == 1:
        return values.reshape(-1, 1, height, width)
    elif found in ((channels, height, width), (channels * height * width,)):
        return values.reshape(-1, channels, height, width)
    elif found == (height, width, channels):
        return values.transpose(0, 3, 1, 2)
    wanted = f"{channels} channels of any size" if spec.resize else f"{channels}x{height}x{width}"
    raise UserError(
        f"{place}: has examples of shape {_sizes(found)}, but the data set states pictures of {wanted}; "
        "correct shape, or state resize"
    )


def _numbers(spec: PictureFields, values: NDArray[Any], place: Path | str) -> NDArray[np.float32]:
    """Return the numbers of a table as float32, shape ``(n, columns)``."""
    if values.shape[1:] != tuple(spec.shape):
        raise UserError(
            f"{place}: has examples of shape {_sizes(values.shape[1:])}, but the data set states {spec.shape[0]} "
            "columns; correct shape"
        )
    with np.errstate(over="ignore"):
        numbers: NDArray[np.float32] = values.astype(np.float32)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row, column = (int(position) for position in np.argwhere(bad)[0])
        raise UserError(
            f"{place}: row {row + 1}, column {column + 1}: {values[row, column]} is not finite in float32; replace it"
        )
    return numbers


def _checked_labels(spec: PictureFields, labels: NDArray[Any], place: Path | str) -> NDArray[np.int64]:
    """Return the numbers of classes."""
    # QMNIST has eight columns, of which the first is the class. Several columns of other files are no single class.
    single = labels.ndim == 1 or (labels.ndim == 2 and (labels.shape[1] == 1 or isinstance(spec, IdxDataset)))
    if not single or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{place}: has values of type {labels.dtype} and shape {_sizes(labels.shape)}; labels are integers, one "
            "for each example"
        )
    classes: NDArray[np.int64] = (labels[:, 0] if labels.ndim == 2 else labels).astype(np.int64)
    count = len(spec.classes)
    outside = np.flatnonzero((classes < 0) | (classes >= count))
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f"{place}: example {row + 1} has label {classes[row]}, but the data set states {count} classes, 0 to "
            f"{count - 1}; correct classes"
        )
    return classes


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
