"""Accuracy against the number of parameters, a line for each privacy level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppml.reporting.accuracy_axis import accuracy_label, error_axis
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import epsilon_bound, model_name
from ppml.reporting.panels import annotate, draw_estimates, panels, seeds_text
from ppml.reporting.registry import figure
from ppml.reporting.statistics import Estimate, estimate
from ppml.reporting.style import HUES, MARKERS
from ppml.reporting.summaries import rows_for_arm

HEIGHT = 3.6
SAME_LEVEL = 1.05
"""Largest ratio of the epsilons of one privacy level."""


@dataclass(frozen=True)
class SizedPoint:
    """An arm's accuracy (fraction) and the size of its model; epsilon is infinite without privacy."""

    model: str
    parameters: int
    epsilon: float
    accuracy: Estimate


@figure("size", shows="accuracy against the number of parameters", reads=("records",))
def draw_size(view: ExperimentView, records: pd.DataFrame) -> Figure:
    """Draw accuracy on the whole test set against the number of parameters.

    Returns
    -------
    matplotlib.figure.Figure
        A line for each privacy level (epsilons within 5 %), a point for each arm with its 95 % interval (Student's t
        over seeds; Wilson's with one seed), the models named above. The axis of accuracy is logarithmic in the error.

    Raises
    ------
    UserError
        An arm has no result rows.
    """
    require_arms(records, view.arms, "records.csv")
    levels = privacy_levels(view, records)
    points = [point for level in levels for point in level]
    with panels(view, records, HEIGHT) as (drawing, axes):
        ax = axes[0, 0]
        ax.set_xscale("log")
        error_axis(ax, [100 * end for point in points for end in (point.accuracy.low, point.accuracy.high)])
        for place, level in enumerate(levels):
            epsilon = max(point.epsilon for point in level)
            draw_estimates(
                ax, [point.parameters for point in level], [point.accuracy for point in level], elinewidth=1.1,
                label="no privacy" if math.isinf(epsilon) else f"ε {epsilon_bound(epsilon)}", markersize=5.5,
                color=HUES[place % len(HUES)], marker=MARKERS[place % len(MARKERS)],
            )  # fmt: skip
        _name_models(ax, points)
        ax.set_xlabel("Parameters (log scale)")
        ax.set_ylabel(accuracy_label(view, records))
        title = f"{seeds_text(point.accuracy.n for point in points)}\nBars: 95 % interval"
        ax.legend(title=title, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return drawing


def privacy_levels(view: ExperimentView, records: pd.DataFrame) -> list[list[SizedPoint]]:
    """Return the arms by privacy level, the most private first, each in the order of the model sizes."""
    points = []
    for arm in view.arms:
        rows = rows_for_arm(records, arm)
        private = rows["privacy_unit"].iloc[0] != "none"
        accuracy = estimate(rows["accuracy_all"], trials=int(rows["n_test_all"].iloc[0]))
        epsilon = float(rows["epsilon"].max()) if private else math.inf
        name = model_name(str(rows["model"].iloc[0]))
        points.append(SizedPoint(name, int(rows["parameters"].iloc[0]), epsilon, accuracy))
    levels: list[list[SizedPoint]] = []
    for point in sorted(points, key=lambda point: point.epsilon):
        if levels and point.epsilon <= SAME_LEVEL * levels[-1][0].epsilon:
            levels[-1].append(point)
        else:
            levels.append([point])
    return [sorted(level, key=lambda point: point.parameters) for level in levels]


def _name_models(ax: Axes, points: list[SizedPoint]) -> None:
    """Write each model's name above its column of points."""
    for parameters in sorted({point.parameters for point in points}):
        names = dict.fromkeys(point.model for point in points if point.parameters == parameters)
        ax.axvline(parameters, color="#BBBBBB", linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5)
        text, top = f"{', '.join(names)}\n{parameters:,}", ax.get_xaxis_transform()
        annotate(ax, text, (parameters, 1), (0, 3), xycoords=top, ha="center", va="bottom")
