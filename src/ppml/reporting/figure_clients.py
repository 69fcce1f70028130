"""Accuracy against the number of clients: each alone, all together, and one owner of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ppml.reporting.accuracy_axis import accuracy_label, error_axis
from ppml.reporting.client_grid import ALONE, DIVISIONS, SERIES, Answer, Cell, client_study
from ppml.reporting.experiment_view import Selection
from ppml.reporting.literature import PublishedRow
from ppml.reporting.statistics import Estimate, estimate
from ppml.reporting.style import HUES, figure_style, new_figure

PANEL_HEIGHT = 2.7
LOOKS = {
    "none": (HUES[0], "o"),
    ALONE: (HUES[1], "s"),
    "shares": (HUES[0], "o"),
    "owner": (HUES[1], "s"),
    "server": (HUES[2], "D"),
}
"""Colour and marker of each series."""
OWNER_COLOUR = HUES[6]


def clients(selection: Selection, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Figure:
    """Draw accuracy on the whole test set against the number of clients.

    Parameters
    ----------
    selection : Selection
        The arms; ``compare`` names the published row of the same setting.
    records : pandas.DataFrame
        One row an arm and seed.
    published : mapping of str to PublishedRow
        As `ppml.reporting.literature.load_published` returns it.

    Returns
    -------
    matplotlib.figure.Figure
        A row of panels a data size, a panel a division; filled points are ours with their 95 % interval, hollow ones
        the paper's with its ±; horizontal lines are one owner of everything. The axis is logarithmic in the error.

    Raises
    ------
    UserError
        See :func:`~ppml.reporting.client_grid.client_study`.
    """
    study = client_study(selection, records, published)
    sizes = list(dict.fromkeys(cell.n_train for cell in study.cells))
    divisions = list(dict.fromkeys(cell.division for cell in study.cells))
    with figure_style():
        figure = new_figure(selection, records, PANEL_HEIGHT * len(sizes) + 0.9)
        axes = figure.subplots(len(sizes), len(divisions), squeeze=False, sharey="row")
        for row, n_train in zip(axes, sizes, strict=True):
            owner = study.one_owner.get(n_train)
            mine = [cell for cell in study.cells if cell.n_train == n_train]
            error_axis(row[0], _heights(mine, owner))
            for ax, division in zip(row, divisions, strict=True):
                here = [cell for cell in mine if cell.division == division]
                if not here:
                    ax.set_axis_off()
                    continue
                _panel(ax, here, owner)
                ax.set_title(f"{DIVISIONS[division]}\n{n_train:,} training images")
                sns.despine(ax=ax)
            row[0].set_ylabel(accuracy_label(selection, records).replace("\n", ",\n"))
        for ax in axes.flat:
            ax.set_xlabel("Clients (log scale)")
        handles = {
            label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        published_there = any(answer.published for answer in study.answers)
        hollow = "; hollow: as published, with the ± printed there" if published_there else ""
        figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=3,
            title=f"Mean over seeds with its 95 % interval{hollow}",
        )  # fmt: skip
    return figure


def _panel(ax: Axes, cells: Sequence[Cell], owner: Answer | None) -> None:
    counts = [cell.clients for cell in cells]
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(counts))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    if owner is not None:
        ours = _ours(owner)
        ax.axhspan(100 * ours.low, 100 * ours.high, color=OWNER_COLOUR, alpha=0.12, linewidth=0)
        ax.axhline(100 * ours.mean, color=OWNER_COLOUR, linewidth=1.1, label="One owner of all images")
        if owner.published is not None and owner.published.accuracy is not None:
            ax.axhline(
                100 * owner.published.accuracy, color=OWNER_COLOUR, linewidth=1.0, linestyle=(0, (3, 2)),
                label=f"{owner.published.paper}: one owner",
            )  # fmt: skip
    for kind, (colour, marker) in LOOKS.items():
        label = SERIES[kind]
        found = [(cell.clients, cell.answers[kind]) for cell in cells if kind in cell.answers]
        if found:
            _ours_line(ax, found, label, colour, marker)
            _their_line(ax, found, label, colour, marker)


def _ours_line(ax: Axes, found: Sequence[tuple[int, Answer]], label: str, colour: str, marker: str) -> None:
    points = [(clients, _ours(answer)) for clients, answer in found]
    means = [100 * point.mean for _, point in points]
    reach = [
        [100 * (point.mean - point.low) for _, point in points],
        [100 * (point.high - point.mean) for _, point in points],
    ]
    ax.errorbar(
        [clients for clients, _ in points], means, yerr=reach, color=colour, marker=marker, label=label, capsize=2.5,
        elinewidth=1.0, markersize=5, zorder=4,
    )  # fmt: skip


def _their_line(ax: Axes, found: Sequence[tuple[int, Answer]], label: str, colour: str, marker: str) -> None:
    rows = [(clients, answer.published) for clients, answer in found if answer.published is not None]
    known = [(clients, row, row.accuracy) for clients, row in rows if row.accuracy is not None]
    if not known:
        return
    ax.errorbar(
        [clients for clients, _, _ in known], [100 * accuracy for _, _, accuracy in known],
        yerr=[100 * (row.std or 0.0) for _, row, _ in known], color=colour, marker=marker, markerfacecolor="white",
        linestyle=(0, (1, 1.6)), linewidth=1.0, elinewidth=0.8, capsize=2, markersize=5, zorder=3,
        label=f"{known[0][1].paper}: {label if label.startswith('FL') else label[0].lower() + label[1:]}",
    )  # fmt: skip


def _ours(answer: Answer) -> Estimate:
    return estimate(answer.rows["accuracy_all"], trials=int(answer.rows["n_test_all"].iloc[0]))


def _heights(cells: Sequence[Cell], owner: Answer | None) -> list[float]:
    """Return everything that a row of panels shows, in percent."""
    answers = [answer for cell in cells for answer in cell.answers.values()] + ([owner] if owner else [])
    shown = []
    for answer in answers:
        found = _ours(answer)
        shown += [100 * found.low, 100 * found.high]
        if answer.published is not None and answer.published.accuracy is not None:
            spread = answer.published.std or 0.0
            shown += [100 * (answer.published.accuracy - spread), 100 * (answer.published.accuracy + spread)]
    return shown
