"""The subcommand ``ppml predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from ppml.api.trained_model import Predictions, TrainedModel, load
from ppml.errors import UserError

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> mode of an image."""
ARRAYS = (".npy", ".png")
"""The ends of the names of arrays and images; a model of a table takes every other file for a table."""
DAMAGE = (ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError, Image.DecompressionBombError)
"""The errors of NumPy and Pillow about the content of a file, besides those of the system."""


def predict_files(run: Path, files: Sequence[Path], model: int | None, configfile: Path | None = None) -> None:
    """Print the class and the score of each example, and the privacy statement of the model to standard error."""
    trained = load(run, model=model)
    has_stated = False
    for file in files:
        if has_rows := trained.is_table and file.suffix.lower() not in ARRAYS:
            found = trained.predict_table(file, configfile=configfile)
        else:
            found = iter([_predict_array(trained, file)])
        start = 0
        for predictions in found:
            if not has_stated:
                # Before the first row: a later file may be refused.
                print(f"privacy: {trained.privacy}", file=sys.stderr)
                has_stated = True
            several = has_rows or len(predictions.labels) != 1
            places = (f"{file}[{place}]" for place in range(start, start + len(predictions.labels)))
            _print_rows(places if several else [str(file)], predictions)
            start += len(predictions.labels)


def _predict_array(trained: TrainedModel, file: Path) -> Predictions:
    """Return the predictions for the examples in an image or an array."""
    try:
        return trained.predict(read_examples(file, trained.shape))
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix('examples: ')}") from None


def _print_rows(places: Iterable[str], predictions: Predictions) -> None:
    """Print a line for each example; class and score are empty for a row that is left out."""
    scores = predictions.scores.max(axis=1).tolist()
    for place, name, score in zip(places, predictions.names, scores, strict=True):
        # Only NaN differs from itself.
        sys.stdout.write(f"{place}\t{name}\t{score:.4f}\n" if score == score else f"{place}\t\t\n")


def read_examples(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of a file: pixels ``(channels, height, width)`` of a PNG image, or the content of ``.npy``.

    Raises
    ------
    UserError
        The file cannot be read, or has another format; or the model takes no images.
    """
    if file.suffix.lower() == ".npy":
        with _damage_refused("is no array in NumPy's format"):
            # Mapped: the header may promise more bytes than the file has. This reader never unpickles.
            return np.asarray(open_memmap(file, mode="r"))
    if file.suffix.lower() != ".png":
        raise UserError("has an unknown format; allowed: .npy, .png")
    if len(shape) != 3 or shape[0] not in MODES:
        raise UserError(f"is an image, and the model takes examples of shape {shape}; give .npy files")
    with _damage_refused("is no PNG image"), Image.open(file, formats=["PNG"]) as image:
        _require_plain(image, shape)
        pixels = np.asarray(image.convert(MODES[shape[0]]))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _require_plain(image: Image.Image, shape: tuple[int, ...]) -> None:
    """Raise a :class:`UserError` if the conversion of an image would change its pixels, before they are read."""
    needed = (shape[-1], shape[-2])
    if image.size != needed:
        raise UserError("has {} x {} pixels; allowed: {} x {}".format(*image.size, *needed))
    if image.mode.startswith("I"):
        raise UserError("has 16 bits for each pixel; allowed: 8 bits")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise UserError("has transparent pixels, whose colour is not known; give an image without transparency")


@contextmanager
def _damage_refused(problem: str) -> Iterator[None]:
    """Raise a :class:`UserError` in place of each error of a reader about the content of a file."""
    try:
        yield
    except OSError as error:
        # Errors of the system have a number.
        if error.errno is not None:
            raise
        raise UserError(f"{problem} ({error})") from None
    except DAMAGE as error:
        raise UserError(f"{problem} ({' '.join(str(error).split())[:120]})") from None
