"""The partitions: the number of examples of each label at each client."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, label_columns, require_arms
from ppml.reporting.panels import legend_below, panels
from ppml.reporting.registry import figure
from ppml.reporting.summaries import rows_for_arm

PAGE_HEIGHT = 8.2
"""Inches of a page for all panels together, without title and legend."""

PANEL_MARGIN = 0.75
"""Inches of a panel's title and axis."""

FONT_POINTS = 6.0
CHARACTER = 0.075
"""Inches of a character inside a bar."""

LEGEND_CHARACTERS = 60
"""Characters of the labels in a line of the legend, two more for each label."""


@figure("labels")
def draw_labels(view: ExperimentView, records: pd.DataFrame, clients: pd.DataFrame, classes: pd.DataFrame) -> Figure:
    """Draw each client's label histogram as a stacked bar, a panel for each partition of the arms, of its first seed.

    Returns
    -------
    matplotlib.figure.Figure
        Clients from top to bottom, examples from left to right; the length of a bar is the number of examples.
    """
    require_arms(records, view.arms, "records.csv")
    partitions = label_counts(view, records, clients, classes)
    columns = len(partitions) if len(partitions) <= 3 else 2
    heights = _row_heights(list(partitions.values()), columns)
    palette = label_palette(max(len(counts.columns) for counts in partitions.values()))
    layout: dict[str, Any] = {"rows": len(heights), "columns": columns, "height_ratios": heights, "squeeze": False}
    with panels(view, "labels of each client", sum(heights) + 1.0, **layout) as (drawing, axes):
        for ax in axes.flat[len(partitions) :]:
            ax.set_axis_off()
        for place, (name, counts) in enumerate(partitions.items()):
            height = heights[place // columns] - PANEL_MARGIN
            _draw_bars(axes.flat[place], name, counts, palette, width=5.6 / columns, height=height)
        largest = max(range(len(partitions)), key=lambda place: len([*partitions.values()][place].columns))
        handles, names = axes.flat[largest].get_legend_handles_labels()
        seed = int(view.rows_of(records[records["partition"].notna()])["seed"].min())
        entries = max(1, min(len(names), LEGEND_CHARACTERS // (2 + max(map(len, names)))))
        title = f"Label (partition of seed {seed})"
        legend_below(drawing, handles, title=title, ncols=entries, handlelength=1, columnspacing=1.2)
    return drawing


def label_palette(count: int) -> list[str]:
    """Return a colour for each label, in hexadecimal: for colour-blind readers, or evenly spaced hues for many."""
    palette = sns.color_palette("colorblind")
    return list(palette.as_hex()[:count] if count <= len(palette) else sns.husl_palette(count, l=0.6).as_hex())


def label_counts(
    view: ExperimentView, records: pd.DataFrame, clients: pd.DataFrame, classes: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the number of examples of each client by class, for each partition of the arms.

    Returns
    -------
    dict of str to pandas.DataFrame
        By partition; a row for each client, a column for each class; 0 for a class without an example.

    Raises
    ------
    UserError
        No arm has a partition, an arm has no clients, or the labels of a client do not add up to its examples.
    """
    found: dict[str, pd.DataFrame] = {}
    for arm in view.arms:
        rows = rows_for_arm(records, arm)
        partition = rows["partition"].iloc[0]
        if pd.isna(partition) or partition in found:
            continue
        require_arms(clients, [arm], "clients.csv")
        mine = clients[(clients["arm"] == arm) & (clients["seed"] == rows["seed"].iloc[0])].sort_values("client")
        names = classes[(classes["arm"] == arm) & (classes["seed"] == rows["seed"].iloc[0])]["class"].astype(str)
        # Arms on other data may have more labels.
        counts = mine.set_index("client")[label_columns(clients)].fillna(0).astype("int64")
        counts = counts.iloc[:, : len(names)].set_axis([*names], axis="columns")
        if "name" in mine and mine["name"].notna().all():
            counts.index = pd.Index(mine["name"].astype(str))
        wrong = mine[counts.sum(axis="columns").to_numpy() != mine["records"].to_numpy()]
        if not wrong.empty:
            raise UserError(
                f"clients.csv: arm {arm!r}: labels of client {wrong['client'].iloc[0]} do not add up to records"
            )
        found[str(partition)] = counts
    view.require(found, "figure labels", "has clients; select one with a partition, or remove this figure")
    return found


def _row_heights(counts: list[pd.DataFrame], columns: int) -> list[float]:
    """Return the height in inches of each row of panels, by its largest number of clients and the page."""
    clients = [max(len(table) for table in counts[start : start + columns]) for start in range(0, len(counts), columns)]
    bars = [max(0.8, min(0.24, 3.6 / number) * number) for number in clients]
    page = PAGE_HEIGHT - PANEL_MARGIN * len(bars)
    return [PANEL_MARGIN + height * min(1.0, page / sum(bars)) for height in bars]


def _draw_bars(ax: Axes, name: str, counts: pd.DataFrame, palette: list[str], *, width: float, height: float) -> None:
    places = np.arange(len(counts))
    left = np.zeros(len(counts))
    longest = float(counts.sum(axis="columns").max())
    tall_enough = 72 * 0.86 * height / len(counts) >= FONT_POINTS
    for column, colour in zip(counts.columns, palette, strict=False):
        label = str(column)
        sizes = counts[column].to_numpy(dtype=float)
        ax.barh(places, sizes, left=left, height=0.86, color=colour, edgecolor="white", linewidth=0.4, label=label)
        for place in places[(sizes / longest * width > CHARACTER * len(label)) & tall_enough]:
            ax.text(
                left[place] + sizes[place] / 2, place, label, ha="center", va="center_baseline",
                fontsize=FONT_POINTS, color=_text_colour(colour),
            )  # fmt: skip
        left += sizes
    ax.set_ylim(len(counts) - 0.5, -0.5)
    ax.set_xlim(0, longest * 1.01)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    step = max(1, math.ceil(len(counts) / (72 * height / 8)))
    ax.set_yticks(places[::step], counts.index.astype(str)[::step])
    ax.set_xlabel("Training examples")
    ax.set_ylabel("Client")
    ax.set_title(partition_title(name, len(counts)))
    ax.grid(axis="y", visible=False)


def partition_title(name: str, clients: int) -> str:
    """Return a partition in words, from its name in records.csv.

    Examples
    --------
    >>> partition_title("dirichlet-8-0.5", 8), partition_title("shards-4-2-250", 4)
    ('8 clients, Dirichlet(0.5)', '4 clients, 2 shards each')
    """
    kind, *numbers = name.split("-")
    if kind == "natural":
        # The name of the column, perhaps followed by a digest of the chosen groups.
        return f"{clients} clients, by {numbers[0]}"
    parameter = numbers[1] if len(numbers) > 1 else ""
    words = {"iid": "IID", "shards": f"{parameter} shards each", "dirichlet": f"Dirichlet({parameter})"}
    return f"{clients} clients, {words.get(kind, name)}"


def _text_colour(colour: str) -> str:
    """Return black or white, by their contrast to ``colour``."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
