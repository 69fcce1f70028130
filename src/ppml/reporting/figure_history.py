"""Accuracy, and loss, against epoch or round: a small panel for each arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ppml.reporting.axes import CLOSEST_SMALL, SCALED, error_axis
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import distinct, evaluated_nouns, thousands
from ppml.reporting.panels import COLUMNS, annotate, interval_text, note, small_panels
from ppml.reporting.registry import figure
from ppml.reporting.statistics import Estimate, estimate
from ppml.reporting.style import dark, line_of
from ppml.reporting.technique_style import Style, styles_of

OTHERS: dict[str, Any] = {"color": "#CCCCCC", "linewidth": 0.8, "zorder": 1.5, "gid": "other"}
"""The lines of the other arms in a panel."""

TRAINING_LOSS: dict[str, Any] = {"linestyle": (0, (1, 1.5)), "linewidth": 0.9, "zorder": 2}


@figure("history")
def draw_history(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw accuracy against epoch (centralized and independent arms) or round (federated arms).

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each arm, sharing the axis of accuracy (percent). A line is the mean over seeds; its band the 95 %
        t-interval with three seeds or more, lowest to highest with two, and over the images (Wilson) with one. Grey
        lines are the other arms with the same unit. The axis shows every mean; a band may leave it.
    """
    require_arms(records, view.arms, "records.csv")
    images: dict[Any, int] = records.groupby("arm")["n_test"].first().to_dict()
    curves = _curves(view, history, "accuracy", images)
    with _arm_panels(view, records, history, curves, "accuracy during training", "") as (drawing, axes):
        shown = pd.concat(curves.values())
        first = next(iter(axes.values()))
        error_axis(first, shown["mean"], [*shown["low"], *shown["high"]], CLOSEST_SMALL)
        first_images = distinct((images[arm] for arm in view.arms), thousands, " or ")
        drawing.supylabel(
            f"Accuracy on the first {first_images} {evaluated_nouns(view.rows_of(records))} (%)\n{SCALED}",
            fontsize=8,
            multialignment="center",
        )
        for arm, ax in axes.items():
            last = curves[arm].iloc[-1]
            _write_end(ax, last, f"{last['mean']:.2f} %", above=last["mean"] < sum(first.get_ylim()) / 2)
    return drawing


@figure("loss")
def draw_loss(view: ExperimentView, records: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw the loss on the evaluated images as :func:`draw_history` draws accuracy, on a logarithmic axis.

    A thin dotted line of the same colour is the training loss; it is not known under privacy.
    """
    known = [arm for arm in view.arms if history["train_loss"][history["arm"] == arm].notna().all()]
    curves = _curves(view, history, "loss", {})
    also = ". Dotted: training loss, not known under privacy" if known else ""
    with _arm_panels(view, records, history, curves, "loss during training", also) as (drawing, axes):
        training = {arm: curve(history[history["arm"] == arm], "train_loss") for arm in known}
        for arm, points in training.items():
            colour = axes[arm].lines[-1].get_color()
            axes[arm].plot(points["step"], points["mean"], color=colour, **TRAINING_LOSS)
        means = pd.concat([points["mean"] for points in (*curves.values(), *training.values())])
        first = next(iter(axes.values()))
        first.set_yscale("log")
        first.set_ylim(means.min() / 1.25, means.max() * 1.25)
        first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        first.yaxis.set_minor_formatter(NullFormatter())
        drawing.supylabel(
            f"Loss on the {evaluated_nouns(view.rows_of(records))}\n(nats, log scale)",
            fontsize=8,
            multialignment="center",
        )
        for arm, ax in axes.items():
            last = curves[arm].iloc[-1]
            _write_end(ax, last, f"{last['mean']:.2g}", above=True)
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
        Columns ``step``, ``mean``, ``low``, ``high``, ``seeds`` and ``kind`` of the interval; the mean is the band of
        one seed without a number of images.
    """
    rows = []
    for step, values in history.sort_values("seed", kind="stable").groupby("step")[column]:
        found = estimate(values, trials=images)
        low, high = (found.mean, found.mean) if found.kind == "none" else (max(0.0, found.low), found.high)
        rows.append((step, found.mean, low, high, found.n, found.kind))
    points = pd.DataFrame(rows, columns=["step", "mean", "low", "high", "seeds", "kind"])
    if column == "accuracy":
        points[["mean", "low", "high"]] = 100 * points[["mean", "low", "high"]].clip(upper=1)
    return points


def _curves(
    view: ExperimentView, history: pd.DataFrame, column: str, images: Mapping[Any, int]
) -> dict[str, pd.DataFrame]:
    require_arms(history, view.arms, "history.csv")
    return {arm: curve(history[history["arm"] == arm], column, images.get(arm)) for arm in view.arms}


@contextmanager
def _arm_panels(
    view: ExperimentView,
    records: pd.DataFrame,
    history: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    quantity: str,
    also: str,
) -> Iterator[tuple[Figure, dict[str, Axes]]]:
    """Yield the figure and the panel of each arm, with its curve and band; the caller scales the shared axis."""
    require_arms(records, view.arms, "records.csv")
    units = history.drop_duplicates("arm").set_index("arm")["unit"]
    styles = styles_of(records)
    titles = list(view.arms.values())
    with small_panels(view, quantity, titles, sharey=True) as (drawing, used):
        axes = dict(zip(view.arms, used, strict=True))
        for place, (arm, ax) in enumerate(axes.items()):
            others = [curves[other] for other in view.arms if other != arm and units[other] == units[arm]]
            _draw_panel(ax, curves[arm], styles[arm], others)
            # A row of panels with one unit has its name once.
            ax.set_xlabel(str(units[arm]).capitalize(), labelpad=1)
            ax.tick_params(labelleft=place % COLUMNS == 0)
        grey = "Grey: the other arms. " if any(units.loc[list(view.arms)].duplicated()) else ""
        drawing.supxlabel(note(f"{grey}{_band_text(curves.values())}{also}"), fontsize=7.5)
        yield drawing, axes


def _draw_panel(ax: Axes, points: pd.DataFrame, style: Style, others: Iterable[pd.DataFrame]) -> None:
    first, last = float(points["step"].min()), float(points["step"].max())
    for other in others:
        ax.plot(other["step"], other["mean"], **OTHERS)
    if (points["low"] < points["high"]).any():
        ax.fill_between(points["step"], points["low"], points["high"], color=style.colour, alpha=0.2, linewidth=0)
    every = max(1, math.ceil(len(points) / 4))
    # The last point always has a marker.
    marks = ((len(points) - 1) % every, every)
    look = {**line_of(style), "markeredgecolor": "white", "markeredgewidth": 0.4}
    ax.plot(points["step"], points["mean"], markevery=marks, zorder=3, **look)
    margin = 0.05 * (last - first) or 0.5
    ax.set_xlim(first - margin, last + margin)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))


def _write_end(ax: Axes, last: pd.Series, text: str, *, above: bool) -> None:
    """Write the last value of a curve above or below its last point."""
    at, offset = (float(last["step"]), float(last["mean"])), (3.0, 6.0 if above else -6.0)
    colour = dark(str(ax.lines[-1].get_color()))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.7}
    annotate(ax, text, at, offset, ha="right", va="bottom" if above else "top", color=colour, bbox=box, zorder=4)


def _band_text(curves: Iterable[pd.DataFrame]) -> str:
    kinds = {(row["seeds"], row["kind"]) for points in curves for _, row in points.iterrows()}
    return interval_text([Estimate(math.nan, math.nan, n, math.nan, math.nan, kind) for n, kind in kinds], "band")
