"""A few test images, with the classes that each arm predicts."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import wrapped
from ppml.reporting.panels import panels
from ppml.reporting.registry import figure

WIDE = 12
"""Images side by side."""
TITLE, IMAGES, LINE = 0.5, 0.75, 0.2
"""Inches of the title, of the row of images, and of a line below."""
RIGHT, WRONG = "#0173B2", "#D55E00"


@figure("predictions")
def draw_predictions(view: ExperimentView, pictures: pd.DataFrame) -> Figure:
    """Draw the first test images in a row, and below each the class that each arm predicts, by its first seed.

    Returns
    -------
    matplotlib.figure.Figure
        A column for each image, with its true class above; a line for each arm. A wrong class is orange and in
        parentheses. Images of other data sets than that of the first arm are left out.
    """
    mine = view.rows_of(pictures)
    view.require([*mine["arm"]], "figure predictions", "is trained on images; select one, or remove this figure")
    first = mine[mine["arm"] == mine["arm"].iloc[0]].head(WIDE)
    arms = [
        (label, rows)
        for arm, label in view.arms.items()
        if len(rows := mine[mine["arm"] == arm].head(WIDE)) and [*rows["png"]] == [*first["png"]]
    ]
    lines = LINE * (len(arms) + 0.6)
    layout: dict[str, Any] = {"rows": 2, "columns": 1, "height_ratios": [IMAGES, lines]}
    with panels(view, "predictions for the first test images", TITLE + IMAGES + lines, **layout) as (drawing, axes):
        top, below = axes
        _draw_images(top, first)
        _write_predictions(below, arms)
    return drawing


def _draw_images(ax: Axes, rows: pd.DataFrame) -> None:
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in rows["png"]]
    for place, image in enumerate(images):
        ax.imshow(image, extent=(place + 0.05, place + 0.95, 0, 0.9), interpolation="nearest", aspect="auto")
        ax.text(place + 0.5, 0.95, wrapped(str(rows["label"].iloc[place]), 10), ha="center", va="bottom", fontsize=6.5)
    ax.set(xlim=(-2.5, len(images)), ylim=(0, 1.3))
    ax.text(-0.1, 0.95, "true class", ha="right", va="bottom", fontsize=7)
    ax.set_axis_off()


def _write_predictions(ax: Axes, arms: list[tuple[str, pd.DataFrame]]) -> None:
    for line, (label, rows) in enumerate(arms):
        ax.text(-0.1, -line, label, ha="right", va="center", fontsize=7)
        for place, (true, found) in enumerate(zip(rows["label"], rows["predicted"], strict=True)):
            right = str(true) == str(found)
            text = str(found)[:10] if right else f"({str(found)[:9]})"
            ax.text(place + 0.5, -line, text, ha="center", va="center", fontsize=6, color=RIGHT if right else WRONG)
    ax.set(xlim=(-2.5, len(arms[0][1])), ylim=(0.5 - len(arms), 0.6))
    ax.set_axis_off()
