"""How every figure looks, and how it becomes the same bytes on every run."""

from __future__ import annotations

import colorsys
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from ppml.reporting.experiment_view import Selection, require_arms
from ppml.reporting.footnotes import is_fallback
from ppml.reporting.formatting import AGGREGATIONS, dataset_name, model_name

WIDTH = 17 / 2.54
"""Inches: the width of a text column of an A4 page."""

FALLBACK_TITLE = "FALLBACK DATA: scikit-learn digits, not MNIST"
ALARM = "#B00000"

# Okabe and Ito's colours for the colour-blind, without yellow, which print loses, and with a grey in its place.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
DASHES: tuple[Any, ...] = ("-", (0, (4.5, 1.8)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

LIGHTEST, DARKEST = 0.5, -0.4
"""How much of the lightest and darkest shade of a colour is white, or black where it is negative."""

RC: dict[str, Any] = {
    # The font that ships with matplotlib: another machine's fonts would change the bytes.
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
    """How an arm is drawn in every figure of an experiment.

    Parameters
    ----------
    family : str
        Name of what it differs from only in its privacy budget.
    colour : str
        Hexadecimal. Arms that differ in privacy only share a hue, from light to dark in their order, no privacy last.
    marker : str
        A matplotlib marker, another one for each of twelve arms.
    line : object
        A matplotlib line style; arms whose updates are encrypted are dashed, so that both stay visible where they
        coincide with the same arm in plaintext.
    """

    family: str
    colour: str
    marker: str
    line: Any


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and save within the project's style; what was set before comes back afterwards."""
    rc = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **RC}
    with matplotlib.rc_context(rc):
        yield


def new_figure(selection: Selection, records: pd.DataFrame, height: float) -> Figure:
    """Return an empty figure of the width of a page and ``height`` inches, with the title of the experiment.

    Where an arm is about the fallback data set the title says so in red.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    title = textwrap.fill(selection.title, 80)
    if is_fallback(records[records["arm"].isin(list(selection.arms))]):
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


def arm_styles(selection: Selection, records: pd.DataFrame) -> dict[str, ArmStyle]:
    """Return the style of each arm of an experiment, which depends on nothing but the arms.

    Raises
    ------
    UserError
        An arm has no records.
    """
    require_arms(records, selection.arms, "records.csv")
    rows = records.drop_duplicates("arm").set_index("arm").loc[list(selection.arms)]
    names, kin = _names(rows, "technique"), _names(rows, "topology")
    encrypted = [name for name in dict.fromkeys(rows["aggregation"]) if name not in ("none", "plaintext")]
    styles = {}
    for place, arm in enumerate(selection.arms):
        turn, hue = divmod(list(dict.fromkeys(kin.values())).index(kin[arm]), len(HUES))
        relatives = [other for other in kin if kin[other] == kin[arm]]
        # Less privacy is darker: what has none comes last.
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
    """Return what each arm is called by ``first``, aggregation and whatever else tells arms that share these apart."""
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
            # Another clipping norm is another recipe, not another budget of the same one.
            "clipping": ["" if pd.isna(norm) else f"clipping norm {norm:g}" for norm in rows["max_grad_norm"]],
            "dataset": [dataset_name(name) for name in rows["dataset"]],
        },
        index=rows.index,
    )
    names = {str(arm): ", ".join(filter(None, row)) for arm, row in parts[[first, "aggregation"]].iterrows()}
    for column in ("model", "partition", "clipping", "dataset"):
        # An empty cell tells nothing apart: an arm without privacy has no clipping norm.
        told = {
            name: len({parts[column][arm] for arm in names if names[arm] == name} - {""}) > 1 for name in names.values()
        }
        names = {arm: ", ".join(filter(None, (name, told[name] * parts[column][arm]))) for arm, name in names.items()}
    return names


def _shade(colour: str, place: int, count: int) -> str:
    """Return the shade of ``colour`` for member ``place`` of ``count``: from mixed with white to mixed with black."""
    if count == 1:
        return colour
    # Nothing is lighter than what print keeps.
    level = LIGHTEST + (DARKEST - LIGHTEST) * place / (count - 1)
    other, part = ("white", level) if level > 0 else ("black", -level)
    pairs = zip(to_rgb(colour), to_rgb(other), strict=True)
    red, green, blue = ((1 - part) * mine + part * its for mine, its in pairs)
    return to_hex((red, green, blue))


def dark(colour: str) -> str:
    """Return ``colour`` dark enough for small print on white."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, min(lightness, 0.33), saturation))


def spread_out(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions apart until neighbours are at least ``gap`` apart, each as little as possible.

    Examples
    --------
    >>> spread_out([1.0, 1.0, 5.0], 1.0)
    [0.5, 1.5, 5.0]
    """
    order = sorted(range(len(positions)), key=lambda place: positions[place])
    # Neighbours that would touch form a block around the mean of where its members want to be.
    blocks: list[list[int]] = []
    for place in order:
        blocks.append([place])
        while len(blocks) > 1 and _bottom(blocks[-1], positions, gap) - _top(blocks[-2], positions, gap) < gap:
            last = blocks.pop()
            blocks[-1] += last
    moved = list(positions)
    for block in blocks:
        for step, place in enumerate(block):
            moved[place] = _bottom(block, positions, gap) + step * gap
    return moved


def _bottom(block: Sequence[int], positions: Sequence[float], gap: float) -> float:
    return sum(positions[place] for place in block) / len(block) - gap * (len(block) - 1) / 2


def _top(block: Sequence[int], positions: Sequence[float], gap: float) -> float:
    return _bottom(block, positions, gap) + gap * (len(block) - 1)
