"""Epsilon of each client's training examples: the maximum and the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ppml.errors import UserError
from ppml.reporting.axes import LINEAR_RATIO, EpsilonScale, scale_epsilons
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.formatting import distinct, epsilon_bound, scientific, wrapped
from ppml.reporting.panels import annotate, legend_below, panels
from ppml.reporting.registry import figure
from ppml.reporting.summaries import ArmResult, arm_results
from ppml.reporting.technique_style import GREY

ROW_HEIGHT = 0.85
"""Inches of an arm."""

MARGIN = 1.05
"""Inches of title, axis and legend."""

COLOUR_BAR = 0.6
"""Inches of the scale of colours."""

LABEL_WIDTH = 26
"""Characters of a line of an arm's label."""

POINT = 4.2
"""Diameter of a client, in points."""

SWARM_HEIGHT = 34.0
"""Points of a row for its clients; if they need more, they overlap."""

MARK = 0.36
"""Distance from the middle of a row to the end of its mark, as a fraction of the row."""

AXIS_WIDTH = 4.6 * 72
"""Least length of the horizontal axis, in points."""

BLUE = "#0072B2"
COLOURS: Colormap = sns.color_palette("flare", as_cmap=True)
DOTTED = (0, (1, 1.5))
"""The line of a budget."""


PrivateClients = Sequence[tuple[ArmResult, pd.DataFrame]]
"""Arms, each with its rows of clients.csv, one for each client and seed."""


@figure("client_epsilon")
def draw_client_epsilon(view: ExperimentView, records: pd.DataFrame, clients: pd.DataFrame) -> Figure:
    """Draw the epsilon of each client's examples at the end of the training, a row for each arm with private clients.

    Returns
    -------
    matplotlib.figure.Figure
        A point is a client of a seed, its colour the number of its examples. A line across the row is the stated
        epsilon, the largest; a dotted one the budget.
    """
    arms = client_epsilons(view, records, clients)
    sizes = [int(size) for _, mine in arms for size in mine["records"]]
    norm = _norm(min(sizes), max(sizes))
    height = MARGIN + COLOUR_BAR * (norm is not None) + ROW_HEIGHT * len(arms)
    with panels(view, "ε of each client at the end", height) as (drawing, ax):
        budgets = [one.first["budget"] for one, _ in arms if pd.notna(one.first["budget"])]
        scale = scale_epsilons(ax, "x", [value for _, mine in arms for value in mine["epsilon"]], budgets)
        units = [str(one.first["privacy_unit"]) for one, _ in arms]
        names = distinct((one.first["accountant"] for one, _ in arms), str.upper)
        deltas = distinct((one.first["delta"] for one, _ in arms), scientific)
        shown = distinct(units, "one {}".format, " or ")
        ax.set_xlabel(f"ε of {shown} at the end of the training, {names}, δ = {deltas}{scale.note}")
        for row, (one, mine) in enumerate(arms):
            _draw_marks(ax, one, row, scale)
            _draw_clients(ax, mine, row, scale, norm)
        mixed = len(set(units)) > 1
        labels = [
            wrapped(one.label, LABEL_WIDTH) + f"\n(of one {unit})" * mixed
            for (one, _), unit in zip(arms, units, strict=True)
        ]
        ax.set_yticks(range(len(arms)), labels)
        ax.set_ylim(len(arms) - 0.5, -0.6)
        ax.grid(axis="y", visible=False)
        if norm is not None:
            _colour_bar(drawing, ax, norm)
        _legend(drawing, bool(budgets), None if norm else sizes[0])
    return drawing


def client_epsilons(view: ExperimentView, records: pd.DataFrame, clients: pd.DataFrame) -> PrivateClients:
    """Return the arms with private clients, and their clients by seed.

    Raises
    ------
    UserError
        An arm has no result rows or no clients, no arm has private clients, or the largest epsilon of the clients
        differs from the stated one.
    """
    found = []
    for one in arm_results(view, records):
        if not one.private or one.rows["partition"].isna().any():
            continue
        require_arms(clients, [one.arm], "clients.csv")
        mine = clients[clients["arm"] == one.arm].sort_values(["seed", "client"], kind="stable")
        # Client-level privacy can have one epsilon for all clients and none for each.
        if one.first["privacy_unit"] == "client" and mine["epsilon"].isna().all():
            continue
        _require_stated_maximum(one, mine)
        found.append((one, mine))
    view.require(
        found,
        "figure client_epsilon",
        "has private clients; select one with a partition and `privacy.kind: example`, or remove this figure",
    )
    return found


def _require_stated_maximum(one: ArmResult, clients: pd.DataFrame) -> None:
    for seed, stated in zip(one.rows["seed"], one.rows["epsilon"], strict=True):
        # skipna=False: a client without an epsilon must not count as a client with epsilon 0.
        largest = clients["epsilon"][clients["seed"] == seed].max(skipna=False)
        if not np.isclose(largest, stated, rtol=1e-9, atol=0.0):
            raise UserError(
                f"clients.csv: arm {one.arm!r}: the largest epsilon of the clients of seed {seed} is {largest:g}, and "
                f"records.csv states {stated:g}"
            )


