"""Epsilon spent during training."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppml.reporting.axes import EpsilonScale, scale_epsilons
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import distinct, epsilon_bound, scientific
from ppml.reporting.panels import ENTRY_HEIGHT, PANEL_HEIGHT, annotate, legend_below, panels
from ppml.reporting.registry import figure
from ppml.reporting.style import WIDTH, ArmStyle, arm_styles, dark
from ppml.reporting.summaries import arm_results, largest_epsilon


@figure("epsilon")
def draw_epsilon(view: ExperimentView, records: pd.DataFrame, epsilons: pd.DataFrame) -> Figure:
    """Draw the epsilon spent against passes over the training data, a line for each private arm.

    Returns
    -------
    matplotlib.figure.Figure
        Each line is the seed with the largest epsilon and ends at the stated epsilon. A budget is a dotted line; if it
        ended a training, the legend names the refused step.
    """
    styles = arm_styles(view, records)
    arms = [one for one in arm_results(view, records) if one.private]
    view.require(arms, "figure epsilon", "has privacy; select one with `privacy.kind: example`, or remove this figure")
    require_arms(epsilons, [one.arm for one in arms], "epsilons.csv")
    largest = [largest_epsilon(one.rows) for one in arms]
    curves = [(row, _course(row, epsilons)) for row in largest]
    labels = [_label(one.label, *curve) for one, curve in zip(arms, curves, strict=True)]
    longest = max(map(len, labels)) - len(" (0.00)")
    columns = max(1, min(len(arms), int(WIDTH / (1.1 + 0.066 * longest))))
    height = PANEL_HEIGHT + 0.6 + ENTRY_HEIGHT * math.ceil(len(arms) / columns)
    with panels(view, records, height) as (drawing, ax):
        scale = _scale(ax, curves)
        for place, (row, points) in enumerate(curves):
            _draw_curve(ax, row, points, styles[arms[place].arm], labels[place], place / len(arms), scale)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10]))
        ax.set_xlabel("Passes over an owner's training examples (steps times sampling rate)")
        deltas = distinct((row["delta"] for row, _ in curves), scientific)
        names = distinct((row["accountant"] for row, _ in curves), str.upper)
        ax.set_ylabel(f"ε spent, {names}, δ = {deltas}{scale.note}")
        legend_below(
            drawing, ax.get_legend_handles_labels()[0], title="In brackets: ε at the end", loc="outside lower left",
            alignment="left", ncols=columns, handlelength=3, labelspacing=0.3,
        )  # fmt: skip
    return drawing


def _course(run: pd.Series, epsilons: pd.DataFrame) -> pd.DataFrame:
    """Return the curve of a run, by step."""
    mine: pd.DataFrame = epsilons[(epsilons["arm"] == run["arm"]) & (epsilons["seed"] == run["seed"])]
    return mine.sort_values("step", kind="stable")


def _label(name: str, row: pd.Series, points: pd.DataFrame) -> str:
    """Return the entry of the legend: the name, the last epsilon, and the step that a budget refused."""
    text = epsilon_bound(float(points["epsilon"].iloc[-1]))
    if not pd.isna(row["budget"]) and row["steps"] < row["steps_planned"]:
        text += f"; step {int(row['steps']) + 1:,} of {int(row['steps_planned']):,} refused"
    return f"{name} ({text})"


def _scale(ax: Axes, curves: list[tuple[pd.Series, pd.DataFrame]]) -> EpsilonScale:
    budgets = [float(row["budget"]) for row, _ in curves if not pd.isna(row["budget"])]
    spent = [float(value) for _, points in curves for value in points["epsilon"]]
    # The last epsilons decide: each curve begins near 0.
    return scale_epsilons(ax, "y", [float(points["epsilon"].iloc[-1]) for _, points in curves], [*budgets, *spent])


def _draw_curve(
    ax: Axes,
    row: pd.Series,
    points: pd.DataFrame,
    style: ArmStyle,
    label: str,
    phase: float,
    scale: EpsilonScale,
) -> None:
    # Each arm has its markers at other steps, so that a reader can distinguish equal curves.
    every = max(1, len(points) // 4)
    ax.plot(
        points["epoch"], points["epsilon"].map(scale.place), color=style.colour,
        linestyle=style.line, marker=style.marker, markevery=(round(every * (0.5 + phase)), every),
        markeredgewidth=0.4, markeredgecolor="white", label=label,
    )  # fmt: skip
    if pd.isna(row["budget"]):
        return
    planned = float(points["epoch"].iloc[-1]) * float(row["steps_planned"]) / float(row["steps"])
    # The line ends at the planned last step, so that the refused steps are visible.
    ax.plot([0, planned], [row["budget"]] * 2, color=dark(style.colour), linestyle=(0, (1, 2)), linewidth=1)
    annotate(ax, f"budget {row['budget']:g}", (0, row["budget"]), (4, 3))
