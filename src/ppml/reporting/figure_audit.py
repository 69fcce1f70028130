"""Claimed and measured noise of our own mechanism."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ppml.reporting.audits import FAILS
from ppml.reporting.display import percent, wrapped
from ppml.reporting.selection import Selection, audits_of
from ppml.reporting.style import ALARM, HUES, figure_style, new_figure

ROW_HEIGHT = 0.3
"""Inches of an arm."""

AROUND = 1.5
"""Inches of title, axis and legend."""

WIDEST = 34
"""Characters of a name on a line: longer ones would leave the axis no room."""

SHIFT = 0.16
"""How far measurement and control stand above and below the middle of their row."""


def audit(selection: Selection, records: pd.DataFrame, audits: pd.DataFrame) -> Figure:
    """Draw each audited arm's claimed noise multiplier beside the one that its releases show.

    Parameters
    ----------
    selection : Selection
        The arms, from top to bottom; those that were not audited are left out.
    records : pandas.DataFrame
        One row an arm and seed; says which data set the arms were trained on.
    audits : pandas.DataFrame
        One row an audited arm.

    Returns
    -------
    matplotlib.figure.Figure
        A row an arm on a logarithmic axis, where half is everywhere the same distance: a bar across the row is the
        claim, a dot the measurement, an open dot the positive control with half the noise.

    Raises
    ------
    UserError
        None of the arms was audited.
    """
    rows = audits_of(selection, audits)
    with figure_style():
        figure = new_figure(selection, records, AROUND + ROW_HEIGHT * len(rows))
        ax = figure.subplots()
        places = range(len(rows))
        control = rows[["control", "control_low", "control_high"]]
        _draw(ax, rows[["estimate", "low", "high"]], -SHIFT, HUES[0], HUES[0], "measured")
        _draw(ax, control, SHIFT, HUES[1], "white", "measured, with half the noise")
        for place, claimed in zip(places, rows["noise_multiplier"], strict=True):
            label = "claimed" if place == 0 else None
            ax.plot([claimed] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1.6, label=label, zorder=4)
        names = [row["label"] if row["held"] else f"{row['label']}: {FAILS}" for _, row in rows.iterrows()]
        ax.set_yticks(list(places), [wrapped(name, WIDEST) for name in names])
        for tick, held in zip(ax.get_yticklabels(), rows["held"], strict=True):
            tick.set_color("black" if held else ALARM)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        _scale(ax)
        sure = " or ".join(f"{percent(value, 0)} %" for value in dict.fromkeys(rows["confidence"]))
        title = f"Intervals: {sure} for all audited arms and checks together"
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, title=title, loc="outside lower center", ncols=3)
        sns.despine(ax=ax)
    return figure


def _draw(ax: Axes, values: pd.DataFrame, shift: float, colour: str, face: str, label: str) -> None:
    estimate, low, high = (values[column].to_numpy(dtype=float) for column in values.columns)
    ax.errorbar(
        estimate, [place + shift for place in range(len(values))], xerr=[estimate - low, high - estimate], fmt="o",
        color=colour, markerfacecolor=face, markeredgewidth=1.0, elinewidth=1.4, capsize=2.5, label=label, zorder=3,
    )  # fmt: skip


def _scale(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("Noise multiplier: deviation of the noise over what one record can add (log scale)")
    ax.grid(axis="y", visible=False)
