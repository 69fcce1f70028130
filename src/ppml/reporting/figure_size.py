"""Accuracy against the number of parameters, a line a privacy level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppml.reporting.accuracy_axis import accuracy_label, error_axis
from ppml.reporting.experiment_view import Selection, require_arms
from ppml.reporting.formatting import epsilon_bound, model_name
from ppml.reporting.statistics import Estimate, estimate
from ppml.reporting.style import HUES, MARKERS, figure_style, new_figure
from ppml.reporting.summaries import rows_of

HEIGHT = 3.6
SAME_LEVEL = 1.05
"""Epsilons whose ratio is at most this are one privacy level."""


@dataclass(frozen=True)
class SizedPoint:
    """An arm's accuracy (share) and the size of its model; epsilon is infinite without privacy."""

    model: str
    parameters: int
    epsilon: float
    accuracy: Estimate


def size(selection: Selection, records: pd.DataFrame) -> Figure:
    """Draw accuracy on the whole test set against the number of parameters.

    Parameters
    ----------
    selection : Selection
        The arms, of models of several sizes.
    records : pandas.DataFrame
        One row an arm and seed.

    Returns
    -------
    matplotlib.figure.Figure
        A line a privacy level (epsilons within 5 % of each other), a point an arm with its 95 % interval (Student's t
        over seeds; Wilson's with one seed), the models named above. The axis of accuracy is logarithmic in the error.

    Raises
    ------
    UserError
        An arm has no records.
    """
    require_arms(records, selection.arms, "records.csv")
    levels = privacy_levels(selection, records)
    points = [point for level in levels for point in level]
    with figure_style():
        figure = new_figure(selection, records, HEIGHT)
        ax = figure.subplots()
        ax.set_xscale("log")
        error_axis(ax, [100 * end for point in points for end in (point.accuracy.low, point.accuracy.high)])
        for place, level in enumerate(levels):
            _draw(ax, level, place)
        _name_models(ax, points)
        ax.set_xlabel("Parameters (log scale)")
        ax.set_ylabel(accuracy_label(selection, records))
        seeds = sorted({point.accuracy.n for point in points})
        number = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
        ax.legend(title=f"Mean of {number}\nBars: 95 % interval", loc="center left", bbox_to_anchor=(1.01, 0.5))
        sns.despine(ax=ax)
    return figure


def privacy_levels(selection: Selection, records: pd.DataFrame) -> list[list[SizedPoint]]:
    """Return the arms by privacy level, the most private first, each from the smallest model."""
    points = []
    for arm in selection.arms:
        rows = rows_of(records, arm)
        private = rows["privacy_unit"].iloc[0] != "none"
        accuracy = estimate(rows["accuracy_all"], trials=int(rows["n_test_all"].iloc[0]))
        epsilon = float(rows["epsilon"].max()) if private else float("inf")
        name = model_name(str(rows["model"].iloc[0]))
        points.append(SizedPoint(name, int(rows["parameters"].iloc[0]), epsilon, accuracy))
    levels: list[list[SizedPoint]] = []
    for point in sorted(points, key=lambda point: point.epsilon):
        if levels and point.epsilon <= SAME_LEVEL * levels[-1][0].epsilon:
            levels[-1].append(point)
        else:
            levels.append([point])
    return [sorted(level, key=lambda point: point.parameters) for level in levels]


def _draw(ax: Axes, level: list[SizedPoint], place: int) -> None:
    epsilon = max(point.epsilon for point in level)
    look: dict[str, Any] = {"color": HUES[place % len(HUES)], "marker": MARKERS[place % len(MARKERS)]}
    means = [100 * point.accuracy.mean for point in level]
    reach = [
        [100 * (point.accuracy.mean - point.accuracy.low) for point in level],
        [100 * (point.accuracy.high - point.accuracy.mean) for point in level],
    ]
    label = "no privacy" if epsilon == float("inf") else f"ε {epsilon_bound(epsilon)}"
    sizes = [point.parameters for point in level]
    ax.errorbar(sizes, means, yerr=reach, label=label, capsize=2.5, elinewidth=1.1, markersize=5.5, **look)


def _name_models(ax: Axes, points: list[SizedPoint]) -> None:
    """Write each model's name above its column of points."""
    for parameters in sorted({point.parameters for point in points}):
        names = dict.fromkeys(point.model for point in points if point.parameters == parameters)
        ax.axvline(parameters, color="#BBBBBB", linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5)
        ax.annotate(
            f"{', '.join(names)}\n{parameters:,}",
            xy=(parameters, 1),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
        )
