"""Accuracy against epsilon: what privacy costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import ScaledTranslation

from ppml.errors import UserError
from ppml.reporting.accuracy_axis import accuracy_label, error_axis
from ppml.reporting.epsilon_axis import EpsilonScale, has_logarithm
from ppml.reporting.experiment_view import Selection
from ppml.reporting.formatting import percent, scientific
from ppml.reporting.literature import PublishedRow
from ppml.reporting.literature_points import (
    GREY,
    AnsweredPoint,
    PublishedPoint,
    PublishedSeries,
    answered_points,
    draw_answered,
    draw_series,
    published_series,
)
from ppml.reporting.statistics import Estimate, estimate
from ppml.reporting.style import ArmStyle, arm_styles, dark, figure_style, new_figure, spread_out
from ppml.reporting.summaries import rows_of

HEIGHT = 3.9
LABEL_GAP = 9.5
"""Points between the baselines of neighbouring labels."""

LABEL_OFFSET = 14
"""Points from the axis to a label in the margin."""

SIDE_STEP = 4 / 72
"""Inches between families where points share an epsilon."""


@dataclass(frozen=True)
class PrivatePoint:
    """An arm with an epsilon."""

    label: str
    style: ArmStyle
    epsilon: float
    delta: float
    accuracy: Estimate


@dataclass(frozen=True)
class PublicLine:
    """An arm without differential privacy."""

    label: str
    style: ArmStyle
    accuracy: Estimate


def privacy_utility(selection: Selection, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against epsilon.

    Parameters
    ----------
    selection : Selection
        The arms; ``compare`` names the published points beside those of them that it answers, ``published`` those that
        stand for themselves.
    records : pandas.DataFrame
        One row an arm and seed; accuracies are shares, epsilon the maximum over clients.
    published : mapping of str to PublishedRow
        As `ppml.reporting.literature.load_published` returns it.

    Returns
    -------
    matplotlib.figure.Figure
        A line a family of arms that differ in epsilon only, with the 95 % interval at each point (Student's t over
        seeds; Wilson's with one seed); arms without privacy as labelled horizontal lines; published points hollow. The
        axis of accuracy is logarithmic in the error, so that 80 % and 99 % can both be read.

    Raises
    ------
    UserError
        An arm has no records, none of them has an epsilon, or a published row does not exist.
    """
    styles = _one_marker_a_family(arm_styles(selection, records))
    private, public = _arms(selection, records, styles)
    answered, series = answered_points(selection, published, styles), published_series(selection, published)
    if not private:
        raise UserError(
            f"figure privacy_utility of {selection.title!r}: none of the arms {', '.join(selection.arms)} has an "
            "epsilon; select one with `privacy.kind: example`, or leave this figure out"
        )
    deltas = ", ".join(scientific(delta) for delta in dict.fromkeys(point.delta for point in private))
    theirs = [*(one.point for one in answered), *(point for one in series for point in one.points)]
    ours = [*(point.accuracy for point in private), *(line.accuracy for line in public)]
    with figure_style():
        figure = new_figure(selection, records, HEIGHT + 0.15 * len(series))
        ax = figure.subplots()
        ax.set_xlabel(f"ε, the largest over clients and seeds, at δ = {deltas} (log scale; smaller is more private)")
        ax.set_ylabel(accuracy_label(selection, records))
        scale = _epsilon_axis(ax, [*(point.epsilon for point in private), *(point.epsilon for point in theirs)])
        error_axis(ax, _heights(ours, theirs))
        families = _draw_families(figure, ax, private, scale)
        labels = [_draw_line(ax, line, place) for place, line in enumerate(public)]
        draw_answered(ax, answered)
        hollow = draw_series(ax, series)
        sns.despine(ax=ax)
        columns = _key(_training_images(selection, records), families, hollow, answered, series)
        _legend(figure, columns, _intervals(ours, _share_epsilon(private)))
        _separate(figure, ax, labels)
    return figure


