"""The rows of pictures.csv: a few test images of one run, with their classes."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ppml.results.rows import Run

SHOWN = 12
"""Images of a run, the first ones of the test."""


def picture_rows(run: Run, test: Path) -> list[dict[str, Any]]:
    """Return the first test images of a run as PNG, with true and predicted class.

    Parameters
    ----------
    run : Run
        The run; the predictions are those of its first model.
    test : Path
        The test images, before any transform, in the order of the predictions.
    """
    with safe_open(test, framework="numpy") as file:
        stored = file.get_slice("inputs")
        images: NDArray[np.uint8] = stored[: min(SHOWN, stored.get_shape()[0])]
    return [
        {
            "arm": run.arm,
            "seed": run.config["seed"],
            "example": number,
            "label": run.classes[run.labels[number]],
            "predicted": run.classes[run.predicted[0, number]],
            "png": _png(image),
        }
        for number, image in enumerate(images)
    ]


def _png(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    content = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()
