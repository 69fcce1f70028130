"""The subcommand ``ppml predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from ppml.api.trained_model import load
from ppml.errors import UserError

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> mode of an image."""
DAMAGE = (ValueError, TypeError, EOFError, OverflowError, SyntaxError, TokenError, Image.DecompressionBombError)
"""The errors of NumPy and Pillow about the content of a file, besides those of the system."""


def predict_files(run: Path, files: Sequence[Path], model: int | None) -> None:
    """Print the class and the score of each example, and the privacy statement of the model to standard error."""
    trained = load(run, model=model)
    for number, file in enumerate(files):
        try:
            predictions = trained.predict(read_examples(file, trained.shape))
        except UserError as error:
            raise UserError(f"{file}: {str(error).removeprefix('examples: ')}") from None
        if not number:
            # Before the first row: a later file may be refused.
            print(f"privacy: {trained.privacy}", file=sys.stderr)
        several = len(predictions.labels) != 1
        for place, (name, scores) in enumerate(zip(predictions.names, predictions.scores, strict=True)):
            print(f"{file}[{place}]" if several else file, name, f"{scores.max():.4f}", sep="\t")


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
