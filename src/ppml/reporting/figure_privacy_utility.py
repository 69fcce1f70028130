"""Accuracy against epsilon: the cost of privacy."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from ppml.reporting.axes import EpsilonScale, error_axis, score_label, with_logarithm
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.families import Family, families, without_epsilon
from ppml.reporting.formatting import distinct, epsilon_label, nouns, percent, scientific, thousands, wrapped
from ppml.reporting.leading_metric import metric_name
from ppml.reporting.literature import PublishedRow
from ppml.reporting.panels import (
    NOTE_WIDTH,
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
from ppml.reporting.style import dark, line_of
from ppml.reporting.summaries import ArmResult, arm_results
from ppml.reporting.technique_style import Style, published_style, style_of

HEIGHT = 4.2
LABEL_OFFSET = 16
"""Points from the axis to a label in the margin."""

LABEL_WIDTH = 25
"""Characters of a line of a label in the margin."""

FINDING_WIDTH = 72
"""Characters of a line of the finding above the axis."""

DIRECT = 2
"""Largest number of points without an arm that have their paper and number beside them."""

SIZE, RING = 6.0, 3.6
"""Points: diameter of a marker, and the growth of an open marker for each one at the same place."""

SAME_PLACE = 0.0015, 0.01
"""Largest differences of the accuracies (fractions) and epsilons (relative) of two points that hide each other."""

COMPARED_EPSILON = 3.0
"""The finding names the best arm up to this epsilon."""


@dataclass(frozen=True)
class PublishedPoint:
    """A published accuracy (fraction, with the paper's ± or 0) at the paper's epsilon."""

    row: PublishedRow
    epsilon: float
    accuracy: float
    answer: Style | None = None
    """The style of the arm that answers the row, if it is in the figure."""


@figure("privacy_utility")
def draw_privacy_utility(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against epsilon.

    Returns
    -------
    matplotlib.figure.Figure
        A line for each family of arms that differ in epsilon only, with the interval at each point; arms without
        privacy as dashed horizontal lines; all with their names in the right margin. Every point is at its epsilon and
        its accuracy; of points at one place, all but the first are open rings. Published points are open, in the style
        of their paper, and in the colour of the arm that answers them. The axis of accuracy is logarithmic in the
        error, so that a reader can distinguish both 80 % from 81 % and 99 % from 99.1 %.
    """
    arms = arm_results(view, records)
    private, public = [one for one in arms if one.private], [one for one in arms if not one.private]
    require_published(view, published)
    view.require(
        private,
        "figure privacy_utility",
        "has an epsilon; select one with `privacy.kind: example`, or remove this figure",
    )
    styles = {one.arm: style_of(one.first) for one in arms}
    # Papers print accuracies.
    theirs = _published_points(view, published, styles) if view.metric == "accuracy" else []
    papers = list(dict.fromkeys(point.row.paper for point in theirs))
    deltas = distinct((one.first["delta"] for one in private), scientific)
    cost, compared = _finding(private, public, metric_name(view.metric))
    with panels(view, cost, HEIGHT + 0.23 * len(papers)) as (drawing, ax):
        ax.set_title(textwrap.fill(compared, FINDING_WIDTH), fontsize=8, loc="left")
        ax.set_xlabel(f"ε, the largest over clients and seeds, at δ = {deltas} (log scale; further left: more private)")
        ax.set_ylabel(score_label(view, records))
        scale = _scale(ax, [*(one.epsilon for one in private), *(point.epsilon for point in theirs)])
        estimates = [one.score for one in arms]
        error_axis(
            ax, [*means_of(estimates), *(100 * point.accuracy for point in theirs)],
            [*ends_of(estimates), *(end for point in theirs for end in _ends(point))],
        )  # fmt: skip
        labels = [*_draw_families(ax, families(private), scale), *(_draw_line(ax, one) for one in public)]
        direct = sum(point.answer is None for point in theirs) <= DIRECT
        for point in theirs:
            _draw_published(ax, point, named=direct or point.answer is not None)
        sizes, noun = distinct(view.rows_of(records)["n_train"], thousands, " or "), nouns(view.rows_of(records))
        ours = f"Ours (filled, or a ring around another point): {sizes} training {noun}."
        text = f"{ours} {interval_text(estimates, 'bars and bands')}"
        title = note(text + ". Published (open), as printed:" * bool(theirs))
        legend = legend_below(
            drawing, _published_entries(theirs), title=title, ncols=1, alignment="left", labelspacing=0.35
        )
        legend.get_title().set_multialignment("left")
    separate(drawing, ax, labels)
    return drawing


def _finding(private: Sequence[ArmResult], public: Sequence[ArmResult], metric: str) -> tuple[str, str]:
    """Return the cost of privacy up to :data:`COMPARED_EPSILON` in words, and the two arms that it compares."""
    near = [one for one in private if one.epsilon <= COMPARED_EPSILON]
    best = max(near or private, key=lambda one: one.score.mean)
    epsilon = f"ε {epsilon_label(best.epsilon)}"
    text = f"{percent(best.score.mean)} % ({without_epsilon(best.label)})"
    if not public:
        return f"{metric} against ε", f"Best at {epsilon}: {text}"
    top = max(public, key=lambda one: one.score.mean)
    # One digit fewer than the printed accuracies, whose difference a reader calculates.
    cost = 100 * (top.score.mean - best.score.mean)
    points = f"{cost:.1f}" if cost >= 0.05 else "less than 0.1"
    words = f"{points} points of {metric}" if cost > 0 else f"no {metric}"
    without = f"{percent(top.score.mean)} % ({top.label})"
    return f"{epsilon} costs {words}", f"Best without privacy: {without}. Best at {epsilon}: {text}"


def _scale(ax: Axes, epsilons: Sequence[float]) -> EpsilonScale:
    finite = with_logarithm(epsilons) or [1.0]
    # A single epsilon, or several close together, still need an axis with numbers.
    scale = EpsilonScale.of(epsilons, room=max(1.25, (4 * min(finite) / max(finite)) ** 0.5))
    scale.draw(ax, "x")
    return scale


def _draw_families(ax: Axes, shown: Sequence[Family], scale: EpsilonScale) -> list[Annotation]:
    """Draw a line for each family, and return the labels in the margin."""
    drawn: list[ArmResult] = []
    labels = []
    # The rings of single points are around the points of lines.
    for family in sorted(shown, key=lambda one: -len(one.members)):
        look = line_of(family.style)
        # 0 and infinity are not on the logarithmic part: no line leads to them.
        joined = [one for one in family.members if with_logarithm([one.epsilon])]
        path = [one.epsilon for one in joined], means_of(one.score for one in joined)
        ax.plot(*path, zorder=2, gid="family", color=look["color"], linestyle=look["linestyle"])
        for one in family.members:
            hidden = sum(_at_same_place(one, other) for other in drawn)
            edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}
            if hidden:
                edge = {"markerfacecolor": "none", "markeredgewidth": 1.2}
            draw_estimates(
                ax, [scale.place(one.epsilon)], [one.score], fmt=family.style.marker, color=family.style.colour,
                markersize=SIZE + RING * hidden, capthick=1.0, elinewidth=1.0, zorder=4 + 0.1 * hidden, **edge,
            )  # fmt: skip
            drawn.append(one)
        last = family.members[-1]
        at = (scale.place(last.epsilon), 100 * last.score.mean)
        labels.append(_margin_label(ax, family.name, at, family.style.colour))
    return labels


