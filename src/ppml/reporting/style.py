"""The style of all figures, and their conversion to SVG and PNG with the same bytes on every run."""

from __future__ import annotations

import colorsys
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.fallback import FALLBACK_TITLE
from ppml.reporting.technique_style import ALARM, Style

WIDTH = 17 / 2.54
"""Inches: the width of a text column of an A4 page."""

TITLE_WIDTH = 84
"""Characters of a line of the title."""

RC: dict[str, Any] = {
    # Matplotlib includes this font: the fonts of another machine would change the bytes.
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "figure.titlesize": 9,
    "figure.titleweight": "bold",
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "butt",
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "ppml",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Set the project's style, and restore the earlier settings at the end."""
    rc = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **RC}
    with matplotlib.rc_context(rc):
        yield


def new_figure(view: ExperimentView, quantity: str, height: float) -> Figure:
    """Return an empty figure of ``height`` inches; its title has the experiment, the quantity and the fallback data."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    title = textwrap.fill(f"{view.title}: {quantity}", TITLE_WIDTH)
    if view.fallback:
        figure.suptitle(f"{title}\n{FALLBACK_TITLE}", color=ALARM)
    else:
        figure.suptitle(title)
    return figure


def to_svg(figure: Figure) -> bytes:
    """Return ``figure`` as SVG, the same bytes on every call."""
    return _save(figure, "svg", {"Date": None, "Creator": None})


def to_png(figure: Figure) -> bytes:
    """Return ``figure`` as PNG, the same bytes on every call."""
    return _save(figure, "png", {"Software": None})


def _save(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def line_of(style: Style) -> dict[str, Any]:
    """Return matplotlib's options for the colour, the marker and the line of a style."""
    return {"color": style.colour, "marker": style.marker, "linestyle": (0, style.line) if style.line else "-"}


def dark(colour: str) -> str:
    """Return ``colour`` dark enough for small print on white."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, min(lightness, 0.33), saturation))


def dodge(positions: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Move the middles of texts with ``sizes`` until neighbours do not overlap, each as little as possible.

    Examples
    --------
    >>> dodge([1.0, 1.0, 5.0], [1.0, 1.0, 1.0])
    [0.5, 1.5, 5.0]
    """
    if not positions:
        return []
    order = np.argsort(positions, kind="stable")
    ordered = np.array(sizes)[order]
    steps = np.concatenate([[0.0], np.cumsum((ordered[1:] + ordered[:-1]) / 2)])
    # Overlapping neighbours form a block around the mean of their positions.
    moved = np.empty(len(positions))
    moved[order] = isotonic_regression(np.array(positions)[order] - steps).x + steps
    return [float(position) for position in moved]
