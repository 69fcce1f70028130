"""Accuracy against the number of clients: independent, federated and centralized training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ppml.reporting.axes import accuracy_label, error_axis
from ppml.reporting.client_grid import DIVISIONS, INDEPENDENT, SERIES, Answer, Cell, client_study
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.literature import PublishedRow
from ppml.reporting.panels import draw_estimates, ends_of, legend_below, panels, shared_entries
from ppml.reporting.registry import figure
from ppml.reporting.style import HUES

PANEL_HEIGHT = 2.7
LOOKS = {
    "none": (HUES[0], "o"),
    INDEPENDENT: (HUES[1], "s"),
    "distributed": (HUES[0], "o"),
    "local": (HUES[1], "s"),
    "central": (HUES[2], "D"),
}
"""Colour and marker of each series."""
CENTRALIZED_COLOUR = HUES[6]


@figure("clients")
def draw_clients(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against the number of clients.

    Returns
    -------
    matplotlib.figure.Figure
        A row of panels for each data size, a panel for each division; filled points are ours with their 95 % interval,
        hollow ones the paper's with its ±; horizontal lines are centralized training. The axis is logarithmic in the
        error.
    """
    study = client_study(view, records, published)
    parts = {n_train: part for n_train, part in study.parts.items() if part.cells}
    divisions = list(dict.fromkeys(cell.division for cell in study.cells))
    layout: dict[str, Any] = {"rows": len(parts), "columns": len(divisions), "sharey": "row", "squeeze": False}
    with panels(view, records, PANEL_HEIGHT * len(parts) + 0.9, **layout) as (drawing, axes):
        for row, (n_train, part) in zip(axes, parts.items(), strict=True):
            error_axis(row[0], _heights(part.answers))
            for ax, division in zip(row, divisions, strict=True):
                cells = [cell for cell in part.cells if cell.division == division]
                if not cells:
                    ax.set_axis_off()
                    continue
                _draw_panel(ax, cells, part.owner)
                ax.set_title(f"{DIVISIONS[division]}\n{n_train:,} training images")
            row[0].set_ylabel(accuracy_label(view, records).replace("\n", ",\n"))
        for ax in axes.flat:
            ax.set_xlabel("Clients (log scale)")
        entries = shared_entries(axes.flat)
        hollow = "; hollow: as published, with the printed ±" if any(one.published for one in study.answers) else ""
        title = f"Mean over seeds with its 95 % interval{hollow}"
        legend_below(drawing, list(entries.values()), labels=list(entries), ncols=3, title=title)
    return drawing


def _draw_panel(ax: Axes, cells: Sequence[Cell], centralized: Answer | None) -> None:
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator([cell.clients for cell in cells]))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    if centralized is not None:
        ax.axhspan(*ends_of([centralized.accuracy]), color=CENTRALIZED_COLOUR, alpha=0.12, linewidth=0)
        ax.axhline(100 * centralized.accuracy.mean, color=CENTRALIZED_COLOUR, linewidth=1.1, label="Centralized")
        theirs = centralized.published
        if theirs is not None and theirs.accuracy is not None:
            dashed: dict[str, Any] = {"color": CENTRALIZED_COLOUR, "linewidth": 1.0, "linestyle": (0, (3, 2))}
            ax.axhline(100 * theirs.accuracy, label=f"{theirs.paper}: centralized", **dashed)
    for kind, (colour, marker) in LOOKS.items():
        found = [(cell.clients, cell.answers[kind]) for cell in cells if kind in cell.answers]
        if found:
            counts, answers = zip(*found, strict=True)
            look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
            means = [one.accuracy for one in answers]
            draw_estimates(ax, counts, means, label=SERIES[kind], elinewidth=1.0, zorder=4, **look)
            _draw_published(ax, found, SERIES[kind], look)


def _draw_published(ax: Axes, found: Sequence[tuple[int, Answer]], label: str, look: Mapping[str, Any]) -> None:
    rows = [(clients, answer.published) for clients, answer in found if answer.published is not None]
    known = [(clients, row, row.accuracy) for clients, row in rows if row.accuracy is not None]
    if known:
        name = label if label.startswith("FL") else label.lower()
        ax.errorbar(
            [clients for clients, _, _ in known], [100 * accuracy for _, _, accuracy in known],
            yerr=[100 * (row.std or 0.0) for _, row, _ in known], markerfacecolor="white", linestyle=(0, (1, 1.6)),
            linewidth=1.0, elinewidth=0.8, capsize=2, zorder=3, label=f"{known[0][1].paper}: {name}", **look,
        )  # fmt: skip


def _heights(answers: Sequence[Answer]) -> list[float]:
    """Return all values of a row of panels, in percent."""
    shown = ends_of(answer.accuracy for answer in answers)
    for answer in answers:
        if answer.published is not None and answer.published.accuracy is not None:
            spread = answer.published.std or 0.0
            shown += [100 * (answer.published.accuracy - spread), 100 * (answer.published.accuracy + spread)]
    return shown
