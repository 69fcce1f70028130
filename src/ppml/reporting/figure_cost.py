"""What each arm costs: seconds, memory and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppml.reporting.experiment_view import Selection, require_arms
from ppml.reporting.formatting import significant
from ppml.reporting.statistics import estimate
from ppml.reporting.style import ArmStyle, arm_styles, figure_style, new_figure
from ppml.reporting.summaries import rows_of, upload

BAR_HEIGHT = 0.24
"""Inches of an arm's row."""

LOG_SPREAD = 20
"""From this ratio of the largest mean to the smallest on, a panel is logarithmic."""


@dataclass(frozen=True)
class Panel:
    """A measured quantity.

    Parameters
    ----------
    heading : str
        Above the panel.
    unit : str
        Below its axis.
    values : pandas.DataFrame
        Indexed by arm: ``mean``, ``low``, ``high``; nan where there is nothing to measure, or no interval.
    """

    heading: str
    unit: str
    values: pd.DataFrame


def cost(selection: Selection, records: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Draw CPU seconds a run, peak memory, and what a client uploads in a round, a bar an arm.

    Parameters
    ----------
    selection : Selection
        The arms, from top to bottom.
    records, costs : pandas.DataFrame
        One row an arm and seed.

    Returns
    -------
    matplotlib.figure.Figure
        A panel a quantity, sharing the arms; bars are means over seeds, whiskers 95 % t-intervals (none with one seed);
        a panel whose means span a factor of 20 is logarithmic and says so. Where no arm sends anything, the panel of
        the upload is left out.

    Raises
    ------
    UserError
        An arm has no records or no costs.
    """
    styles = arm_styles(selection, records)
    require_arms(costs, selection.arms, "costs.csv")
    panels = cost_panels(selection, costs)
    seeds = sorted({len(rows_of(costs, arm)) for arm in selection.arms})
    with figure_style():
        figure = new_figure(selection, records, 1.35 + BAR_HEIGHT * len(selection.arms))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw(ax, panel, styles)
        axes[0].set_yticks(range(len(selection.arms)), [selection.label(arm) for arm in selection.arms])
        number = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        shown = "One seed, no interval" if seeds == [1] else f"Mean of {number} seeds; whisker: 95 % t-interval"
        figure.supxlabel(f"{shown}; less is better", fontsize=7.5)
    return figure


def cost_panels(selection: Selection, costs: pd.DataFrame) -> list[Panel]:
    """Return what is shown, in the order of the panels, leaving out the upload where no arm sends anything."""
    sent = upload(costs)
    quantities = {
        ("CPU time", "seconds a run"): costs["cpu_seconds"],
        ("Peak memory", "MB, largest process"): costs["peak_memory_mb"],
        ("Upload", "KB a client and round"): sent / 1000,
    }
    panels = []
    for (heading, unit), values in quantities.items():
        measured = costs.assign(value=values)
        rows = [_interval(rows_of(measured, arm)["value"].dropna()) for arm in selection.arms]
        table = pd.DataFrame(rows, index=list(selection.arms), columns=["mean", "low", "high"])
        if table["mean"].notna().any():
            panels.append(Panel(heading, unit, table))
    return panels


def _interval(values: pd.Series) -> tuple[float, float, float]:
    if values.empty:
        return math.nan, math.nan, math.nan
    result = estimate(values)
    low = result.low if math.isnan(result.low) else max(0.0, result.low)
    return result.mean, low, result.high


def _draw(ax: Axes, panel: Panel, styles: dict[str, ArmStyle]) -> None:
    values = panel.values
    colours = {arm: styles[arm].colour for arm in values.index}
    frame = values.rename_axis("arm").reset_index()
    looks = {"palette": colours, "saturation": 1, "width": 0.72}
    sns.barplot(data=frame, x="mean", y="arm", hue="arm", errorbar=None, legend=False, ax=ax, **looks)
    _draw_whiskers(ax, values)
    logarithmic = values["mean"].max() > LOG_SPREAD * values["mean"].min() > 0
    _limit(ax, values, logarithmic)
    _write_values(ax, values)
    ax.set_title(panel.heading)
    ax.set_xlabel(panel.unit + (", log scale" if logarithmic else ""))
    ax.set_ylabel("")
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)


def _draw_whiskers(ax: Axes, values: pd.DataFrame) -> None:
    sure = values["low"].notna().to_numpy()
    known = values[sure]
    reach = np.array([known["mean"] - known["low"], known["high"] - known["mean"]])
    # A white line below the whisker keeps it visible on a dark bar.
    for colour, thickness, order in (("white", 2.2, 4), ("#222222", 0.9, 5)):
        look: dict[str, Any] = {
            "ecolor": colour,
            "elinewidth": thickness,
            "capthick": thickness,
            "capsize": 2,
            "zorder": order,
        }
        ax.errorbar(known["mean"], np.flatnonzero(sure), xerr=reach, fmt="none", **look)


def _limit(ax: Axes, values: pd.DataFrame, logarithmic: bool) -> None:
    """Set the limits with room for the written values at the right."""
    highest = float(np.nanmax(values[["mean", "high"]]))
    ax.set_ylim(len(values) - 0.4, -0.6)
    if logarithmic:
        lowest = values["mean"].min() / 2
        ax.set_xscale("log")
        ax.set_xlim(lowest, highest * (highest / lowest) ** 0.42)
    else:
        ax.set_xlim(0, 1.38 * highest or 1)


def _write_values(ax: Axes, values: pd.DataFrame) -> None:
    left = ax.get_xlim()[0]
    ends = values["high"].fillna(values["mean"])
    for place, (mean, end) in enumerate(zip(values["mean"], ends, strict=True)):
        nothing = math.isnan(mean)
        ax.annotate(
            "nothing sent" if nothing else significant(mean),
            xy=(left if nothing else end, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color="#777777" if nothing else "#222222",
        )
