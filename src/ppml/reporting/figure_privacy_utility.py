"""Accuracy against epsilon: the cost of privacy."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import ScaledTranslation

from ppml.reporting.axes import EpsilonScale, accuracy_label, error_axis, with_logarithm
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.formatting import distinct, percent, scientific, thousands
from ppml.reporting.literature import PublishedRow
from ppml.reporting.panels import annotate, draw_estimates, ends_of, legend_below, panels, seeds_text
from ppml.reporting.registry import figure
from ppml.reporting.style import ArmStyle, arm_styles, dark, dodge
from ppml.reporting.summaries import ArmResult, arm_results

HEIGHT = 3.9
LABEL_GAP = 9.5
"""Points between the baselines of neighbouring labels."""

LABEL_OFFSET = 14
"""Points from the axis to a label in the margin."""

SIDE_STEP = 4 / 72
"""Inches between families with points at the same epsilon."""

PUBLISHED_MARKERS = ("o", "s", "^", "D", "v", "p", "h", "<", ">", "8")
GREY = "#555555"
SERIES_WIDTH = 48
"""Characters of a line in the legend."""

HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "markersize": 5.5, "markeredgewidth": 1.0}


@dataclass(frozen=True)
class PublishedPoint:
    """A published accuracy (fraction, with the paper's ± or 0) at the paper's epsilon."""

    paper: str
    epsilon: float
    accuracy: float
    spread: float


Answered = Sequence[tuple[PublishedPoint, ArmStyle]]
"""Published points, each with the style of the arm that answers it."""
Series = Mapping[tuple[str, int | None], Sequence[PublishedPoint]]
"""The points of each technique in a paper, without an arm, from the smallest epsilon; by label and training images."""


@figure("privacy_utility")
def draw_privacy_utility(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against epsilon.

    Returns
    -------
    matplotlib.figure.Figure
        A line for each family of arms that differ in epsilon only, with the 95 % interval at each point (Student's t
        over seeds; Wilson's with one seed); arms without privacy as labelled horizontal lines; published points hollow,
        in the style of the arm that answers them. The axis of accuracy is logarithmic in the error, so that a reader
        can distinguish both 80 % from 81 % and 99 % from 99.1 %.
    """
    styles = _one_marker_per_family(arm_styles(view, records))
    arms = arm_results(view, records)
    private, public = [one for one in arms if one.private], [one for one in arms if not one.private]
    require_published(view, published)
    answered, series = _answered_points(view, published, styles), _published_series(view, published)
    view.require(
        private,
        "figure privacy_utility",
        "has an epsilon; select one with `privacy.kind: example`, or remove this figure",
    )
    theirs = [*(point for point, _ in answered), *(point for points in series.values() for point in points)]
    with panels(view, records, HEIGHT + 0.15 * len(series)) as (drawing, ax):
        deltas = distinct((one.first["delta"] for one in private), scientific)
        ax.set_xlabel(f"ε, the largest over clients and seeds, at δ = {deltas} (log scale; smaller is more private)")
        ax.set_ylabel(accuracy_label(view, records))
        scale = _scale(ax, [*(one.epsilon for one in private), *(point.epsilon for point in theirs)])
        # Automatic limits would ignore the points with a sideways offset.
        ends = [100 * (point.accuracy + sign * point.spread) for point in theirs for sign in (-1, 1)]
        error_axis(ax, [min(100.0, max(0.0, end)) for end in [*ends_of(one.accuracy for one in arms), *ends]])
        families = _draw_families(drawing, ax, private, styles, scale)
        labels = [_draw_line(ax, one, styles[one.arm].colour, place) for place, one in enumerate(public)]
        _draw_answered(ax, answered)
        hollow = _draw_series(ax, series)
        images = distinct(view.rows_of(records)["n_train"], thousands, " or ")
        ours = [_heading(f"Ours, {images} training images"), *families]
        if answered:
            look: dict[str, Any] = {"marker": "o", "color": GREY, "markerfacecolor": "white", "linestyle": "none"}
            ours.append(Line2D([], [], label="hollow: published, on the paper's own test images", **look))
        columns = [ours, [_published_heading(series), *hollow]] if series else [ours]
        _legend(drawing, columns, _intervals(arms, _share_epsilon(private)))
    _separate(drawing, ax, labels)
    return drawing


def _one_marker_per_family(styles: Mapping[str, ArmStyle]) -> dict[str, ArmStyle]:
    """Return the styles with the marker of the first arm of each family, since a line is a family."""
    markers: dict[str, str] = {}
    for style in styles.values():
        markers.setdefault(style.family, style.marker)
    return {arm: replace(style, marker=markers[style.family]) for arm, style in styles.items()}


def _scale(ax: Axes, epsilons: Sequence[float]) -> EpsilonScale:
    finite = with_logarithm(epsilons) or [1.0]
    # A single epsilon, or several close together, still need an axis with numbers.
    scale = EpsilonScale.of(epsilons, room=max(1.35, (4 * min(finite) / max(finite)) ** 0.5))
    scale.draw(ax, "x")
    return scale


def _share_epsilon(private: Sequence[ArmResult]) -> bool:
    """Return whether two points have the same epsilon to two decimals."""
    return len({round(one.epsilon, 2) for one in private}) < len(private)


def _draw_families(
    drawing: Figure, ax: Axes, private: Sequence[ArmResult], styles: Mapping[str, ArmStyle], scale: EpsilonScale
) -> list[Artist]:
    """Draw a line for each family, and return the entries of the legend, in order."""
    families: dict[str, list[ArmResult]] = {}
    for one in sorted(private, key=lambda one: one.epsilon):
        families.setdefault(styles[one.arm].family, []).append(one)
    # Points at one epsilon are side by side, or one would hide the other.
    step = SIDE_STEP if _share_epsilon(private) else 0.0
    handles: list[Artist] = []
    for place, (family, members) in enumerate(families.items()):
        shift = (place - (len(families) - 1) / 2) * step
        beside = ax.transData + ScaledTranslation(shift, 0, drawing.dpi_scale_trans)
        look = styles[members[len(members) // 2].arm]
        drawn: dict[str, Any] = {"color": look.colour, "linestyle": look.line}
        # 0 and infinity are not on the logarithmic part: no line leads to them.
        joined = [one for one in members if with_logarithm([one.epsilon])]
        means = [100 * one.accuracy.mean for one in joined]
        ax.plot([one.epsilon for one in joined], means, transform=beside, zorder=2, **drawn)
        for one in members:
            draw_estimates(
                ax, [scale.place(one.epsilon)], [one.accuracy], fmt=look.marker, color=styles[one.arm].colour,
                markeredgecolor="white", markeredgewidth=0.4, markersize=6, capthick=1.1, elinewidth=1.1,
                transform=beside, zorder=4,
            )  # fmt: skip
        label = members[0].label if len(members) == 1 else family
        handles += ax.plot([], [], marker=look.marker, markersize=6, label=label, **drawn)
    return handles


def _draw_line(ax: Axes, line: ArmResult, colour: str, place: int) -> Annotation:
    """Draw the horizontal line of an arm without privacy, and return its label in the right margin."""
    height = 100 * line.accuracy.mean
    ax.axhspan(*ends_of([line.accuracy]), color=colour, alpha=0.08, linewidth=0, zorder=0.5)
    # Alternating phases: the dashes of an arm fill the gaps of an equal one.
    ax.axhline(height, color=colour, linestyle=(4 * (place % 2), (4, 4)), linewidth=1.2, zorder=1)
    return annotate(
        ax, f"{line.label}: {percent(line.accuracy.mean)} %", (1, height), (LABEL_OFFSET, 0), fontsize=7.5,
        xycoords=ax.get_yaxis_transform(), color=dark(colour), va="center", annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 0},
    )  # fmt: skip


def _published_heading(series: Series) -> Artist:
    sizes = [n_train for _, n_train in series]
    known = [n_train for n_train in sizes if n_train is not None]
    stated = " where stated" if len(known) < len(sizes) else ""
    return _heading(
        f"Published, {distinct(known, thousands, ' or ')} training images{stated}" if known else "Published"
    )


def _heading(text: str) -> Artist:
    return Line2D([], [], linestyle="none", label=text)


def _intervals(ours: Sequence[ArmResult], side_by_side: bool) -> str:
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


def _answered_points(
    view: ExperimentView, published: Mapping[str, PublishedRow], styles: Mapping[str, ArmStyle]
) -> Answered:
    """Return the published rows with epsilon and accuracy that an arm of this figure answers."""
    found: dict[str, tuple[PublishedPoint, ArmStyle]] = {}
    for comparison in view.compare:
        point, style = _point(published[comparison.published]), styles.get(comparison.arm or "")
        if point and style:
            found.setdefault(comparison.published, (point, style))
    return list(found.values())


def _published_series(view: ExperimentView, published: Mapping[str, PublishedRow]) -> Series:
    """Return the rows without an arm, a series for each paper and technique; rows need epsilon and accuracy."""
    series: dict[tuple[str, int | None], list[PublishedPoint]] = {}
    for row in (published[key] for key in view.published):
        if point := _point(row):
            doubt = ", ε disputed" if row.disputed else ""
            # An address would not fit; the table of published rows has it.
            source = f", {row.source}" if row.source and row.source.startswith("arXiv:") else ""
            series.setdefault((f"{row.paper}: {row.technique}{doubt}{source}", row.n_train), []).append(point)
    return {key: sorted(points, key=lambda point: point.epsilon) for key, points in series.items()}


def _point(row: PublishedRow) -> PublishedPoint | None:
    if row.epsilon is None or row.accuracy is None:
        return None
    return PublishedPoint(row.paper, row.epsilon, row.accuracy, row.std or 0.0)


def _draw_answered(ax: Axes, answered: Answered) -> None:
    """Draw each point in the colour of its arm, with paper and number."""
    for point, style in answered:
        # In the right half the text is on the left, so that it does not overlap the labels of the lines.
        left = ax.transAxes.inverted().transform(ax.transData.transform((point.epsilon, 50)))[0] > 0.5
        _draw_points(ax, [point], style.marker, style.colour)
        annotate(
            ax, f"{point.paper}: {percent(point.accuracy, 1)} %", (point.epsilon, 100 * point.accuracy),
            (-8 if left else 8, 0), color=dark(style.colour), fontsize=7.5, ha="right" if left else "left",
            va="center", zorder=4.5, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _draw_series(ax: Axes, series: Series) -> list[Artist]:
    """Draw each series in grey with its own marker, and return the entries of the legend, in order."""
    handles: list[Artist] = []
    for place, ((label, _), points) in enumerate(series.items()):
        marker = PUBLISHED_MARKERS[place % len(PUBLISHED_MARKERS)]
        _draw_points(ax, points, marker, GREY)
        if len(points) > 1:
            path = [[point.epsilon for point in points], [100 * point.accuracy for point in points]]
            ax.plot(*path, color=GREY, linestyle=(0, (1, 1.6)), linewidth=0.8, zorder=3)
        text = textwrap.fill(label, SERIES_WIDTH)
        handles += ax.plot([], [], color=GREY, linestyle="none", marker=marker, label=text, **HOLLOW)
    return handles


def _draw_points(ax: Axes, points: Sequence[PublishedPoint], marker: str, colour: str) -> None:
    for point in points:
        ax.errorbar(
            point.epsilon, 100 * point.accuracy, yerr=100 * point.spread if point.spread else None, fmt=marker,
            color=colour, elinewidth=0.9, capsize=2, zorder=5, **HOLLOW,
        )  # fmt: skip
