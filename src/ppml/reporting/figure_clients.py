"""Accuracy against the number of clients: independent, federated and centralized training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ppml.reporting.axes import error_axis, score_label
from ppml.reporting.client_grid import DIVISIONS, ONE_OWNER, SERIES, Answer, Cell, client_study
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import epsilon_label, nouns
from ppml.reporting.literature import PublishedRow
from ppml.reporting.panels import (
    draw_estimates,
    ends_of,
    interval_text,
    legend_below,
    means_of,
    note,
    panels,
    shared_entries,
)
from ppml.reporting.registry import figure
from ppml.reporting.style import line_of
from ppml.reporting.technique_style import (
    COLOURS,
    published_style,
    style_of,
    technique_name,
)

PANEL_HEIGHT = 2.7


@figure("clients")
def draw_clients(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against the number of clients.

    Returns
    -------
    matplotlib.figure.Figure
        A row of panels for each data size, a panel for each division; filled points are ours with their interval,
        open ones the paper's with its ±; horizontal lines are centralized training. The axis is logarithmic in the
        error.
    """
    study = client_study(view, records, published)
    parts = {n_train: part for n_train, part in study.parts.items() if part.cells}
    divisions = list(dict.fromkeys(cell.division for cell in study.cells))
    layout: dict[str, Any] = {"rows": len(parts), "columns": len(divisions), "sharey": "row", "squeeze": False}
    height = PANEL_HEIGHT * len(parts) + 0.9
    with panels(view, "accuracy against the number of clients", height, **layout) as (drawing, axes):
        for row, (n_train, part) in zip(axes, parts.items(), strict=True):
            estimates = [answer.score for answer in part.answers]
            theirs = _published_values(part.answers)
            error_axis(
                row[0], [*means_of(estimates), *(mean for mean, _ in theirs)],
                [*ends_of(estimates), *(mean + sign * spread for mean, spread in theirs for sign in (-1, 1))],
            )  # fmt: skip
            for ax, division in zip(row, divisions, strict=True):
                cells = [cell for cell in part.cells if cell.division == division]
                if not cells:
                    ax.set_axis_off()
                    continue
                _draw_panel(ax, cells, part.owner)
                noun = nouns(view.rows_of(records))
                ax.set_title(f"{DIVISIONS[division]}\n{n_train:,} training {noun}{_common_epsilon(part.answers)}")
            row[0].set_ylabel(score_label(view, records).replace("\n", ",\n"))
        for ax in axes.flat:
            ax.set_xlabel("Clients (log scale)")
        entries = shared_entries(axes.flat)
        hollow = "; open: as published, with the printed ±" if any(one.published for one in study.answers) else ""
        title = note(f"{interval_text((one.score for one in study.answers), 'bars and bands')}{hollow}")
        legend_below(drawing, list(entries.values()), labels=list(entries), ncols=3, title=title)
    return drawing


def _common_epsilon(answers: Sequence[Answer]) -> str:
    """Return the words about epsilon, if all arms have the same."""
    epsilons = {epsilon_label(one.epsilon) for one in answers}
    return f", ε {epsilons.pop()}" if len(epsilons) == 1 and all(one.private for one in answers) else ""


def _draw_panel(ax: Axes, cells: Sequence[Cell], centralized: Answer | None) -> None:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator([cell.clients for cell in cells]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    if centralized is not None:
        _draw_centralized(ax, centralized)
    for kind in SERIES:
        found = [(cell.clients, cell.answers[kind]) for cell in cells if kind in cell.answers]
        if found:
            counts, answers = zip(*found, strict=True)
            name, look = technique_name(answers[0].first), {**line_of(style_of(answers[0].first)), "markersize": 5.5}
            means = [one.score for one in answers]
            draw_estimates(ax, counts, means, label=name, elinewidth=1.0, zorder=4, **look)
            _draw_published(ax, found, name, look["color"])


def _draw_centralized(ax: Axes, centralized: Answer) -> None:
    """Draw centralized training as a line with a band; without privacy, a partition of one owner is ML as well."""
    name, colour = technique_name(centralized.first).replace(*ONE_OWNER), style_of(centralized.first).colour
    if centralized.first["topology"] == "independent":
        colour = COLOURS["centralized", "none"][0]
    ax.axhspan(*ends_of([centralized.score]), color=colour, alpha=0.12, linewidth=0)
    ax.axhline(100 * centralized.score.mean, color=colour, linewidth=1.1, label=f"{name}, one owner")
    theirs = centralized.published
    if theirs is not None and theirs.accuracy is not None:
        dashed: dict[str, Any] = {"color": colour, "linewidth": 1.0, "linestyle": (0, (3, 2))}
        ax.axhline(100 * theirs.accuracy, label=f"{theirs.paper}: {name}, one owner", **dashed)


def _draw_published(ax: Axes, found: Sequence[tuple[int, Answer]], name: str, colour: str) -> None:
    rows = [(clients, answer.published) for clients, answer in found if answer.published is not None]
    known = [(clients, row, row.accuracy) for clients, row in rows if row.accuracy is not None]
    if known:
        paper = known[0][1].paper
        ax.errorbar(
            [clients for clients, _, _ in known], [100 * accuracy for _, _, accuracy in known],
            yerr=[100 * (row.std or 0.0) for _, row, _ in known], color=colour, marker=published_style(paper).marker,
            markerfacecolor="white", markersize=8, linestyle=(0, (1, 1.6)), linewidth=1.0, elinewidth=0.8, capsize=2,
            zorder=3, label=f"{paper}: {name}",
        )  # fmt: skip


def _published_values(answers: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return each published accuracy and its ±, in percent."""
    rows = [answer.published for answer in answers if answer.published is not None]
    return [(100 * row.accuracy, 100 * (row.std or 0.0)) for row in rows if row.accuracy is not None]
