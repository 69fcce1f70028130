"""Epsilon spent along the way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ppml.errors import UserError
from ppml.reporting.epsilon_axis import EpsilonScale, has_logarithm
from ppml.reporting.experiment_view import Selection, require_arms
from ppml.reporting.formatting import epsilon_bound, scientific
from ppml.reporting.style import WIDTH, ArmStyle, arm_styles, dark, figure_style, new_figure

PANEL_HEIGHT = 2.9
ENTRY_HEIGHT = 0.165
"""Inches of a legend entry."""

LINEAR_SPREAD = 5.0
"""Above this ratio of the largest final epsilon to the smallest above 0, the axis of epsilon is logarithmic."""


def epsilon(selection: Selection, records: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw the epsilon spent against passes over the records, a line an arm with privacy.

    Parameters
    ----------
    selection : Selection
        The arms, in the order of the legend; those without privacy are left out.
    records : pandas.DataFrame
        One row an arm and seed.
    curves : pandas.DataFrame
        One row an arm, seed and place on the way, of the owner that spends most.

    Returns
    -------
    matplotlib.figure.Figure
        Each line is the seed that spends most and ends at the epsilon that is stated. A budget is a dotted line; where
        it ended a training, the legend says which step was refused.

    Raises
    ------
    UserError
        An arm has no records, or none of them has privacy.
    """
    styles = arm_styles(selection, records)
    arms = [arm for arm in selection.arms if (records["privacy_unit"][records["arm"] == arm] != "none").all()]
    if not arms:
        raise UserError(
            f"figure epsilon of {selection.title!r}: none of the arms {', '.join(selection.arms)} has privacy; select "
            "one with `privacy.kind: example`, or leave this figure out"
        )
    require_arms(curves, arms, "epsilons.csv")
    worst = {arm: largest(records, curves, arm) for arm in arms}
    ends = [float(points["epsilon"].iloc[-1]) for _, points in worst.values()]
    deltas = ", ".join(scientific(delta) for delta in dict.fromkeys(row["delta"] for row, _ in worst.values()))
    names = ", ".join(dict.fromkeys(str(row["accountant"]).upper() for row, _ in worst.values()))
    with figure_style():
        labels = {arm: _label(selection.label(arm), row, points) for arm, (row, points) in worst.items()}
        longest = max(map(len, labels.values())) - len(" (0.00)")
        columns = max(1, min(len(arms), int(WIDTH / (1.1 + 0.066 * longest))))
        figure = new_figure(selection, records, PANEL_HEIGHT + 0.6 + ENTRY_HEIGHT * math.ceil(len(arms) / columns))
        ax = figure.subplots()
        scale = _epsilon_axis(ax, worst, ends)
        for place, (arm, (row, points)) in enumerate(worst.items()):
            _draw(ax, row, points, styles[arm], labels[arm], place / len(arms), scale)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
        ax.set_xlabel("Passes over an owner's records (steps times sampling rate)")
        ax.set_ylabel(f"ε spent, {names}, δ = {deltas}" + (" (log scale)" if scale else ""))
        figure.legend(
            *ax.get_legend_handles_labels(),
            title="In brackets: ε at the end",
            loc="outside lower left",
            alignment="left",
            ncols=columns,
            handlelength=3,
            labelspacing=0.3,
        )
        sns.despine(ax=ax)
    return figure


def largest(records: pd.DataFrame, curves: pd.DataFrame, arm: str) -> tuple[pd.Series, pd.DataFrame]:
    """Return the record of the seed of ``arm`` that spends most, and its curve in the order of the steps."""
    seeds = records[records["arm"] == arm]
    row = seeds.sort_values("epsilon", kind="stable").iloc[-1]
    points = curves[(curves["arm"] == arm) & (curves["seed"] == row["seed"])]
    return row, points.sort_values("step", kind="stable")


def _label(name: str, row: pd.Series, points: pd.DataFrame) -> str:
    """Return what the legend says: the name, epsilon at the end, and the step that a budget refused."""
    said = epsilon_bound(float(points["epsilon"].iloc[-1]))
    if not pd.isna(row["budget"]) and row["steps"] < row["steps_planned"]:
        said += f"; step {int(row['steps']) + 1:,} of {int(row['steps_planned']):,} refused"
    return f"{name} ({said})"


def _draw(
    ax: Axes,
    row: pd.Series,
    points: pd.DataFrame,
    style: ArmStyle,
    label: str,
    place: float,
    scale: EpsilonScale | None,
) -> None:
    last = float(points["epoch"].iloc[-1])
    # Markers of different arms stand at different places, so that curves that coincide stay told apart.
    every = max(1, len(points) // 4)
    ax.plot(
        points["epoch"],
        points["epsilon"].map(scale.place) if scale else points["epsilon"],
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markevery=(round(every * (0.5 + place)), every),
        markeredgewidth=0.4,
        markeredgecolor="white",
        label=label,
    )
    if pd.isna(row["budget"]):
        return
    planned = last * float(row["steps_planned"]) / float(row["steps"])
    # The line goes on to where the training was to end, so that what was refused is seen.
    ax.plot([0, planned], [row["budget"]] * 2, color=dark(style.colour), linestyle=(0, (1, 2)), linewidth=1)
    ax.annotate(f"budget {row['budget']:g}", (0, row["budget"]), (4, 3), textcoords="offset points", fontsize=7)


def _epsilon_axis(
    ax: Axes, worst: dict[str, tuple[pd.Series, pd.DataFrame]], ends: Sequence[float]
) -> EpsilonScale | None:
    """Scale the axis of epsilon; return the scale where it is logarithmic, None where 0 is an end of it."""
    limits = [float(row["budget"]) for row, _ in worst.values() if not pd.isna(row["budget"])]
    shown = [value for _, points in worst.values() for value in map(float, points["epsilon"])]
    finite = [value for value in ends if has_logarithm([value])]
    if not any(map(math.isinf, shown)) and (not finite or max(finite) <= LINEAR_SPREAD * min(finite)):
        top = max([*limits, *shown]) or 1.0
        # A line at 0 must not be cut off along the middle.
        ax.set_ylim(-0.02 * top if 0 in shown else 0, 1.06 * top)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return None
    scale = EpsilonScale.of([*limits, *shown], room=1.08)
    scale.draw(ax, "y", (1, 2, 5), ticks=has_logarithm(shown))
    return scale
