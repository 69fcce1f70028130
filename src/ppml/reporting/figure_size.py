"""Accuracy against the number of parameters, a line for each privacy level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from ppml.reporting.axes import error_axis, score_label
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.families import families
from ppml.reporting.formatting import distinct, epsilon_label, model_name, thousands
from ppml.reporting.panels import (
    annotate,
    draw_estimates,
    ends_of,
    interval_text,
    legend_below,
    means_of,
    note,
    panels,
    separate,
)
from ppml.reporting.registry import figure
from ppml.reporting.style import line_of
from ppml.reporting.summaries import ArmResult, arm_results
from ppml.reporting.technique_style import GREY, on_features, style_of

HEIGHT = 3.7
SAME_LEVEL = 1.05
"""Largest ratio of the epsilons of one privacy level."""
ROOM = 1.5
"""Ratio of an end of the axis and the nearest size: an automatic axis collapses if all models have one size."""
LABEL_ROOM = 3.0
"""The same at the right end, for the labels of the levels."""


@figure("size")
def draw_size(view: ExperimentView, records: pd.DataFrame) -> Figure:
    """Draw accuracy on the whole test set against the number of parameters.

    Returns
    -------
    matplotlib.figure.Figure
        A point for each arm in the style of its technique, with its interval, the models named above. A grey line joins
        the models of one privacy level (epsilons within 5 %) that read the inputs themselves: a model on features
        differs in more than its size. The axis of accuracy is logarithmic in the error.
    """
    levels = privacy_levels(arm_results(view, records))
    arms = [one for level in levels for one in level]
    means = [one.score for one in arms]
    quantity = "accuracy against the number of parameters"
    with panels(view, quantity, HEIGHT) as (drawing, ax):
        ax.set_xscale("log")
        sizes = [one.first["parameters"] for one in arms]
        ax.set_xlim(min(sizes) / ROOM, max(sizes) * LABEL_ROOM)
        error_axis(ax, means_of(means), ends_of(means))
        labels = [_draw_level(ax, level) for level in levels]
        for one in arms:
            look = {**line_of(style_of(one.first)), "linestyle": "none", "markersize": 5.5, "elinewidth": 1.1}
            draw_estimates(ax, [one.first["parameters"]], [one.score], zorder=4, **look)
        _name_models(ax, arms)
        ax.set_xlabel("Parameters (log scale)")
        ax.set_ylabel(score_label(view, records))
        handles = [
            Line2D([], [], label=family.name, **{**line_of(family.style), "linestyle": "none"})
            for family in families(arms)
        ]
        title = note(f"{interval_text(means)}. Lines join models on pixels with one ε")
        legend_below(drawing, handles, title=title, ncols=3)
        separate(drawing, ax, labels)
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


def _draw_level(ax: Axes, level: Sequence[ArmResult]) -> Annotation:
    """Join the models of a level on the inputs themselves, and return the label of the level."""
    joined = [one for one in level if not on_features(one.first["model"])]
    path = [one.first["parameters"] for one in joined], [100 * one.score.mean for one in joined]
    ax.plot(*path, color="#999999", linewidth=1.0, zorder=2)
    epsilon, last = max(one.epsilon for one in level), level[-1]
    text = "no privacy" if math.isinf(epsilon) else f"ε {epsilon_label(epsilon)}"
    at = (float(last.first["parameters"]), 100 * last.score.mean)
    return annotate(ax, text, at, (8, 0), va="center", color=GREY)


def _name_models(ax: Axes, arms: Sequence[ArmResult]) -> None:
    """Write each model's name above its column of points."""
    for parameters in sorted({int(one.first["parameters"]) for one in arms}):
        names = distinct((one.first["model"] for one in arms if one.first["parameters"] == parameters), _model_text)
        ax.axvline(parameters, color="#BBBBBB", linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5)
        text, top = f"{names}\n{thousands(parameters)}", ax.get_xaxis_transform()
        annotate(ax, text, (parameters, 1), (0, 3), xycoords=top, ha="center", va="bottom")


def _model_text(model: str) -> str:
    return f"{model_name(model)}\non features" if on_features(model) else model_name(model)
