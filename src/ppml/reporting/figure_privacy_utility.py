"""Accuracy against epsilon: the cost of privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import ScaledTranslation

from ppml.errors import UserError
from ppml.reporting.accuracy_axis import accuracy_label, error_axis
from ppml.reporting.epsilon_axis import EpsilonScale, has_logarithm
from ppml.reporting.experiment_view import ExperimentView
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
from ppml.reporting.panels import annotate, draw_estimates, legend_below, panels, seeds_text
from ppml.reporting.registry import figure
from ppml.reporting.statistics import Estimate, estimate
from ppml.reporting.style import ArmStyle, arm_styles, dark, dodge
from ppml.reporting.summaries import rows_for_arm

HEIGHT = 3.9
LABEL_GAP = 9.5
"""Points between the baselines of neighbouring labels."""

LABEL_OFFSET = 14
"""Points from the axis to a label in the margin."""

SIDE_STEP = 4 / 72
"""Inches between families with points at the same epsilon."""


@dataclass(frozen=True)
class DrawnArm:
    """An arm with its accuracy; epsilon and delta are nan without differential privacy."""

    label: str
    style: ArmStyle
    accuracy: Estimate
    epsilon: float = math.nan
    delta: float = math.nan


@figure("privacy_utility", shows="accuracy against epsilon", reads=("records",), published=True)
def draw_privacy_utility(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against epsilon.

    Returns
    -------
    matplotlib.figure.Figure
        A line for each family of arms that differ in epsilon only, with the 95 % interval at each point (Student's t
        over seeds; Wilson's with one seed); arms without privacy as labelled horizontal lines; published points hollow,
        in the style of the arm that answers them. The axis of accuracy is logarithmic in the error, so that a reader
        can distinguish both 80 % from 81 % and 99 % from 99.1 %.

    Raises
    ------
    UserError
        An arm has no result rows, no arm has an epsilon, or a published row does not exist.
    """
    styles = _one_marker_per_family(arm_styles(view, records))
    arms = _arms(view, records, styles)
    private = [one for one in arms if not math.isnan(one.epsilon)]
    public = [one for one in arms if math.isnan(one.epsilon)]
    answered, series = answered_points(view, published, styles), published_series(view, published)
    if not private:
        raise UserError(
            f"figure privacy_utility of {view.title!r}: none of the arms {', '.join(view.arms)} has an epsilon; select "
            "one with `privacy.kind: example`, or remove this figure"
        )
    theirs = [*(one.point for one in answered), *(point for one in series for point in one.points)]
    with panels(view, records, HEIGHT + 0.15 * len(series)) as (drawing, axes):
        ax = axes[0, 0]
        deltas = ", ".join(scientific(delta) for delta in dict.fromkeys(one.delta for one in private))
        ax.set_xlabel(f"ε, the largest over clients and seeds, at δ = {deltas} (log scale; smaller is more private)")
        ax.set_ylabel(accuracy_label(view, records))
        scale = _scale(ax, [*(one.epsilon for one in private), *(point.epsilon for point in theirs)])
        error_axis(ax, _heights([*private, *public], theirs))
        families = _draw_families(drawing, ax, private, scale)
        labels = [_draw_line(ax, line, place) for place, line in enumerate(public)]
        draw_answered(ax, answered)
        hollow = draw_series(ax, series)
        columns = _key(_training_images(view, records), families, hollow, answered, series)
        _legend(drawing, columns, _intervals([*private, *public], _share_epsilon(private)))
    _separate(drawing, ax, labels)
    return drawing


def _one_marker_per_family(styles: Mapping[str, ArmStyle]) -> dict[str, ArmStyle]:
    """Return the styles with the marker of the first arm of each family, since a line is a family."""
    markers: dict[str, str] = {}
    for style in styles.values():
        markers.setdefault(style.family, style.marker)
    return {arm: replace(style, marker=markers[style.family]) for arm, style in styles.items()}


def _arms(view: ExperimentView, records: pd.DataFrame, styles: Mapping[str, ArmStyle]) -> list[DrawnArm]:
    found = []
    for arm, label in view.arms.items():
        seeds = rows_for_arm(records, arm)
        accuracy = estimate(seeds["accuracy_all"], trials=int(seeds["n_test_all"].iloc[0]))
        if seeds["privacy_unit"].iloc[0] == "none":
            found.append(DrawnArm(label, styles[arm], accuracy))
        else:
            epsilon, delta = float(seeds["epsilon"].max()), float(seeds["delta"].iloc[0])
            found.append(DrawnArm(label, styles[arm], accuracy, epsilon, delta))
    return found


def _scale(ax: Axes, epsilons: Sequence[float]) -> EpsilonScale:
    finite = [value for value in epsilons if has_logarithm([value])] or [1.0]
    # A single epsilon, or several close together, still need an axis with numbers.
    scale = EpsilonScale.of(epsilons, room=max(1.35, (4 * min(finite) / max(finite)) ** 0.5))
    scale.draw(ax, "x")
    return scale


