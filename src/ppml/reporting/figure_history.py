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
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import wrapped
from ppml.reporting.panels import ENTRY_HEIGHT, PANEL_HEIGHT, panels, seeds_text
from ppml.reporting.registry import figure
from ppml.reporting.statistics import estimate, wilson_interval
from ppml.reporting.style import WIDTH, ArmStyle, arm_styles

UNITS = ("epoch", "round")
HEADROOM = 0.6
"""Least error on the axis of accuracy, in terms of the least error of a mean."""

TITLE_WIDTH = 56
"""Characters of a line of a legend's title."""


@dataclass(frozen=True)
class Quantity:
    """A column of history.csv.

    Parameters
    ----------
    column : str
        Name of the column.
    name : str
        Text of the axis, with the unit.
    factor : float
        Factor from the value in the file to the value on the axis.
    highest : float
        Largest possible value, in the unit of the axis.
    """

    column: str
    name: str
    factor: float
    highest: float


ACCURACY = Quantity("accuracy", "Accuracy (%)", 100.0, 100.0)
LOSS = Quantity("loss", "Loss on the evaluated images (nats, log scale)", 1.0, math.inf)
TRAINING_LOSS = Quantity("train_loss", "Training loss (nats)", 1.0, math.inf)


@figure("history", shows="accuracy against epoch or round", reads=("records", "history"))
def draw_history(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw accuracy against epoch (centralized and independent arms) and against round (federated arms).

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each unit, sharing the axis of accuracy (percent). A line is the mean over seeds; its band the 95 %
        t-interval with three seeds or more, lowest to highest with two, and over the images (Wilson) with one. The axis
        shows every mean; a band may leave it.

    Raises
    ------
    UserError
        An arm has no result rows or no history.
    """
    images = {str(arm): int(count) for arm, count in records.groupby("arm")["n_test"].first().items()}
    curves = _curves(view, history, ACCURACY, images)
    drawing, axes = _unit_panels(view, records, history, curves)
    means = pd.concat([points["mean"] for points in curves.values()])
    # Room above the best for its band; the bands of first steps reach to 100 %.
    error_axis(axes[0], [*means, 100 - (100 - means.max()) * HEADROOM])
    axes[0].set_ylabel(f"{ACCURACY.name}, {SCALED}")
    return drawing


@figure("loss", shows="loss against epoch or round", reads=("records", "history"))
def draw_loss(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw the loss on the evaluated images as :func:`draw_history` draws accuracy, on a logarithmic axis.

    A thin dotted line of the same colour is the training loss; it is not known under privacy.

    Raises
    ------
    UserError
        An arm has no result rows or no history.
    """
    curves = _curves(view, history, LOSS)
    known = [arm for arm in view.arms if history["train_loss"][history["arm"] == arm].notna().all()]
    styles, units = arm_styles(view, records), _units(view, history)
    note = ". Thin dotted line: training loss, not known under privacy"
    notes = dict.fromkeys((_unit(history, arm) for arm in known), note)
    drawing, axes = _unit_panels(view, records, history, curves, notes)
    means = [points["mean"] for points in curves.values()]
    for arm in known:
        points = curve(history[history["arm"] == arm], TRAINING_LOSS)
        look: dict[str, Any] = {"color": styles[arm].colour, "linestyle": (0, (1, 1.5)), "linewidth": 0.9}
        axes[units.index(_unit(history, arm))].plot(points["step"], points["mean"], zorder=2, **look)
        means.append(points["mean"])
    shown = pd.concat(means)
    axes[0].set_yscale("log")
    axes[0].set_ylim(shown.min() / 1.15, shown.max() * 1.15)
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel(LOSS.name)
    return drawing


def curve(history: pd.DataFrame, quantity: Quantity = ACCURACY, images: int | None = None) -> pd.DataFrame:
    """Return mean and band of one arm's accuracy or loss, a row for each step.

    Parameters
    ----------
    history : pandas.DataFrame
        Rows of one arm.
    quantity : Quantity
        Accuracy or loss.
    images : int or None
        Number of images behind a fraction; None for another quantity.

    Returns
    -------
    pandas.DataFrame
        Columns ``step``, ``mean``, ``low``, ``high`` (in the unit of ``quantity``) and ``seeds``; the band is the 95 %
        t-interval with three seeds or more, lowest to highest with two; with one, Wilson's interval of a fraction of
        images, and the mean itself for another quantity.
    """
    rows = []
    for step, values in history.sort_values("seed", kind="stable").groupby("step")[quantity.column]:
        result = estimate(values)
        # Student's t with one degree of freedom reaches 9 standard deviations: it would hide every line.
        low, high = (result.low, result.high) if result.n > 2 else (values.min(), values.max())
        if result.n == 1 and images:
            low, high = wilson_interval(result.mean, images)
        mean, low, high = (quantity.factor * value for value in (result.mean, low, high))
        rows.append((step, mean, max(0.0, low), min(quantity.highest, high), result.n))
    return pd.DataFrame(rows, columns=["step", "mean", "low", "high", "seeds"])


def _curves(
    view: ExperimentView, history: pd.DataFrame, quantity: Quantity, images: Mapping[str, int] = MappingProxyType({})
) -> dict[str, pd.DataFrame]:
    require_arms(history, view.arms, "history.csv")
    return {arm: curve(history[history["arm"] == arm], quantity, images.get(arm)) for arm in view.arms}


def _unit(history: pd.DataFrame, arm: str) -> str:
    return str(history["unit"][history["arm"] == arm].iloc[0])


def _units(view: ExperimentView, history: pd.DataFrame) -> list[str]:
    present = {_unit(history, arm) for arm in view.arms}
    return [unit for unit in UNITS if unit in present]


def _unit_panels(
    view: ExperimentView,
    records: pd.DataFrame,
    history: pd.DataFrame,
    curves: dict[str, pd.DataFrame],
    notes: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Figure, list[Axes]]:
    """Draw a panel for each unit, with legend and note; the caller scales the shared axis."""
    styles, units = arm_styles(view, records), _units(view, history)
    members = {unit: [arm for arm in view.arms if _unit(history, arm) == unit] for unit in units}
    columns = {unit: _legend_columns(view, members[unit], WIDTH / len(units)) for unit in units}
    entries = max(math.ceil(len(members[unit]) / columns[unit]) for unit in units)
    height = PANEL_HEIGHT + 0.4 + ENTRY_HEIGHT * (entries + 2 + bool(notes))
    with panels(view, records, height, columns=len(units), sharey=True) as (drawing, axes):
        for ax, unit in zip(axes[0], units, strict=True):
            for place, arm in enumerate(members[unit]):
                _draw_curve(ax, curves[arm], styles[arm], view.label(arm), place, len(members[unit]))
            ax.set_xlabel(unit.capitalize())
            ax.set_ylabel("")
            topologies = records["topology"][records["arm"].isin(members[unit])]
            ax.set_title(f"{' and '.join(sorted(topologies.unique())).capitalize()} training")
            first = min(float(curves[arm]["step"].min()) for arm in members[unit])
            last = max(float(curves[arm]["step"].max()) for arm in members[unit])
            margin = 0.03 * (last - first) or 0.5
            ax.set_xlim(first - margin, last + margin)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            _legend_below_panel(
                ax, _band_text([curves[arm] for arm in members[unit]]) + notes.get(unit, ""), columns[unit]
            )
    return drawing, list(axes[0])


def _draw_curve(ax: Axes, points: pd.DataFrame, style: ArmStyle, label: str, place: int, count: int) -> None:
    # Each arm has its markers at other steps, so that a reader can distinguish equal curves.
    every = max(1, math.ceil(len(points) / 6))
    sns.lineplot(
        data=points, x="step", y="mean", estimator=None, errorbar=None, color=style.colour, linestyle=style.line,
        marker=style.marker, markevery=((place * every // max(count, 1)) % every, every), markeredgewidth=0.4,
        label=label, legend=False, zorder=3 + place / 100, ax=ax,
    )  # fmt: skip
    if (points["low"] < points["high"]).any():
        ax.fill_between(points["step"], points["low"], points["high"], color=style.colour, alpha=0.15, linewidth=0)


def _band_text(curves: list[pd.DataFrame]) -> str:
    seeds = sorted({int(points["seeds"].min()) for points in curves})
    single = pd.concat([points[points["seeds"] == 1] for points in curves])
    over_images = bool((single["low"] < single["high"]).any())
    if seeds == [1]:
        return "One seed; band: 95 % interval over the images (Wilson)" if over_images else "One seed, no band"
    bands = []
    if seeds[-1] > 2:
        bands.append("95 % t-interval")
    if 2 in seeds:
        bands.append("lowest to highest of 2 seeds" if seeds[-1] > 2 else "lowest to highest")
    if 1 in seeds:
        bands.append("over the images (Wilson) with 1 seed" if over_images else "none with 1 seed")
    return f"{seeds_text(seeds)}; band: {', '.join(bands)}"


def _legend_columns(view: ExperimentView, arms: list[str], width: float) -> int:
    """Return the number of columns of labels that fit in ``width`` inches."""
    longest = max(len(view.label(arm)) for arm in arms)
    return max(1, min(len(arms), int((width - 0.5) / (0.45 + 0.06 * longest))))


def _legend_below_panel(ax: Axes, title: str, columns: int) -> None:
    drawing = ax.get_figure()
    assert drawing is not None
    # The offset is in inches below the axis, so that it does not depend on the height of the panel.
    below = ax.transAxes + ScaledTranslation(0, -0.38, drawing.dpi_scale_trans)
    ax.legend(
        # A title wider than its panel would overlap the next one.
        title=wrapped(title, TITLE_WIDTH), loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below,
        ncols=columns, borderaxespad=0, alignment="left", handlelength=3, columnspacing=1.2, labelspacing=0.3,
    )  # fmt: skip