def _one_marker_a_family(styles: Mapping[str, ArmStyle]) -> dict[str, ArmStyle]:
    """Return the styles with the marker of the first arm of each family: here a line is a family."""
    markers: dict[str, str] = {}
    for style in styles.values():
        markers.setdefault(style.family, style.marker)
    return {arm: replace(style, marker=markers[style.family]) for arm, style in styles.items()}


def _arms(
    selection: Selection, records: pd.DataFrame, styles: Mapping[str, ArmStyle]
) -> tuple[list[PrivatePoint], list[PublicLine]]:
    private, public = [], []
    for arm, label in selection.arms.items():
        seeds = rows_of(records, arm)
        accuracy = estimate(seeds["accuracy_all"], trials=int(seeds["n_test_all"].iloc[0]))
        if seeds["privacy_unit"].iloc[0] == "none":
            public.append(PublicLine(label, styles[arm], accuracy))
        else:
            epsilon, delta = float(seeds["epsilon"].max()), float(seeds["delta"].iloc[0])
            private.append(PrivatePoint(label, styles[arm], epsilon, delta, accuracy))
    return private, public


def _epsilon_axis(ax: Axes, epsilons: Sequence[float]) -> EpsilonScale:
    finite = [value for value in epsilons if 0 < value < math.inf] or [1.0]
    # A single epsilon, or several close together, still need an axis to be read on.
    scale = EpsilonScale.of(epsilons, room=max(1.35, (4 * min(finite) / max(finite)) ** 0.5))
    scale.draw(ax, "x", (1, 2, 3, 5), ticks=has_logarithm(epsilons))
    return scale


def _heights(ours: Sequence[Estimate], theirs: Sequence[PublishedPoint]) -> list[float]:
    """Return what the axis of accuracy must reach, in percent."""
    # Set by hand: points that are moved sideways do not count towards automatic limits.
    ends = [end for value in ours for end in (value.low, value.high)]
    ends += [end for point in theirs for end in (point.accuracy - point.spread, point.accuracy + point.spread)]
    return [100 * min(1.0, max(0.0, end)) for end in ends]


def _share_epsilon(points: Sequence[PrivatePoint]) -> bool:
    """Return whether two points have the same epsilon, as far as a reader can see."""
    return len({round(point.epsilon, 2) for point in points}) < len(points)


