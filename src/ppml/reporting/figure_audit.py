"""Claimed and measured noise of our own trainings."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ppml.reporting.experiment_view import Selection, audits_of
from ppml.reporting.formatting import percent, wrapped
from ppml.reporting.style import ALARM, HUES, figure_style, new_figure
from ppml.reporting.table_audit import HOLDS, verdict_of

ROW_HEIGHT = 0.3
"""Inches of an arm."""

AROUND = 1.5
"""Inches of title, axis and legend."""

WIDEST = 34
"""Characters of a name on a line: longer ones would leave the axis no room."""


def audit(selection: Selection, records: pd.DataFrame, audits: pd.DataFrame) -> Figure:
    """Draw each audited arm's claimed noise multiplier beside the one that its releases show, and its epsilon likewise.

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
        A row an arm, on two axes. On the left the measured noise multiplier over the claimed one, with its interval; a
        line is the claim. On the right the share of the claimed epsilon that the releases show it to be at least.

    Raises
    ------
    UserError
        None of the arms was audited.
    """
    rows = audits_of(selection, audits)
    with figure_style():
        figure = new_figure(selection, records, AROUND + ROW_HEIGHT * len(rows))
        ax, share = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        places = list(range(len(rows)))
        _draw(ax, rows[["estimate", "low", "high"]].div(rows["noise_multiplier"], axis=0))
        ax.axvline(1.0, color="black", linewidth=1.6, label="claimed", zorder=2)
        ax.axvline(0.5, color=HUES[1], linewidth=1.2, linestyle=":", label="half the noise", zorder=2)
        shares = (rows["epsilon_low"] / rows["epsilon"].where(rows["epsilon"] > 0)).to_numpy(dtype=float)
        share.barh(places, shares, height=0.55, color=HUES[0], zorder=3)
        share.axvline(1.0, color="black", linewidth=1.6, zorder=4)
        verdicts = [verdict_of(row) for _, row in rows.iterrows()]
        names = [
            label if verdict == HOLDS else f"{label}: {verdict}"
            for label, verdict in zip(rows["label"], verdicts, strict=True)
        ]
        ax.set_yticks(places, [wrapped(name, WIDEST) for name in names])
        for tick, verdict in zip(ax.get_yticklabels(), verdicts, strict=True):
            tick.set_color("black" if verdict == HOLDS else ALARM)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        _scale(ax, share)
        sure = " or ".join(f"{percent(value, 0)} %" for value in dict.fromkeys(rows["confidence"]))
        title = f"Intervals: {sure} for all audited arms and checks together"
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, title=title, loc="outside lower center", ncols=3)
        sns.despine(fig=figure)
    return figure


def _draw(ax: Axes, values: pd.DataFrame) -> None:
    estimate, low, high = (values[column].to_numpy(dtype=float) for column in values.columns)
    ax.errorbar(
        estimate, list(range(len(values))), xerr=[estimate - low, high - estimate], fmt="o", color=HUES[0],
        markeredgewidth=1.0, elinewidth=1.4, capsize=2.5, label="measured", zorder=3,
    )  # fmt: skip


def _scale(ax: Axes, share: Axes) -> None:
    left, right = ax.get_xlim()
    ax.set_xlim(min(0.4, left), max(1.3, right))
    ax.set_xlabel("Noise, over the claimed noise")
    share.set_xlim(0.0, max(1.05, share.get_xlim()[1]))
    share.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    share.set_xlabel("ε, at least, of the claimed ε")
    for axes in (ax, share):
        axes.grid(axis="y", visible=False)
