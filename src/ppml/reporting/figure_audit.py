"""Claimed and measured noise of our own trainings."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ppml.reporting.experiment_view import ExperimentView, audits_of, require_arms
from ppml.reporting.panels import legend_below, panels
from ppml.reporting.registry import figure
from ppml.reporting.style import dark
from ppml.reporting.table_audit import HOLDS, confidence_of, verdict_of
from ppml.reporting.technique_style import ALARM, GREY, style_of, technique_name

ROW_HEIGHT = 0.15
"""Inches of an arm."""

MARGIN = 1.35
"""Inches of title, axis and legend."""

POINTS = 6.4
"""Size of the names."""

OTHERS = "Other techniques"


@figure("audit")
def draw_audit(view: ExperimentView, records: pd.DataFrame, audits: pd.DataFrame) -> Figure:
    """Draw the measured noise multiplier of each audited arm over the claimed one, and its epsilon likewise.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each audited arm, on two axes; arms of one technique follow each other below its name. Left: the
        measured noise multiplier over the claimed one, with its interval; a line marks the claim. Right: the lower
        bound of epsilon from the releases, as a fraction of the claimed epsilon.
    """
    rows = audits_of(view, audits)
    require_arms(records, rows.index, "records.csv")
    firsts = records.drop_duplicates("arm").set_index("arm").loc[rows.index]
    rows = rows.assign(
        technique=[technique_name(first) for _, first in firsts.iterrows()],
        colour=[style_of(first).colour for _, first in firsts.iterrows()],
        marker=[style_of(first).marker for _, first in firsts.iterrows()],
        verdict=[verdict_of(row) for _, row in rows.iterrows()],
    )
    rows = _grouped(rows)
    places = _places(rows["group"])
    layout: dict[str, Any] = {"sharey": True, "width_ratios": (3, 2)}
    height = MARGIN + ROW_HEIGHT * (max(places) + 1)
    with panels(view, "measured noise and ε over the claimed ones", height, columns=2, **layout) as (
        drawing,
        (noise, fraction),
    ):
        _draw_noise(noise, rows, places)
        _draw_bounds(fraction, rows, places)
        _write_names(noise, rows, places)
        noise.set_ylim(max(places) + 0.7, -0.7)
        for ax in (noise, fraction):
            ax.grid(axis="y", visible=False)
        point: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 4}
        handles = [*noise.get_legend_handles_labels()[0], Line2D([], [], label="measured, with interval", **point)]
        title = f"Intervals: {confidence_of(rows)} for all audited arms and checks together"
        legend_below(drawing, handles, title=title, ncols=3)
    return drawing


def _grouped(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by technique, each with its ``group``; techniques of one arm are together at the end."""
    several = rows["technique"].map(rows["technique"].value_counts()) > 1
    rows = rows.assign(group=rows["technique"].where(several, OTHERS))
    order = [*dict.fromkeys(rows["group"][several]), OTHERS]
    return rows.sort_values("group", key=lambda names: names.map(order.index), kind="stable")


def _places(groups: pd.Series) -> list[float]:
    """Return the row of each arm, below a row for the name of its group."""
    headings = (groups != groups.shift()).cumsum()
    return [float(place + heading) for place, heading in enumerate(headings)]


def _draw_noise(ax: Axes, rows: pd.DataFrame, places: list[float]) -> None:
    measured, low, high = (rows[name] / rows["noise_multiplier"] for name in ("estimate", "low", "high"))
    for place, arm in zip(places, rows.index, strict=True):
        reach = [[measured[arm] - low[arm]], [high[arm] - measured[arm]]]
        look: dict[str, Any] = {"color": rows["colour"][arm], "fmt": rows["marker"][arm], "markersize": 4}
        ax.errorbar([measured[arm]], [place], xerr=reach, elinewidth=1.2, capsize=1.8, zorder=3, **look)
    ax.axvline(1.0, color="black", linewidth=1.4, label="claimed", zorder=2)
    ax.axvline(0.5, color=ALARM, linewidth=1.2, linestyle=":", label="half the noise", zorder=2)
    # A wrong release must stay visible; an interval without an upper end must not stretch the axis.
    ax.set_xlim(min(0.4, 0.95 * measured.min()), max(1.3, 1.1 * measured.max()))
    ax.set_xlabel("Noise, over the claimed noise")


def _draw_bounds(ax: Axes, rows: pd.DataFrame, places: list[float]) -> None:
    bounds = (rows["epsilon_low"] / rows["epsilon"].where(rows["epsilon"] > 0)).to_numpy(dtype=float)
    ax.barh(places, bounds, height=0.6, color=rows["colour"].tolist(), zorder=3)
    ax.axvline(1.0, color="black", linewidth=1.4, zorder=4)
    ax.set_xlim(0.0, max(1.05, ax.get_xlim()[1]))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_xlabel("Lower bound of ε,\nover the claimed ε")


def _write_names(ax: Axes, rows: pd.DataFrame, places: list[float]) -> None:
    """Write the name of each group, and below it its arms; an arm with a fault in red, with its verdict."""
    names: list[tuple[float, str, str, str]] = []
    for place, (_, row) in zip(places, rows.iterrows(), strict=True):
        if row["group"] not in [text for _, text, _, _ in names]:
            colour = GREY if row["group"] == OTHERS else dark(str(row["colour"]))
            names.append((place - 1, row["group"], colour, "bold"))
        holds, name = row["verdict"] == HOLDS, _own_part(row["label"], row["group"])
        text = name if holds else f"{name}: {row['verdict']}"
        names.append((place, text, "black" if holds else ALARM, "normal"))
    ticks, texts, colours, weights = zip(*names, strict=True)
    ax.set_yticks(ticks, texts, fontsize=POINTS)
    for tick, colour, weight in zip(ax.get_yticklabels(), colours, weights, strict=True):
        tick.set(color=colour, fontweight=weight)


def _own_part(label: str, technique: str) -> str:
    """Return the part of a label beyond the technique's name; the whole label of an arm with another name.

    Examples
    --------
    >>> _own_part("FL + DP, ε 2.9, 4 clients", "FL + DP"), _own_part("mine", "FL + DP")
    ('ε 2.9, 4 clients', 'mine')
    """
    return label.removeprefix(f"{technique}, ")
