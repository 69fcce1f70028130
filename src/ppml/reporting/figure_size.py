"""Accuracy against the number of parameters, a line for each privacy level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppml.reporting.axes import accuracy_label, error_axis
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import distinct, epsilon_bound, model_name, thousands
from ppml.reporting.panels import annotate, draw_estimates, ends_of, panels, seeds_text
from ppml.reporting.registry import figure
from ppml.reporting.style import HUES, MARKERS
from ppml.reporting.summaries import ArmResult, arm_results

HEIGHT = 3.6
SAME_LEVEL = 1.05
"""Largest ratio of the epsilons of one privacy level."""
ROOM = 1.5
"""Ratio of an end of the axis and the nearest size: an automatic axis collapses if all models have one size."""


@figure("size")
def draw_size(view: ExperimentView, records: pd.DataFrame) -> Figure:
    """Draw accuracy on the whole test set against the number of parameters.

    Returns
    -------
    matplotlib.figure.Figure
        A line for each privacy level (epsilons within 5 %), a point for each arm with its 95 % interval (Student's t
        over seeds; Wilson's with one seed), the models named above. The axis of accuracy is logarithmic in the error.
    """
    levels = privacy_levels(arm_results(view, records))
    arms = [one for level in levels for one in level]
    with panels(view, records, HEIGHT) as (drawing, ax):
        ax.set_xscale("log")
        error_axis(ax, ends_of(one.accuracy for one in arms))
        for place, level in enumerate(levels):
            epsilon = max(one.epsilon for one in level)
            draw_estimates(
                ax, [one.first["parameters"] for one in level], [one.accuracy for one in level], elinewidth=1.1,
                label="no privacy" if math.isinf(epsilon) else f"ε {epsilon_bound(epsilon)}", markersize=5.5,
                color=HUES[place % len(HUES)], marker=MARKERS[place % len(MARKERS)],
            )  # fmt: skip
        _name_models(ax, arms)
        sizes = [one.first["parameters"] for one in arms]
        ax.set_xlim(min(sizes) / ROOM, max(sizes) * ROOM)
        ax.set_xlabel("Parameters (log scale)")
        ax.set_ylabel(accuracy_label(view, records))
        title = f"{seeds_text(one.accuracy.n for one in arms)}\nBars: 95 % interval"
        ax.legend(title=title, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return drawing


def privacy_levels(arms: Sequence[ArmResult]) -> list[list[ArmResult]]:
    """Return the arms by privacy level, the most private first, each in the order of the model sizes."""
    levels: list[list[ArmResult]] = []
    for one in sorted(arms, key=lambda one: one.epsilon):
        if levels and one.epsilon <= SAME_LEVEL * levels[-1][0].epsilon:
            levels[-1].append(one)
        else:
            levels.append([one])
    return [sorted(level, key=lambda one: int(one.first["parameters"])) for level in levels]


def _name_models(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """Write each model's name above its column of points."""
    for parameters in sorted({int(one.first["parameters"]) for one in arms}):
        names = distinct((one.first["model"] for one in arms if one.first["parameters"] == parameters), model_name)
        ax.axvline(parameters, color="#BBBBBB", linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5)
        text, top = f"{names}\n{thousands(parameters)}", ax.get_xaxis_transform()
        annotate(ax, text, (parameters, 1), (0, 3), xycoords=top, ha="center", va="bottom")