def _at_same_place(one: ArmResult, other: ArmResult) -> bool:
    """Return whether the points of two arms hide each other."""
    accuracy, epsilon = SAME_PLACE
    near = abs(one.score.mean - other.score.mean) <= accuracy
    return near and (one.epsilon == other.epsilon or abs(one.epsilon - other.epsilon) <= epsilon * one.epsilon)


def _margin_label(ax: Axes, text: str, at: tuple[float, float], colour: str) -> Annotation:
    """Write a name in the right margin, with a thin line to its point."""
    # The label is placed relative to the margin at the height of the point; its line begins at the point.
    label = annotate(
        ax, wrapped(text, LABEL_WIDTH), (1, at[1]), (LABEL_OFFSET, 0), xycoords=ax.get_yaxis_transform(),
        fontsize=7.5, color=dark(colour), va="center", annotation_clip=False,
        # To the left edge: a line to the middle of a moved label crosses the label below it.
        arrowprops={
            "arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)
        },
    )  # fmt: skip
    inside = [at[0], ax.get_xlim()[1]], [at[1]] * 2
    ax.plot(*inside, color=colour, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1.8, gid="leader")
    return label


def _draw_line(ax: Axes, line: ArmResult) -> Annotation:
    """Draw the horizontal line of an arm without privacy, and return its label in the right margin."""
    height, colour = 100 * line.score.mean, style_of(line.first).colour
    ax.axhspan(*ends_of([line.score]), color=colour, alpha=0.08, linewidth=0, zorder=0.5)
    ax.axhline(height, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    text = f"{line.label}: {percent(line.score.mean)} %"
    return _margin_label(ax, text, (ax.get_xlim()[1], height), colour)


def _published_points(
    view: ExperimentView, published: Mapping[str, PublishedRow], styles: Mapping[str, Style]
) -> list[PublishedPoint]:
    """Return the rows with epsilon and accuracy: first the rows that an arm of this figure answers, then the others."""
    answers: dict[str, Style | None] = {}
    for comparison in view.compare:
        if style := styles.get(comparison.arm or ""):
            answers.setdefault(comparison.published, style)
    answers |= {key: None for key in view.published if key not in answers}
    return [
        PublishedPoint(row, row.epsilon, row.accuracy, style)
        for key, style in answers.items()
        if (row := published[key]).epsilon is not None and row.accuracy is not None
    ]


def _ends(point: PublishedPoint) -> tuple[float, float]:
    spread = point.row.std or 0.0
    return 100 * (point.accuracy - spread), 100 * (point.accuracy + spread)


def _draw_published(ax: Axes, point: PublishedPoint, *, named: bool) -> None:
    """Draw an open marker at the place that the paper states, with paper and number beside it if it is ``named``."""
    style = published_style(point.row.paper)
    colour = point.answer.colour if point.answer else style.colour
    size = 9.0 if style.marker == "*" else 6.5
    ax.errorbar(
        point.epsilon, 100 * point.accuracy, yerr=100 * (point.row.std or 0.0) or None, fmt=style.marker, color=colour,
        markerfacecolor="none", markersize=size, markeredgewidth=1.2, elinewidth=0.9, capsize=2, zorder=5,
    )  # fmt: skip
    if named:
        # In the right half the text is on the left.
        left = ax.transAxes.inverted().transform(ax.transData.transform((point.epsilon, 50)))[0] > 0.5
        annotate(
            ax, f"{point.row.paper}: {percent(point.accuracy, 1)} %", (point.epsilon, 100 * point.accuracy),
            (-8 if left else 8, 0), color=dark(colour), fontsize=7.5, ha="right" if left else "left", va="center",
            zorder=4.5, path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _published_entries(points: Sequence[PublishedPoint]) -> list[Artist]:
    """Return an entry of the legend for each paper: its techniques, accuracies, training images and source."""
    papers: dict[str, list[PublishedRow]] = {}
    for point in points:
        papers.setdefault(point.row.paper, []).append(point.row)
    entries: list[Artist] = []
    for paper, rows in papers.items():
        style = published_style(paper)
        look: dict[str, Any] = {"marker": style.marker, "markersize": 6.5, "markeredgewidth": 1.2, "linestyle": "none"}
        text = textwrap.fill(f"{paper}{_facts(rows)}: {_techniques(rows)}", NOTE_WIDTH - 8)
        entries.append(Line2D([], [], color=style.colour, markerfacecolor="none", label=text, **look))
    return entries


def _facts(rows: Sequence[PublishedRow]) -> str:
    """Return the number of training images of a paper, and the doubt about its epsilon."""
    sizes = [thousands(size) for size in dict.fromkeys(row.n_train for row in rows) if size is not None]
    facts = [*(f"{size} training images" for size in sizes), *(["ε disputed"] if rows[0].disputed else [])]
    return f" ({', '.join(facts)})" if facts else ""


def _techniques(rows: Sequence[PublishedRow]) -> str:
    """Return the techniques of a paper, each with its accuracies in percent."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.accuracy is not None:
            found.setdefault(row.technique, []).append(percent(row.accuracy, 1))
    return "; ".join(f"{technique} {', '.join(values)}" for technique, values in found.items())
