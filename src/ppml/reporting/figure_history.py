"""Accuracy, and loss, against epoch or round."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from ppml.reporting.axes import SCALED, error_axis
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


TRAINING_LOSS: dict[str, Any] = {"linestyle": (0, (1, 1.5)), "linewidth": 0.9}


@figure("history")
def draw_history(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw accuracy against epoch (centralized and independent arms) and against round (federated arms).

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each unit, sharing the axis of accuracy (percent). A line is the mean over seeds; its band the 95 %
        t-interval with three seeds or more, lowest to highest with two, and over the images (Wilson) with one. The axis
        shows every mean; a band may leave it.
    """
    drawing, axes, curves = _unit_panels(view, records, history, "accuracy")
    means = pd.concat([points["mean"] for points in curves.values()])
    first, *_ = axes.values()
    # Room above the best for its band; the bands of first steps reach to 100 %.
    error_axis(first, [*means, 100 - (100 - means.max()) * HEADROOM])
    first.set_ylabel(f"Accuracy (%), {SCALED}")
    return drawing


@figure("loss")
def draw_loss(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw the loss on the evaluated images as :func:`draw_history` draws accuracy, on a logarithmic axis.

    A thin dotted line of the same colour is the training loss; it is not known under privacy.
    """
    known = [arm for arm in view.arms if history["train_loss"][history["arm"] == arm].notna().all()]
    drawing, axes, curves = _unit_panels(view, records, history, "loss", known=known)
    styles, units = arm_styles(view, records), _units(view, history)
    means = [points["mean"] for points in curves.values()]
    for arm in known:
        points = curve(history[history["arm"] == arm], "train_loss")
        axes[units[arm]].plot(points["step"], points["mean"], zorder=2, color=styles[arm].colour, **TRAINING_LOSS)
        means.append(points["mean"])
    shown = pd.concat(means)
    first, *_ = axes.values()
    first.set_yscale("log")
    first.set_ylim(shown.min() / 1.15, shown.max() * 1.15)
    first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    first.yaxis.set_minor_formatter(NullFormatter())
    first.set_ylabel("Loss on the evaluated images (nats, log scale)")
    return drawing


def curve(history: pd.DataFrame, column: str, images: int | None = None) -> pd.DataFrame:
    """Return mean and band of one arm's accuracy (percent) or loss (nats), a row for each step.

    Parameters
    ----------
    history : pandas.DataFrame
        Rows of one arm.
    column : str
        Column of history.csv.
    images : int or None
        Number of images behind a fraction; None for another quantity.

    Returns
    -------
    pandas.DataFrame
        Columns ``step``, ``mean``, ``low``, ``high`` and ``seeds``; the band is the 95 % t-interval with three seeds or
        more, lowest to highest with two; with one, Wilson's interval of a fraction of images, and the mean itself for
        another quantity.
    """
    rows = []
    for step, values in history.sort_values("seed", kind="stable").groupby("step")[column]:
        result = estimate(values)
        # Student's t with one degree of freedom reaches 9 standard deviations: it would hide every line.
        low, high = (result.low, result.high) if result.n > 2 else (values.min(), values.max())
        if result.n == 1 and images:
            low, high = wilson_interval(result.mean, images)
        rows.append((step, result.mean, max(0.0, low), high, result.n))
    points = pd.DataFrame(rows, columns=["step", "mean", "low", "high", "seeds"])
    if column == "accuracy":
        points[["mean", "low", "high"]] = 100 * points[["mean", "low", "high"]].clip(upper=1)
    return points


def _units(view: ExperimentView, history: pd.DataFrame) -> dict[str, str]:
    """Return the unit of each arm, epoch or round."""
    units = history.drop_duplicates("arm").set_index("arm")["unit"]
    return {arm: str(units[arm]) for arm in view.arms}


def _unit_panels(
    view: ExperimentView,
    records: pd.DataFrame,
    history: pd.DataFrame,
    column: str,
    known: Collection[str] = (),
) -> tuple[Figure, dict[str, Axes], dict[str, pd.DataFrame]]:
    """Draw a panel for each unit, with legend and note, and return them with the curves.

    The caller scales the shared axis, and draws the training loss of the arms in ``known``.
    """
    require_arms(history, view.arms, "history.csv")
    styles, units = arm_styles(view, records), _units(view, history)
    images: dict[Any, int] = records.groupby("arm")["n_test"].first().to_dict() if column == "accuracy" else {}
    curves = {arm: curve(history[history["arm"] == arm], column, images.get(arm)) for arm in view.arms}
    members = {unit: [arm for arm in view.arms if units[arm] == unit] for unit in UNITS if unit in units.values()}
    columns = {unit: _legend_columns(view, arms, WIDTH / len(members)) for unit, arms in members.items()}
    entries = max(math.ceil(len(arms) / columns[unit]) for unit, arms in members.items())
    height = PANEL_HEIGHT + 0.4 + ENTRY_HEIGHT * (entries + 2 + bool(known))
    with panels(view, records, height, columns=len(members), sharey=True, squeeze=False) as (drawing, axes):
        by_unit = dict(zip(members, axes[0], strict=True))
        for unit, ax in by_unit.items():
            arms = members[unit]
            for place, arm in enumerate(arms):
                _draw_curve(ax, curves[arm], styles[arm], view.label(arm), place, len(arms))
            ax.set_xlabel(unit.capitalize())
            ax.set_ylabel("")
            topologies = records["topology"][records["arm"].isin(arms)]
            ax.set_title(f"{' and '.join(sorted(topologies.unique())).capitalize()} training")
            steps = pd.concat([curves[arm]["step"] for arm in arms]).astype(float)
            margin = 0.03 * (steps.max() - steps.min()) or 0.5
            ax.set_xlim(steps.min() - margin, steps.max() + margin)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            also = ". Thin dotted line: training loss, not known under privacy" if {*known} & {*arms} else ""
            _legend_below_panel(ax, _band_text([curves[arm] for arm in arms]) + also, columns[unit])
    return drawing, by_unit, curves


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