def _norm(smallest: int, largest: int) -> Normalize | None:
    """Return the scale of the colours, None if all clients have the same number of examples."""
    if smallest == largest:
        return None
    return (LogNorm if largest > LINEAR_RATIO * smallest > 0 else Normalize)(smallest, largest)


def _draw_marks(ax: Axes, one: ArmResult, row: int, scale: EpsilonScale) -> None:
    """Draw the stated epsilon and the budget, with their numbers."""
    stated, budget = scale.place(one.epsilon), one.first["budget"]
    top, bottom = row - MARK, row + MARK
    # The line is behind the clients: with equal epsilons it must not hide them.
    ax.plot([stated] * 2, [bottom, top], color="black", linewidth=1.3, zorder=2)
    # A white box keeps the lines of the grid out of the number.
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    look: dict[str, Any] = {"va": "bottom", "annotation_clip": False, "bbox": box}
    # The budget is at least the stated epsilon: its number is on the right.
    offset, side = ((0, 1), "center") if pd.isna(budget) else ((-1, 1), "right")
    annotate(ax, epsilon_bound(one.epsilon), (stated, top), offset, ha=side, **look)
    if pd.notna(budget):
        ax.plot([budget] * 2, [bottom, top], color=GREY, linewidth=1.1, linestyle=DOTTED, zorder=2)
        annotate(ax, f"budget {budget:g}", (budget, top), (2, 1), ha="left", color=GREY, **look)


def _draw_clients(ax: Axes, clients: pd.DataFrame, row: int, scale: EpsilonScale, norm: Normalize | None) -> None:
    # Equal epsilons in the order of the sizes, so that the colours of a column are in order.
    ordered = clients.assign(across=clients["epsilon"].map(scale.place)).sort_values(["across", "records"])
    across = ordered["across"].to_numpy(dtype=float)
    fractions = (ax.transScale + ax.transLimits).transform(np.column_stack([across, np.zeros_like(across)]))[:, 0]
    heights, gap = swarm_heights(fractions * AXIS_WIDTH)
    look: dict[str, Any] = {"color": BLUE}
    if norm is not None:
        look = {"c": ordered["records"].to_numpy(), "cmap": COLOURS, "norm": norm}
    # White edges would change the colour of points that overlap.
    edges = np.where(gap > 1.0, 0.3, 0.0).tolist()
    up = row - heights / (72 * ROW_HEIGHT)
    ax.scatter(across, up, s=POINT**2, clip_on=False, zorder=3, edgecolors="white", linewidths=edges, **look)


def swarm_heights(places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the height of each point above the middle of its row, and the room that it has, in points.

    Seaborn's swarmplot needs minutes for thousands of points, and piles them up at the ends of a row.

    Parameters
    ----------
    places : numpy.ndarray
        Positions across, in points, in ascending order.

    Examples
    --------
    >>> swarm_heights(np.array([0.0, 1.0, 1.0, 9.0]))[0].tolist()
    [0.0, 4.2, -4.2, 0.0]
    """
    heights, gaps = np.zeros(len(places)), np.full(len(places), POINT)
    for crowd in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) >= POINT) + 1):
        ends: list[float] = []
        lanes = []
        for place in places[crowd]:
            # The free lane that is nearest to the middle: 0, 1, -1, 2, -2, ...
            lane = next((lane for lane, end in enumerate(ends) if end + POINT <= place), len(ends))
            ends[lane : lane + 1] = [place]
            lanes.append((lane + 1) // 2 if lane % 2 else -(lane // 2))
        gaps[crowd] = min(POINT, SWARM_HEIGHT / max(1, np.ptp(lanes)))
        heights[crowd] = (np.array(lanes) - (max(lanes) + min(lanes)) // 2) * gaps[crowd]
    return heights, gaps


def _colour_bar(drawing: Figure, ax: Axes, norm: Normalize) -> None:
    bar = drawing.colorbar(ScalarMappable(norm, COLOURS), ax=ax, location="bottom", aspect=36, shrink=0.62, pad=0.03)
    if isinstance(norm, LogNorm):
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        bar.ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar.set_label("Training examples of the client" + (" (log scale)" if isinstance(norm, LogNorm) else ""))
    # Viewers of SVG show white seams between areas without edges.
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")


def _legend(drawing: Figure, budgets: bool, size: int | None) -> None:
    each = "" if size is None else f", {size:,} examples each"
    client: dict[str, Any] = {"marker": "o", "markersize": POINT, "color": GREY if size is None else BLUE}
    stated: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 1.3, "color": "black"}
    handles = [
        Line2D([], [], linestyle="none", label=f"a client of a seed{each}", **client),
        Line2D([], [], linestyle="none", label="ε stated: the largest over clients and seeds", **stated),
        *([Line2D([], [], linestyle=DOTTED, linewidth=1.1, color=GREY, label="budget")] if budgets else []),
    ]
    legend_below(drawing, handles, ncols=len(handles), columnspacing=1.5)
