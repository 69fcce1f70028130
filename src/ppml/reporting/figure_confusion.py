"""The confusion matrices: true classes against predicted classes, a panel for each arm."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import wrapped
from ppml.reporting.panels import panels
from ppml.reporting.registry import figure

WIDE = 3
"""Panels side by side."""
NUMBERED = 12
"""Classes of a panel with a number in each cell, at most."""
NAMED = 30
"""Classes of a panel with names at its sides, at most."""
HORIZONTAL = 3
"""Classes of a panel with horizontal names below, at most."""
DARK = 0.55
"""The share above which a cell has white text."""
LEAST_SHARE = 0.005
"""The smallest share with a number."""


@figure("confusion")
def draw_confusion(view: ExperimentView, confusion: pd.DataFrame, classes: pd.DataFrame) -> Figure:
    """Draw the share of each true class, by row, that is predicted as each class, by column; the mean over seeds.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each arm; a row adds up to 100 percent, and the diagonal is the recall of each class. A class
        without a test example has an empty row.
    """
    require_arms(classes, view.arms, "classes.csv")
    columns = min(WIDE, len(view.arms))
    rows = -(-len(view.arms) // columns)
    side = 6.4 / columns
    with panels(view, "confusion matrix", 0.8 + (side + 0.5) * rows, rows, columns, squeeze=False) as (drawing, axes):
        for ax in axes.flat[len(view.arms) :]:
            ax.remove()
        for place, (arm, label) in enumerate(view.arms.items()):
            names = list(dict.fromkeys(classes.loc[classes["arm"] == arm, "class"].astype(str)))
            ax = axes.flat[place]
            _draw(ax, shares(confusion[confusion["arm"] == arm], names), names, side, left=place % columns == 0)
            ax.set_title(wrapped(label, 78 // columns), fontsize=8, loc="left")
        drawing.supylabel("True class", fontsize=8)
        drawing.supxlabel("Predicted class; number: percent of the true class, the mean over seeds", fontsize=8)
    return drawing


def shares(rows: pd.DataFrame, names: list[str]) -> NDArray[np.float64]:
    """Return the share of each true class with each predicted class, ``(classes, classes)``; nan without examples."""
    counts = np.zeros((len(names), len(names)))
    place = {name: number for number, name in enumerate(names)}
    for true, predicted, examples in rows[["true", "predicted", "examples"]].itertuples(index=False):
        counts[place[str(true)], place[str(predicted)]] += examples
    totals = counts.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(totals > 0, counts / totals, np.nan))


def _draw(ax: Axes, values: NDArray[np.float64], names: list[str], side: float, *, left: bool) -> None:
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    ax.grid(visible=False)
    points = min(7.0, 44 * side / len(names))
    if len(names) <= NAMED:
        rotation = 0 if len(names) <= HORIZONTAL else 90
        ax.set_xticks(range(len(names)), names, rotation=rotation, fontsize=min(7.0, points + 1))
        ax.set_yticks(range(len(names)), names if left else [""] * len(names), fontsize=min(7.0, points + 1))
    if len(names) > NUMBERED:
        return
    for (row, column), share in np.ndenumerate(values):
        if share >= LEAST_SHARE:
            colour = "white" if share > DARK else "black"
            text = f"{100 * share:.0f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=points, color=colour)
