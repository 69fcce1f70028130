"""Who holds which labels: the partitions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppml.errors import UserError
from ppml.reporting.experiment_view import Selection, label_columns, require_arms
from ppml.reporting.style import figure_style, new_figure

PAGE_HEIGHT = 8.2
"""Inches that all panels may take together: what a page leaves beside title and legend."""

AROUND_PANEL = 0.75
"""Inches of a panel's title and axis."""

FONT_POINTS = 6.0
CHARACTER = 0.075
"""Inches that a digit needs inside its bar."""


def labels(selection: Selection, records: pd.DataFrame, clients: pd.DataFrame) -> Figure:
    """Draw each client's label histogram as a stacked bar, a panel a partition.

    Parameters
    ----------
    selection : Selection
        The arms; each partition that they train on is drawn once, as the first seed of the first such arm has it.
    records : pandas.DataFrame
        One row an arm and seed.
    clients : pandas.DataFrame
        One row an arm, seed and client, with the number of records of each label.

    Returns
    -------
    matplotlib.figure.Figure
        Clients from top to bottom, records from left to right; the length of a bar is the number of records.

    Raises
    ------
    UserError
        No arm has a partition, or an arm has no records or no clients.
    """
    require_arms(records, selection.arms, "records.csv")
    partitions = label_counts(selection, records, clients)
    columns = len(partitions) if len(partitions) <= 3 else 2
    heights = _row_heights(list(partitions.values()), columns)
    with figure_style():
        figure = new_figure(selection, records, sum(heights) + 1.0)
        axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        labels = len(label_columns(clients))
        palette = sns.color_palette("colorblind", labels).as_hex()
        for place, ax in enumerate(axes.flat):
            if place >= len(partitions):
                ax.set_axis_off()
                continue
            name = list(partitions)[place]
            row = heights[place // columns]
            _draw(ax, name, partitions[name], palette, width=5.6 / columns, height=row - AROUND_PANEL)
        handles, names = axes.flat[0].get_legend_handles_labels()
        seed = _first_seed(records, selection)
        figure.legend(
            handles, names, title=f"Label (partition of seed {seed})", loc="outside lower center", ncols=labels,
            handlelength=1, columnspacing=1.2,
        )  # fmt: skip
    return figure


def label_counts(selection: Selection, records: pd.DataFrame, clients: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the records of each client by label, for each partition that the arms use.

    Returns
    -------
    dict of str to pandas.DataFrame
        By partition; a row a client, in order, a column a label (``label_0`` and up); 0 for a label that its data lack.

    Raises
    ------
    UserError
        No arm has a partition, an arm has no clients, or the labels of a client do not add up to its records.
    """
    found: dict[str, pd.DataFrame] = {}
    for arm in selection.arms:
        rows = records[records["arm"] == arm].sort_values("seed", kind="stable")
        partition = rows["partition"].iloc[0]
        if pd.isna(partition) or partition in found:
            continue
        require_arms(clients, [arm], "clients.csv")
        mine = clients[(clients["arm"] == arm) & (clients["seed"] == rows["seed"].iloc[0])].sort_values("client")
        # Arms on other data may have more labels.
        counts = mine.set_index("client")[label_columns(clients)].fillna(0).astype("int64")
        wrong = mine[counts.sum(axis="columns").to_numpy() != mine["records"].to_numpy()]
        if not wrong.empty:
            raise UserError(
                f"clients.csv: arm {arm!r}: labels of client {wrong['client'].iloc[0]} do not add up to records"
            )
        found[str(partition)] = counts
    if not found:
        raise UserError(
            f"figure labels of {selection.title!r}: none of the arms {', '.join(selection.arms)} has clients; select "
            "one with a partition, or leave this figure out"
        )
    return found


def _first_seed(records: pd.DataFrame, selection: Selection) -> int:
    return int(records["seed"][records["arm"].isin(list(selection.arms)) & records["partition"].notna()].min())


def _row_heights(counts: list[pd.DataFrame], columns: int) -> list[float]:
    """Return the height in inches of each row of panels: its largest number of clients decides, and the page's end."""
    clients = [max(len(table) for table in counts[start : start + columns]) for start in range(0, len(counts), columns)]
    bars = [max(0.8, min(0.24, 3.6 / number) * number) for number in clients]
    page = PAGE_HEIGHT - AROUND_PANEL * len(bars)
    return [AROUND_PANEL + height * min(1.0, page / sum(bars)) for height in bars]


def _draw(ax: Axes, name: str, counts: pd.DataFrame, palette: list[str], *, width: float, height: float) -> None:
    places = np.arange(len(counts))
    left = np.zeros(len(counts))
    longest = float(counts.sum(axis="columns").max())
    tall_enough = 72 * 0.86 * height / len(counts) >= FONT_POINTS
    for digit, column in enumerate(counts.columns):
        sizes = counts[column].to_numpy(dtype=float)
        colour = palette[digit]
        ax.barh(places, sizes, left=left, height=0.86, color=colour, edgecolor="white", linewidth=0.4, label=str(digit))
        for place in places[(sizes / longest * width > CHARACTER) & tall_enough]:
            ax.text(
                left[place] + sizes[place] / 2, place, str(digit), ha="center", va="center_baseline",
                fontsize=FONT_POINTS, color=_ink(colour),
            )  # fmt: skip
        left += sizes
    ax.set_ylim(len(counts) - 0.5, -0.5)
    ax.set_xlim(0, longest * 1.01)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    step = max(1, math.ceil(len(counts) / (72 * height / 8)))
    ax.set_yticks(places[::step], counts.index.astype(str)[::step])
    ax.set_xlabel("Records")
    ax.set_ylabel("Client")
    ax.set_title(f"{name}: {len(counts)} clients")
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax)


def _ink(colour: str) -> str:
    """Return black or white, whichever is legible on ``colour``."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
