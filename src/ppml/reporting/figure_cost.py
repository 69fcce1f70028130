"""Costs of each arm: seconds, memory and bytes."""

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
from ppml.reporting.panels import annotate, panels, seeds_text
from ppml.reporting.registry import figure
from ppml.reporting.style import ArmStyle, arm_styles
from ppml.reporting.summaries import known_estimate, rows_for_arm, upload

BAR_HEIGHT = 0.24
"""Inches of an arm's row."""

LOG_RATIO = 20
"""Least ratio of the largest mean to the smallest in a logarithmic panel."""


@figure("cost")
def draw_cost(view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Draw CPU seconds a run, peak memory, and the bytes that a client uploads in a round, a bar for each arm.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each quantity; bars are means over seeds, whiskers 95 % t-intervals (none with one seed). A panel
        with means that differ by a factor of 20 is logarithmic and says so. Without an upload its panel is left out.
    """
    styles = arm_styles(view, records)
    require_arms(costs, view.arms, "costs.csv")
    shown = cost_panels(view, costs)
    height = 1.35 + BAR_HEIGHT * len(view.arms)
    with panels(view, records, height, columns=len(shown), sharey=True, squeeze=False) as (drawing, axes):
        for ax, ((heading, unit), values) in zip(axes[0], shown.items(), strict=True):
            _draw_panel(ax, heading, unit, values, styles)
        axes[0, 0].set_yticks(range(len(view.arms)), [view.label(arm) for arm in view.arms])
        seeds = seeds_text(len(rows_for_arm(costs, arm)) for arm in view.arms)
        interval = "no interval" if seeds == "One seed" else "whisker: 95 % t-interval"
        drawing.supxlabel(f"{seeds}; {interval}; less is better", fontsize=7.5)
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
        ("Peak memory", "MB, largest process"): costs["peak_memory_mb"],
        ("Upload", "KB a client and round"): upload(costs) / 1000,
    }
    shown = {}
    for name, values in quantities.items():
        measured = costs.assign(value=values)
        found = [known_estimate(rows_for_arm(measured, arm)["value"]) for arm in view.arms]
        rows = pd.DataFrame([vars(one) for one in found], index=list(view.arms))[["mean", "low", "high"]]
        if rows["mean"].notna().any():
            shown[name] = rows.clip(lower=0.0)
    return shown


def _draw_panel(ax: Axes, heading: str, unit: str, values: pd.DataFrame, styles: dict[str, ArmStyle]) -> None:
    colours = {arm: styles[arm].colour for arm in values.index}
    looks = {"palette": colours, "saturation": 1, "width": 0.72}
    sns.barplot(x=values["mean"], y=values.index, hue=values.index, errorbar=None, legend=False, ax=ax, **looks)
    _draw_whiskers(ax, values)
    logarithmic = values["mean"].max() > LOG_RATIO * values["mean"].min() > 0
    _limit(ax, values, logarithmic)
    _write_values(ax, values)
    ax.set_title(heading)
    ax.set_xlabel(unit + (", log scale" if logarithmic else ""))
    ax.set_ylabel("")
    ax.grid(axis="y", visible=False)


def _draw_whiskers(ax: Axes, values: pd.DataFrame) -> None:
    known = values["low"].notna().to_numpy()
    rows = values[known]
    reach = np.array([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
    # A white line below the whisker keeps it visible on a dark bar.
    for colour, thickness, order in (("white", 2.2, 4), ("#222222", 0.9, 5)):
        look: dict[str, Any] = {"ecolor": colour, "elinewidth": thickness, "capthick": thickness, "zorder": order}
        ax.errorbar(rows["mean"], np.flatnonzero(known), xerr=reach, fmt="none", capsize=2, **look)


def _limit(ax: Axes, values: pd.DataFrame, logarithmic: bool) -> None:
    """Set the limits with room for the numbers on the right."""
    highest = float(np.nanmax(values[["mean", "high"]]))
    ax.set_ylim(len(values) - 0.4, -0.6)
    if logarithmic:
        lowest = values["mean"].min() / 2
        ax.set_xscale("log")
        ax.set_xlim(lowest, highest * (highest / lowest) ** 0.42)
    else:
        ax.set_xlim(0, 1.38 * highest or 1)


def _write_values(ax: Axes, values: pd.DataFrame) -> None:
    start = ax.get_xlim()[0]
    ends = values["high"].fillna(values["mean"])
    for place, (mean, end) in enumerate(zip(values["mean"], ends, strict=True)):
        if math.isnan(mean):
            annotate(ax, "nothing sent", (start, place), (3, 0), va="center", color="#777777")
        else:
            annotate(ax, significant(mean), (end, place), (3, 0), va="center", color="#222222")
