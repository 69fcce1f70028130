"""The style of all figures, and their conversion to SVG and PNG with the same bytes on every run."""

from __future__ import annotations

import colorsys
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.fallback import FALLBACK_TITLE, is_fallback
from ppml.reporting.formatting import AGGREGATIONS, dataset_name, model_name

WIDTH = 17 / 2.54
"""Inches: the width of a text column of an A4 page."""

ALARM = "#B00000"

# Okabe and Ito's colours for colour-blind readers, with grey in place of yellow, which is too pale in print.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
DASHES: tuple[Any, ...] = ("-", (0, (4.5, 1.8)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

LIGHTEST, DARKEST = 0.5, -0.4
"""Fraction of white in the lightest shade of a colour; negative: of black in the darkest."""

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


@dataclass(frozen=True)
class ArmStyle:
    """The look of an arm in every figure of an experiment."""

    family: str
    """Name of the arms that differ only in their privacy budget."""
    colour: str
    """Hexadecimal. Arms that differ only in privacy have one hue, from light to dark in their order, no privacy
    last."""
    marker: str
    """A matplotlib marker, different for each of twelve arms."""
    line: Any
    """A matplotlib line style; arms with encrypted updates are dashed, so that an equal plaintext arm stays visible."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Set the project's style, and restore the earlier settings at the end."""
    rc = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **RC}
    with matplotlib.rc_context(rc):
        yield


def new_figure(view: ExperimentView, records: pd.DataFrame, height: float) -> Figure:
    """Return an empty figure of ``height`` inches, with the title of the experiment and the fallback data in red."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    title = textwrap.fill(view.title, 80)
    if is_fallback(view.rows_of(records)["dataset"]):
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


def arm_styles(view: ExperimentView, records: pd.DataFrame) -> dict[str, ArmStyle]:
    """Return the style of each arm of an experiment; it depends on the arms only.

    Raises
    ------
    UserError
        An arm has no records.
    """
    require_arms(records, view.arms, "records.csv")
    rows = records.drop_duplicates("arm").set_index("arm").loc[list(view.arms)]
    names, kin = _names(rows, "technique"), _names(rows, "topology")
    hues = list(dict.fromkeys(kin.values()))
    encrypted = [name for name in dict.fromkeys(rows["aggregation"]) if name not in ("none", "plaintext")]
    styles = {}
    for place, arm in enumerate(view.arms):
        turn, hue = divmod(hues.index(kin[arm]), len(HUES))
        relatives = [other for other in kin if kin[other] == kin[arm]]
        # Less privacy is darker: arms without privacy come last.
        relatives.sort(key=lambda other: rows["privacy_unit"][other] == "none")
        dashes = 1 + encrypted.index(rows["aggregation"][arm]) if rows["aggregation"][arm] in encrypted else 0
        styles[arm] = ArmStyle(
            family=names[arm],
            colour=_shade(HUES[hue], relatives.index(arm), len(relatives)),
            marker=MARKERS[place % len(MARKERS)],
            line=DASHES[(dashes + 2 * turn) % len(DASHES)],
        )
    return styles


def _names(rows: pd.DataFrame, first: str) -> dict[str, str]:
    """Return a name of each arm: ``first``, aggregation, and the properties that distinguish arms with the same two."""
    parts = pd.DataFrame(
        {
            "topology": rows["topology"].str.capitalize(),
            "technique": [
                topology.capitalize() + ("" if unit == "none" else " + DP")
                for topology, unit in zip(rows["topology"], rows["privacy_unit"], strict=True)
            ],
            "aggregation": ["" if name == "none" else AGGREGATIONS.get(name, name) for name in rows["aggregation"]],
            "model": [model_name(name) for name in rows["model"]],
            "partition": rows["partition"].fillna("").astype(str),
            # Arms with different clipping norms are different families, not budgets of one.
            "clipping": ["" if pd.isna(norm) else f"clipping norm {norm:g}" for norm in rows["max_grad_norm"]],
            "dataset": [dataset_name(name) for name in rows["dataset"]],
        },
        index=rows.index,
    )
    names = (parts[first] + ", " + parts["aggregation"]).str.removesuffix(", ")
    for column in ("model", "partition", "clipping", "dataset"):
        # An empty cell distinguishes no arms: an arm without privacy has no clipping norm.
        stated = parts[column] != ""
        differs = parts[column].where(stated).groupby(names).transform("nunique") > 1
        names += (", " + parts[column]).where(stated & differs, "")
    return {str(arm): name for arm, name in names.items()}


def _shade(colour: str, place: int, count: int) -> str:
    """Return shade ``place`` of ``count`` of ``colour``, from a mixture with white to one with black."""
    if count == 1:
        return colour
    level = LIGHTEST + (DARKEST - LIGHTEST) * place / (count - 1)
    other, part = ("white", level) if level > 0 else ("black", -level)
    red, green, blue = (1 - part) * np.array(to_rgb(colour)) + part * np.array(to_rgb(other))
    return to_hex((red, green, blue))


def dark(colour: str) -> str:
    """Return ``colour`` dark enough for small print on white."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, min(lightness, 0.33), saturation))


def dodge(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions until neighbours have at least the distance ``gap``, each as little as possible.

    Examples
    --------
    >>> dodge([1.0, 1.0, 5.0], 1.0)
    [0.5, 1.5, 5.0]
    """
    if not positions:
        return []
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(positions))
    # Overlapping neighbours form a block around the mean of their positions.
    moved = np.empty(len(positions))
    moved[order] = isotonic_regression(np.array(positions)[order] - steps).x + steps
    return [float(position) for position in moved]
