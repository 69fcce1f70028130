"""Costs of each arm: seconds and bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import significant
from ppml.reporting.panels import annotate, interval_text, note, panels
from ppml.reporting.registry import figure
from ppml.reporting.statistics import Estimate
from ppml.reporting.summaries import known_estimate, rows_for_arm, upload
from ppml.reporting.technique_style import styles_of

BAR_HEIGHT = 0.24
"""Inches of an arm's row."""

LOG_RATIO = 20
"""Least ratio of the largest mean to the smallest in a logarithmic panel."""

LONGEST = 1.25
"""Largest end of a whisker on the axis, in terms of the largest mean."""


@figure("cost")
def draw_cost(view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Draw CPU seconds a run, and the bytes that a client uploads in a round, a bar for each arm.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each quantity; bars are means over seeds in the colour of the technique, whiskers 95 % t-intervals
        with three seeds or more, lowest to highest with two. A triangle marks a whisker that leaves the axis. A panel
        with means that differ by a factor of 20 is logarithmic and says so. Without an upload its panel is left out.
    """
    require_arms(records, view.arms, "records.csv")
    require_arms(costs, view.arms, "costs.csv")
    colours = {arm: style.colour for arm, style in styles_of(records).items()}
    shown = cost_panels(view, costs)
    height, quantity = 1.35 + BAR_HEIGHT * len(view.arms), " and ".join(name.lower() for name, _ in shown)
    quantity = quantity.replace("cpu", "CPU")
    with panels(view, quantity, height, columns=len(shown), sharey=True, squeeze=False) as (drawing, axes):
        for ax, ((heading, unit), values) in zip(axes[0], shown.items(), strict=True):
            _draw_panel(ax, heading, unit, values, colours)
        axes[0, 0].set_yticks(range(len(view.arms)), [view.label(arm) for arm in view.arms])
        text = f"{interval_text(_times(view, costs), 'whiskers')}; less is better"
        drawing.supxlabel(note(text), fontsize=7.5)
    return drawing


def cost_panels(view: ExperimentView, costs: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the panels by heading and unit, without the upload if no arm sends updates.

    Returns
    -------
    dict of tuple to pandas.DataFrame
        Indexed by arm: ``mean``, ``low``, ``high``; nan without a measurement, or without an interval.
    """
    quantities = {
        ("CPU time", "seconds a run"): costs["cpu_seconds"],
        ("Upload", "KB a client and round"): upload(costs) / 1000,
    }
    shown = {}
    for name, values in quantities.items():
        found = _estimates(view, costs, values)
        rows = pd.DataFrame([vars(one) for one in found], index=list(view.arms))[["mean", "low", "high"]]
        if rows["mean"].notna().any():
            shown[name] = rows.clip(lower=0.0)
    return shown


def _times(view: ExperimentView, costs: pd.DataFrame) -> list[Estimate]:
    return _estimates(view, costs, costs["cpu_seconds"])


def _estimates(view: ExperimentView, costs: pd.DataFrame, values: pd.Series) -> list[Estimate]:
    measured = costs.assign(value=values)
    return [known_estimate(rows_for_arm(measured, arm)["value"]) for arm in view.arms]


def _draw_panel(ax: Axes, heading: str, unit: str, values: pd.DataFrame, colours: dict[str, str]) -> None:
    looks = {"palette": colours, "saturation": 1, "width": 0.72}
    sns.barplot(x=values["mean"], y=values.index, hue=values.index, errorbar=None, legend=False, ax=ax, **looks)
    logarithmic = values["mean"].max() > LOG_RATIO * values["mean"].min() > 0
    most = LONGEST * float(values["mean"].max())
    _draw_whiskers(ax, values, most)
    _limit(ax, values, logarithmic, most)
    _write_values(ax, values, most)
    ax.set_title(heading)
    ax.set_xlabel(unit + (", log scale" if logarithmic else ""))
    ax.set_ylabel("")
    ax.grid(axis="y", visible=False)


def _draw_whiskers(ax: Axes, values: pd.DataFrame, most: float) -> None:
    known = values["low"].notna().to_numpy()
    rows, places = values[known], np.flatnonzero(known)
    reach = np.array([rows["mean"] - rows["low"], rows["high"].clip(upper=most) - rows["mean"]])
    # A white line below the whisker keeps it visible on a dark bar.
    for colour, thickness, order in (("white", 2.2, 4), ("#222222", 0.9, 5)):
        look: dict[str, Any] = {"ecolor": colour, "elinewidth": thickness, "capthick": thickness, "zorder": order}
        ax.errorbar(rows["mean"], places, xerr=reach, fmt="none", capsize=2, **look)
    for place in places[(rows["high"] > most).to_numpy()]:
        ax.plot(most, place, ">", color="#222222", markersize=4, zorder=6, gid="cut")


def _limit(ax: Axes, values: pd.DataFrame, logarithmic: bool, most: float) -> None:
    """Set the limits with room for the numbers on the right."""
    highest = min(most, float(np.nanmax(values[["mean", "high"]])))
    ax.set_ylim(len(values) - 0.4, -0.6)
    if logarithmic:
        lowest = values["mean"].min() / 2
        ax.set_xscale("log")
        ax.set_xlim(lowest, highest * (highest / lowest) ** 0.3)
    else:
        ax.set_xlim(0, 1.25 * highest or 1)


def _write_values(ax: Axes, values: pd.DataFrame, most: float) -> None:
    start = ax.get_xlim()[0]
    ends = values["high"].fillna(values["mean"]).clip(upper=most)
    for place, (mean, end) in enumerate(zip(values["mean"], ends, strict=True)):
        if math.isnan(mean):
            annotate(ax, "nothing sent", (start, place), (3, 0), va="center", color="#777777")
        else:
            annotate(ax, significant(mean), (end, place), (4, 0), va="center", color="#222222")
