"""Accuracy, and loss, against epoch or round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from ppml.reporting.accuracy_axis import SCALED, error_axis
from ppml.reporting.experiment_view import Selection, require_arms
from ppml.reporting.formatting import wrapped
from ppml.reporting.statistics import estimate, wilson_interval
from ppml.reporting.style import WIDTH, ArmStyle, arm_styles, figure_style, new_figure

UNITS = ("epoch", "round")
PANEL_HEIGHT = 2.9
ROOF = 0.6
"""Least error that the axis of accuracy shows, in terms of the least error of a mean."""

ENTRY_HEIGHT = 0.165
"""Inches of a legend entry."""

TITLE_WIDTH = 56
"""Characters of a line of a legend's title."""


@dataclass(frozen=True)
class Quantity:
    """What is drawn.

    Parameters
    ----------
    column : str
        Of history.csv.
    name : str
        Beside the axis, with the unit.
    factor : float
        From what the file holds to what is drawn.
    highest : float
        No mean can be above, in the unit of the axis.
    """

    column: str
    name: str
    factor: float
    highest: float


ACCURACY = Quantity("accuracy", "Accuracy (%)", 100.0, 100.0)
LOSS = Quantity("loss", "Loss on the evaluated images (nats, log scale)", 1.0, math.inf)
TRAINING_LOSS = Quantity("train_loss", "Training loss (nats)", 1.0, math.inf)


def history(selection: Selection, records: pd.DataFrame, steps: pd.DataFrame) -> Figure:
    """Draw accuracy against epoch (centralized and local arms) and against round (federated arms).

    Parameters
    ----------
    selection : Selection
        The arms, in the order of the legend.
    records : pandas.DataFrame
        One row an arm and seed.
    steps : pandas.DataFrame
        One row an arm, seed and epoch or round; accuracy is a share.

    Returns
    -------
    matplotlib.figure.Figure
        A panel a unit, sharing the axis of accuracy (percent). A line is the mean over seeds; its band the 95 %
        t-interval with three seeds or more, lowest to highest with two, and over the images (Wilson) with one. The axis
        holds every mean; a band may leave it.

    Raises
    ------
    UserError
        An arm has no records or no history.
    """
    images = {str(arm): int(count) for arm, count in records.groupby("arm")["n_test"].first().items()}
    curves = _curves(selection, steps, ACCURACY, images)
    figure, axes = _panels(selection, records, steps, curves)
    means = pd.concat([points["mean"] for points in curves.values()])
    # Room above the best for its band; the bands of first steps reach to 100 %.
    roof = 100 - (100 - means.max()) * ROOF
    with figure_style():
        error_axis(axes[0], [*means, roof])
    axes[0].set_ylabel(f"{ACCURACY.name}, {SCALED}")
    return figure


def loss(selection: Selection, records: pd.DataFrame, steps: pd.DataFrame) -> Figure:
    """Draw the loss on the evaluated images as :func:`history` draws accuracy, on a logarithmic axis.

    The training loss is the thin dotted line of the same colour where it is known: under privacy it stays untold.

    Raises
    ------
    UserError
        An arm has no records or no history.
    """
    curves = _curves(selection, steps, LOSS)
    known = [arm for arm in selection.arms if steps["train_loss"][steps["arm"] == arm].notna().all()]
    styles, units = arm_styles(selection, records), _unit_names(selection, steps)
    notes = dict.fromkeys(
        (_unit(steps, arm) for arm in known), ". Thin dotted line: training loss, untold under privacy"
    )
    figure, axes = _panels(selection, records, steps, curves, notes)
    means = [points["mean"] for points in curves.values()]
    with figure_style():
        for arm in known:
            points = curve(steps[steps["arm"] == arm], TRAINING_LOSS)
            look: dict[str, Any] = {"color": styles[arm].colour, "linestyle": (0, (1, 1.5)), "linewidth": 0.9}
            axes[units.index(_unit(steps, arm))].plot(points["step"], points["mean"], zorder=2, **look)
            means.append(points["mean"])
        shown = pd.concat(means)
        axes[0].set_yscale("log")
        axes[0].set_ylim(shown.min() / 1.15, shown.max() * 1.15)
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylabel(LOSS.name)
    return figure


def _curves(
    selection: Selection,
    steps: pd.DataFrame,
    quantity: Quantity,
    images: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, pd.DataFrame]:
    require_arms(steps, selection.arms, "history.csv")
    return {arm: curve(steps[steps["arm"] == arm], quantity, images.get(arm)) for arm in selection.arms}


def _unit(steps: pd.DataFrame, arm: str) -> str:
    return str(steps["unit"][steps["arm"] == arm].iloc[0])


def _unit_names(selection: Selection, steps: pd.DataFrame) -> list[str]:
    present = {_unit(steps, arm) for arm in selection.arms}
    return [unit for unit in UNITS if unit in present]