def _draw_families(figure: Figure, ax: Axes, private: Sequence[PrivatePoint], scale: EpsilonScale) -> list[Artist]:
    """Draw a line a family, and return what a legend shows, in order."""
    families: dict[str, list[PrivatePoint]] = {}
    for point in sorted(private, key=lambda point: point.epsilon):
        families.setdefault(point.style.family, []).append(point)
    # Points at one epsilon stand side by side, or one would hide the other.
    step = SIDE_STEP if _share_epsilon(private) else 0.0
    handles: list[Artist] = []
    for place, (family, points) in enumerate(families.items()):
        shift = (place - (len(families) - 1) / 2) * step
        beside = ax.transData + ScaledTranslation(shift, 0, figure.dpi_scale_trans)
        look = points[len(points) // 2].style
        drawn: dict[str, Any] = {"color": look.colour, "linestyle": look.line}
        # The places of 0 and infinity are not on the scale: no line leads there.
        joined = [point for point in points if has_logarithm([point.epsilon])]
        ax.plot(
            [point.epsilon for point in joined],
            [100 * point.accuracy.mean for point in joined],
            transform=beside,
            zorder=2,
            **drawn,
        )
        for point in points:
            ax.errorbar(
                scale.place(point.epsilon),
                100 * point.accuracy.mean,
                yerr=_reach(point.accuracy),
                fmt=look.marker,
                color=point.style.colour,
                markeredgecolor="white",
                markeredgewidth=0.4,
                markersize=6,
                capsize=2.5,
                capthick=1.1,
                elinewidth=1.1,
                transform=beside,
                zorder=4,
            )
        label = points[0].label if len(points) == 1 else family
        handles += ax.plot([], [], marker=look.marker, markersize=6, label=label, **drawn)
    return handles


def _reach(value: Estimate) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the distances in percent from the mean to the ends of its interval, shape ``(2, 1)``."""
    return 100 * np.array([[value.mean - value.low], [value.high - value.mean]])


def _draw_line(ax: Axes, line: PublicLine, place: int) -> Annotation:
    """Draw the horizontal line of an arm without privacy, and return its label in the right margin."""
    colour, height = line.style.colour, 100 * line.accuracy.mean
    ax.axhspan(100 * line.accuracy.low, 100 * line.accuracy.high, color=colour, alpha=0.08, linewidth=0, zorder=0.5)
    # Alternating phases: where two arms coincide, the dashes of one fill the gaps of the other.
    ax.axhline(height, color=colour, linestyle=(4 * (place % 2), (4, 4)), linewidth=1.2, zorder=1)
    return ax.annotate(
        f"{line.label}: {percent(line.accuracy.mean)} %",
        xy=(1, height),
        xycoords=ax.get_yaxis_transform(),
        xytext=(LABEL_OFFSET, 0),
        textcoords="offset points",
        color=dark(colour),
        fontsize=7.5,
        va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 0},
        annotation_clip=False,
    )


def _training_images(selection: Selection, records: pd.DataFrame) -> str:
    mine = records[records["arm"].isin(list(selection.arms))]
    return f"{' or '.join(f'{size:,}' for size in dict.fromkeys(mine['n_train']))} training images"


def _key(
    training: str,
    families: list[Artist],
    hollow: list[Artist],
    answered: Sequence[AnsweredPoint],
    series: Sequence[PublishedSeries],
) -> list[list[Artist]]:
    """Return the columns of the legend, each with its heading: ours, and theirs where there are any."""
    ours = [_heading(f"Ours, {training}"), *families]
    if answered:
        look: dict[str, Any] = {"marker": "o", "color": GREY, "markerfacecolor": "white", "linestyle": "none"}
        ours.append(Line2D([], [], label="hollow: published, on the paper's own test images", **look))
    if not series:
        return [ours]
    sizes = dict.fromkeys(f"{one.n_train:,}" for one in series if one.n_train is not None)
    stated = " where stated" if any(one.n_train is None for one in series) else ""
    theirs = f", {' or '.join(sizes)} training images{stated}" if sizes else ""
    return [ours, [_heading(f"Published{theirs}"), *hollow]]


def _heading(text: str) -> Artist:
    return Line2D([], [], linestyle="none", label=text)


def _intervals(ours: Sequence[Estimate], side_by_side: bool) -> str:
    """Return what the bars and bands are."""
    kinds = {value.kind for value in ours}
    seeds = sorted({value.n for value in ours})
    if seeds == [1]:
        text = "One seed; bars and bands: 95 % interval (Wilson, over the images)"
    else:
        number = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        single = "; Wilson with one seed" if "wilson" in kinds else ""
        text = f"Mean of {number} seeds; bars and bands: 95 % interval (Student's t{single})"
    return text + ("\nPoints at the same ε stand side by side" if side_by_side else "")


def _legend(figure: Figure, columns: list[list[Artist]], title: str) -> None:
    # A legend fills its columns evenly, so the shorter one is filled up.
    rows = max(map(len, columns))
    handles = [artist for column in columns for artist in [*column, *[_heading("")] * (rows - len(column))]]
    legend = figure.legend(
        handles=handles,
        title=title,
        loc="outside lower center",
        ncols=len(columns),
        alignment="center",
        handlelength=2.6,
        labelspacing=0.3,
        columnspacing=1.5,
    )
    headings = {str(column[0].get_label()) for column in columns}
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in headings else "normal")


def _separate(figure: Figure, ax: Axes, labels: Sequence[Annotation]) -> None:
    """Move the labels in the margin apart where they would overlap."""
    # Only the finished layout knows how many points an axis is high.
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    heights = [float(ax.transData.transform((1.0, label.xy[1]))[1]) * scale for label in labels]
    for label, height, moved in zip(labels, heights, spread_out(heights, LABEL_GAP), strict=True):
        label.set_position((LABEL_OFFSET, moved - height))
