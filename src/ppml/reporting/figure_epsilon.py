"""Epsilon spent during training: a small panel for each family of arms."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from ppml.reporting.axes import EpsilonScale, scale_epsilons
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.families import Family, families
from ppml.reporting.formatting import distinct, epsilon_label, scientific
from ppml.reporting.panels import COLUMNS, annotate, note, separate, small_panels
from ppml.reporting.registry import figure
from ppml.reporting.style import dark, line_of
from ppml.reporting.summaries import arm_results, largest_epsilon
from ppml.reporting.technique_style import GREY

LABEL_ROOM = 1.25
"""Length of the horizontal axis, in terms of the longest curve: the labels are at the ends."""

Curve = tuple[pd.Series, pd.DataFrame]
"""The row of a run in records.csv, and its rows of epsilons.csv by step."""


@figure("epsilon")
def draw_epsilon(view: ExperimentView, records: pd.DataFrame, epsilons: pd.DataFrame) -> Figure:
    """Draw the epsilon spent against passes over the training data.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each family of private arms that differ in epsilon only, a line for each arm. A line is the seed
        with the largest epsilon and ends at the stated epsilon, its number. A budget is a dotted line; if it ended a
        training, the panel names the refused step.
    """
    arms = [one for one in arm_results(view, records) if one.private]
    view.require(arms, "figure epsilon", "has privacy; select one with `privacy.kind: example`, or remove this figure")
    require_arms(epsilons, [one.arm for one in arms], "epsilons.csv")
    shown = families(arms)
    curves = {one.arm: _curve(largest_epsilon(one.rows), epsilons) for one in arms}
    titles = [family.name for family in shown]
    with small_panels(view, "ε spent during training", titles, sharey=True) as (drawing, axes):
        drawn = []
        for ax, family in zip(axes, shown, strict=True):
            scale = _scale(axes[0], list(curves.values()))
            drawn.append((ax, _draw_family(ax, family, [curves[one.arm] for one in family.members], scale)))
        for place, (ax, _) in enumerate(drawn):
            ax.tick_params(labelleft=place % COLUMNS == 0)
        rows = [row for row, _ in curves.values()]
        deltas = distinct((row["delta"] for row in rows), scientific)
        names = distinct((row["accountant"] for row in rows), str.upper)
        text = "Passes over an owner's training examples. At the end of a line: ε of the seed with the largest"
        drawing.supxlabel(note(f"{text}, {names}, δ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{deltas}"), fontsize=7.5)
        drawing.supylabel(f"ε spent{scale.note}", fontsize=8)
        for ax, labels in drawn:
            separate(drawing, ax, labels)
    return drawing


def _curve(run: pd.Series, epsilons: pd.DataFrame) -> Curve:
    """Return a run and its curve, by step."""
    mine: pd.DataFrame = epsilons[(epsilons["arm"] == run["arm"]) & (epsilons["seed"] == run["seed"])]
    return run, mine.sort_values("step", kind="stable")


def _scale(ax: Axes, curves: list[Curve]) -> EpsilonScale:
    budgets = [float(row["budget"]) for row, _ in curves if not pd.isna(row["budget"])]
    spent = [float(value) for _, points in curves for value in points["epsilon"]]
    # The last epsilons decide: each curve begins near 0.
    return scale_epsilons(ax, "y", [float(points["epsilon"].iloc[-1]) for _, points in curves], [*budgets, *spent])


def _draw_family(ax: Axes, family: Family, curves: list[Curve], scale: EpsilonScale) -> list[Annotation]:
    """Draw the curves of a family, and return the labels at their ends."""
    labels, longest = [], 0.0
    look = {**line_of(family.style), "markeredgecolor": "white", "markeredgewidth": 0.4}
    # A budget's line may cross a label.
    label = {"path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    for place, (row, points) in enumerate(curves):
        across, spent = points["epoch"].to_numpy(), points["epsilon"].map(scale.place).to_numpy()
        ax.plot(across, spent, markevery=[len(points) - 1], zorder=3, clip_on=False, **look)
        longest = max(longest, float(across[-1]), _draw_budget(ax, row, points, family.style.colour, place))
        text = epsilon_label(float(points["epsilon"].iloc[-1]))
        at = (float(across[-1]), float(spent[-1]))
        labels.append(annotate(ax, text, at, (5, 0), va="center", color=dark(family.style.colour), zorder=4, **label))
    ax.set_xlim(0, LABEL_ROOM * longest)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    return labels


def _draw_budget(ax: Axes, row: pd.Series, points: pd.DataFrame, colour: str, place: int) -> float:
    """Draw the budget of a run, and return the planned passes over the data; 0 without a budget."""
    if pd.isna(row["budget"]):
        return 0.0
    planned = float(points["epoch"].iloc[-1]) * float(row["steps_planned"]) / float(row["steps"])
    # The line ends at the planned last step, so that the refused steps are visible.
    ax.plot([0, planned], [row["budget"]] * 2, color=dark(colour), linestyle=(0, (1, 2)), linewidth=1)
    annotate(ax, f"budget {row['budget']:g}", (0, row["budget"]), (4, 3))
    if row["steps"] < row["steps_planned"]:
        text = f"step {int(row['steps']) + 1:,} of {int(row['steps_planned']):,} refused"
        annotate(ax, text, (1, 0), (-4, 4 + 10 * place), xycoords="axes fraction", ha="right", color=GREY)
    return planned
