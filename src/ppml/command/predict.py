"""The subcommand ``ppml predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ppml.api.trained_model import load
from ppml.errors import UserError

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> mode of an image."""


def predict_files(run: Path, files: Sequence[Path], model: int | None) -> None:
    """Print the class and the score of each example, and the privacy statement of the model to standard error."""
    trained = load(run, model=model)
    for file in files:
        try:
            predictions = trained.predict(read_examples(file, trained.shape))
        except UserError as error:
            raise UserError(f"{file}: {str(error).removeprefix('examples: ')}") from None
        several = len(predictions.labels) != 1
        for place, (name, scores) in enumerate(zip(predictions.names, predictions.scores, strict=True)):
            print(f"{file}[{place}]" if several else file, name, f"{scores.max():.4f}", sep="\t")
    sys.stdout.flush()
    print(f"privacy: {trained.privacy}", file=sys.stderr)


def read_examples(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of a file: pixels ``(channels, height, width)`` of a PNG image, or the content of ``.npy``.

    Raises
    ------
    UserError
        The file cannot be read, or has another format; or the model takes no images.
    """
    if file.suffix == ".npy":
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise UserError(f"is no array in NumPy's format ({error})") from None
    if file.suffix.lower() != ".png":
        raise UserError("has an unknown format; allowed: .npy, .png")
    if len(shape) != 3 or shape[0] not in MODES:
        raise UserError(f"is an image, and the model takes examples of shape {shape}; give .npy files")
    try:
        with Image.open(file, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert(MODES[shape[0]]))
    except (UnidentifiedImageError, SyntaxError) as error:
        raise UserError(f"is no PNG image ({error})") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