def _panels(
    selection: Selection,
    records: pd.DataFrame,
    steps: pd.DataFrame,
    curves: dict[str, pd.DataFrame],
    notes: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Figure, list[Axes]]:
    """Draw a panel a unit, with its legend and note below, and return them; the shared axis is the caller's."""
    styles = arm_styles(selection, records)
    panels = _unit_names(selection, steps)
    members = {unit: [arm for arm in selection.arms if _unit(steps, arm) == unit] for unit in panels}
    with figure_style():
        columns = {unit: _legend_columns(selection, members[unit], WIDTH / len(panels)) for unit in panels}
        entries = max(math.ceil(len(members[unit]) / columns[unit]) for unit in panels)
        lines = 2 + bool(notes)
        figure = new_figure(selection, records, PANEL_HEIGHT + 0.4 + ENTRY_HEIGHT * (entries + lines))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, unit in zip(axes, panels, strict=True):
            for place, arm in enumerate(members[unit]):
                _draw(ax, curves[arm], styles[arm], selection.label(arm), place, len(members[unit]))
            ax.set_xlabel(unit.capitalize())
            ax.set_ylabel("")
            topologies = records["topology"][records["arm"].isin(members[unit])]
            ax.set_title(f"{' and '.join(sorted(topologies.unique())).capitalize()} training")
            first = min(float(curves[arm]["step"].min()) for arm in members[unit])
            last = max(float(curves[arm]["step"].max()) for arm in members[unit])
            margin = 0.03 * (last - first) or 0.5
            ax.set_xlim(first - margin, last + margin)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            _legend_below(ax, _band_text([curves[arm] for arm in members[unit]]) + notes.get(unit, ""), columns[unit])
            sns.despine(ax=ax)
    return figure, list(axes)


def curve(steps: pd.DataFrame, quantity: Quantity = ACCURACY, images: int | None = None) -> pd.DataFrame:
    """Return mean and band of one arm's accuracy or loss, a row a step.

    Parameters
    ----------
    steps : pandas.DataFrame
        Rows of one arm.
    quantity : Quantity
        What is drawn.
    images : int or None
        How many images a share was found on; None where it is no share.

    Returns
    -------
    pandas.DataFrame
        Columns ``step``, ``mean``, ``low``, ``high`` (in the unit of ``quantity``) and ``seeds``; the band is the 95 %
        t-interval with three seeds or more, lowest to highest with two; with one, Wilson's interval over the images
        where it is a share of them, the mean itself otherwise.
    """
    rows = []
    for step, values in steps.sort_values("seed", kind="stable").groupby("step")[quantity.column]:
        result = estimate(values)
        # Student's t with one degree of freedom reaches 9 standard deviations: it would hide every line.
        low, high = (result.low, result.high) if result.n > 2 else (values.min(), values.max())
        if result.n == 1 and images:
            low, high = wilson_interval(result.mean, images)
        mean, low, high = (quantity.factor * value for value in (result.mean, low, high))
        rows.append((step, mean, max(0.0, low), min(quantity.highest, high), result.n))
    return pd.DataFrame(rows, columns=["step", "mean", "low", "high", "seeds"])


def _draw(ax: Axes, points: pd.DataFrame, style: ArmStyle, label: str, place: int, count: int) -> None:
    # Markers of different arms stand at different steps, so that curves that coincide stay told apart.
    every = max(1, math.ceil(len(points) / 6))
    sns.lineplot(
        data=points,
        x="step",
        y="mean",
        estimator=None,
        errorbar=None,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markevery=((place * every // max(count, 1)) % every, every),
        markeredgewidth=0.4,
        label=label,
        legend=False,
        zorder=3 + place / 100,
        ax=ax,
    )
    if (points["low"] < points["high"]).any():
        ax.fill_between(points["step"], points["low"], points["high"], color=style.colour, alpha=0.15, linewidth=0)


def _band_text(curves: list[pd.DataFrame]) -> str:
    seeds = sorted({int(points["seeds"].min()) for points in curves})
    alone = pd.concat([points[points["seeds"] == 1] for points in curves])
    over_images = bool((alone["low"] < alone["high"]).any())
    if seeds == [1]:
        return "One seed; band: 95 % interval over the images (Wilson)" if over_images else "One seed, no band"
    bands = []
    if seeds[-1] > 2:
        bands.append("95 % t-interval")
    if 2 in seeds:
        bands.append("lowest to highest of 2 seeds" if seeds[-1] > 2 else "lowest to highest")
    if 1 in seeds:
        bands.append("over the images (Wilson) with 1 seed" if over_images else "none with 1 seed")
    number = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    return f"Mean of {number} seeds; band: {', '.join(bands)}"


def _legend_columns(selection: Selection, arms: list[str], width: float) -> int:
    """Return how many columns of labels fit in ``width`` inches."""
    longest = max(len(selection.label(arm)) for arm in arms)
    return max(1, min(len(arms), int((width - 0.5) / (0.45 + 0.06 * longest))))


def _legend_below(ax: Axes, title: str, columns: int) -> None:
    figure = ax.get_figure()
    assert figure is not None
    # The offset is in inches, below tick labels and axis label, whatever the height of the panel.
    below = ax.transAxes + ScaledTranslation(0, -0.38, figure.dpi_scale_trans)
    ax.legend(
        # A title wider than its panel would run into the next one's.
        title=wrapped(title, TITLE_WIDTH),
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below,
        ncols=columns,
        borderaxespad=0,
        alignment="left",
        handlelength=3,
        columnspacing=1.2,
        labelspacing=0.3,
    )