def _heights(ours: Sequence[DrawnArm], theirs: Sequence[PublishedPoint]) -> list[float]:
    """Return all accuracies and ends of intervals, in percent."""
    # Automatic limits would ignore the points with a sideways offset.
    ends = [end for one in ours for end in (one.accuracy.low, one.accuracy.high)]
    ends += [end for point in theirs for end in (point.accuracy - point.spread, point.accuracy + point.spread)]
    return [100 * min(1.0, max(0.0, end)) for end in ends]


def _share_epsilon(private: Sequence[DrawnArm]) -> bool:
    """Return whether two points have the same epsilon to two decimals."""
    return len({round(one.epsilon, 2) for one in private}) < len(private)


def _draw_families(drawing: Figure, ax: Axes, private: Sequence[DrawnArm], scale: EpsilonScale) -> list[Artist]:
    """Draw a line for each family, and return the entries of the legend, in order."""
    families: dict[str, list[DrawnArm]] = {}
    for one in sorted(private, key=lambda one: one.epsilon):
        families.setdefault(one.style.family, []).append(one)
    # Points at one epsilon are side by side, or one would hide the other.
    step = SIDE_STEP if _share_epsilon(private) else 0.0
    handles: list[Artist] = []
    for place, (family, members) in enumerate(families.items()):
        shift = (place - (len(families) - 1) / 2) * step
        beside = ax.transData + ScaledTranslation(shift, 0, drawing.dpi_scale_trans)
        look = members[len(members) // 2].style
        drawn: dict[str, Any] = {"color": look.colour, "linestyle": look.line}
        # 0 and infinity are not on the logarithmic part: no line leads to them.
        joined = [one for one in members if has_logarithm([one.epsilon])]
        means = [100 * one.accuracy.mean for one in joined]
        ax.plot([one.epsilon for one in joined], means, transform=beside, zorder=2, **drawn)
        for one in members:
            draw_estimates(
                ax, [scale.place(one.epsilon)], [one.accuracy], fmt=look.marker, color=one.style.colour,
                markeredgecolor="white", markeredgewidth=0.4, markersize=6, capthick=1.1, elinewidth=1.1,
                transform=beside, zorder=4,
            )  # fmt: skip
        label = members[0].label if len(members) == 1 else family
        handles += ax.plot([], [], marker=look.marker, markersize=6, label=label, **drawn)
    return handles


def _draw_line(ax: Axes, line: DrawnArm, place: int) -> Annotation:
    """Draw the horizontal line of an arm without privacy, and return its label in the right margin."""
    colour, height = line.style.colour, 100 * line.accuracy.mean
    ax.axhspan(100 * line.accuracy.low, 100 * line.accuracy.high, color=colour, alpha=0.08, linewidth=0, zorder=0.5)
    # Alternating phases: the dashes of an arm fill the gaps of an equal one.
    ax.axhline(height, color=colour, linestyle=(4 * (place % 2), (4, 4)), linewidth=1.2, zorder=1)
    return annotate(
        ax, f"{line.label}: {percent(line.accuracy.mean)} %", (1, height), (LABEL_OFFSET, 0), fontsize=7.5,
        xycoords=ax.get_yaxis_transform(), color=dark(colour), va="center", annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 0},
    )  # fmt: skip


def _training_images(view: ExperimentView, records: pd.DataFrame) -> str:
    mine = records[records["arm"].isin(list(view.arms))]
    return f"{' or '.join(f'{size:,}' for size in dict.fromkeys(mine['n_train']))} training images"


def _key(
    training: str,
    families: list[Artist],
    hollow: list[Artist],
    answered: Sequence[AnsweredPoint],
    series: Sequence[PublishedSeries],
) -> list[list[Artist]]:
    """Return the columns of the legend, each with its heading: ours, and theirs if a series is shown."""
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


def _intervals(ours: Sequence[DrawnArm], side_by_side: bool) -> str:
    """Return the meaning of the bars and bands."""
    seeds = seeds_text(one.accuracy.n for one in ours)
    single = "; Wilson with one seed" if any(one.accuracy.kind == "wilson" for one in ours) else ""
    method = "Wilson, over the images" if seeds == "One seed" else f"Student's t{single}"
    text = f"{seeds}; bars and bands: 95 % interval ({method})"
    return text + ("\nPoints with the same ε are side by side" if side_by_side else "")


def _legend(drawing: Figure, columns: list[list[Artist]], title: str) -> None:
    # A legend fills its columns evenly, so the shorter one gets empty entries.
    rows = max(map(len, columns))
    handles = [artist for column in columns for artist in [*column, *[_heading("")] * (rows - len(column))]]
    legend = legend_below(
        drawing, handles, title=title, ncols=len(columns), alignment="center", handlelength=2.6, labelspacing=0.3,
        columnspacing=1.5,
    )  # fmt: skip
    headings = {str(column[0].get_label()) for column in columns}
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in headings else "normal")


def _separate(drawing: Figure, ax: Axes, labels: Sequence[Annotation]) -> None:
    """Move overlapping labels in the margin."""
    # Only the finished layout has the height of the axis in points.
    drawing.draw_without_rendering()
    scale = 72 / drawing.dpi
    heights = [float(ax.transData.transform((1.0, label.xy[1]))[1]) * scale for label in labels]
    for label, height, moved in zip(labels, heights, dodge(heights, LABEL_GAP), strict=True):
        label.set_position((LABEL_OFFSET, moved - height))
