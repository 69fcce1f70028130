"""Claimed and measured noise of our own trainings."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ppml.reporting.experiment_view import ExperimentView, audits_of
from ppml.reporting.formatting import wrapped
from ppml.reporting.panels import legend_below, panels
from ppml.reporting.registry import figure
from ppml.reporting.style import ALARM, HUES
from ppml.reporting.table_audit import HOLDS, confidence_of, verdict_of

ROW_HEIGHT = 0.3
"""Inches of an arm."""

MARGIN = 1.5
"""Inches of title, axis and legend."""

NAME_WIDTH = 40
"""Characters of a line of a name."""


@figure("audit")
def draw_audit(view: ExperimentView, records: pd.DataFrame, audits: pd.DataFrame) -> Figure:
    """Draw the measured noise multiplier of each audited arm over the claimed one, and its epsilon likewise.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each audited arm, on two axes. Left: the measured noise multiplier over the claimed one, with its
        interval; a line marks the claim. Right: the lower bound of epsilon from the releases, as a fraction of the
        claimed epsilon.
    """
    rows = audits_of(view, audits)
    layout: dict[str, Any] = {"sharey": True, "width_ratios": (3, 2)}
    with panels(view, records, MARGIN + ROW_HEIGHT * len(rows), columns=2, **layout) as (drawing, (noise, fraction)):
        places = list(range(len(rows)))
        measured, low, high = (rows[name] / rows["noise_multiplier"] for name in ("estimate", "low", "high"))
        noise.errorbar(
            measured, places, xerr=[measured - low, high - measured], fmt="o", color=HUES[0], markeredgewidth=1.0,
            elinewidth=1.4, capsize=2.5, label="measured", zorder=3,
        )  # fmt: skip
        noise.axvline(1.0, color="black", linewidth=1.6, label="claimed", zorder=2)
        noise.axvline(0.5, color=HUES[1], linewidth=1.2, linestyle=":", label="half the noise", zorder=2)
        noise.set_xlim(min(0.4, noise.get_xlim()[0]), max(1.3, noise.get_xlim()[1]))
        noise.set_xlabel("Noise, over the claimed noise")
        bounds = (rows["epsilon_low"] / rows["epsilon"].where(rows["epsilon"] > 0)).to_numpy(dtype=float)
        fraction.barh(places, bounds, height=0.55, color=HUES[0], zorder=3)
        fraction.axvline(1.0, color="black", linewidth=1.6, zorder=4)
        fraction.set_xlim(0.0, max(1.05, fraction.get_xlim()[1]))
        fraction.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        fraction.set_xlabel("Lower bound of ε, of the claimed ε")
        verdicts = [verdict_of(row) for _, row in rows.iterrows()]
        names = [
            label if verdict == HOLDS else f"{label}: {verdict}"
            for label, verdict in zip(rows["label"], verdicts, strict=True)
        ]
        noise.set_yticks(places, [wrapped(name, NAME_WIDTH) for name in names])
        for tick, verdict in zip(noise.get_yticklabels(), verdicts, strict=True):
            tick.set_color("black" if verdict == HOLDS else ALARM)
        noise.set_ylim(len(rows) - 0.5, -0.5)
        for ax in (noise, fraction):
            ax.grid(axis="y", visible=False)
        title = f"Intervals: {confidence_of(rows)} for all audited arms and checks together"
        legend_below(drawing, noise.get_legend_handles_labels()[0], title=title, ncols=3)
    return drawing
