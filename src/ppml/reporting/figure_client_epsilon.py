"""Epsilon that each client's records have spent: the maximum, and how it is distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
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
from ppml.reporting.epsilon_axis import EpsilonScale, has_logarithm
from ppml.reporting.experiment_view import Selection, require_arms
from ppml.reporting.formatting import epsilon_bound, scientific, wrapped
from ppml.reporting.style import HUES, figure_style, new_figure
from ppml.reporting.summaries import rows_of

Vector = NDArray[np.float64]

SPREAD = 5.0
"""Above this ratio of the largest to the smallest above 0, a scale is logarithmic."""

AROUND = 1.05
"""Inches of title, axis and legend."""

COLOUR_BAR = 0.6
"""Inches of the scale of colours."""

LABEL_WIDTH = 26
"""Characters of an arm's label on a line."""

LINE_HEIGHT = 9.5
"""What a line of a label takes, in points, as all lengths along the vertical axis."""

POINT = 4.2
"""Diameter of a client."""

SWARM_HEIGHT = 34.0
"""What the clients of an arm may take; where they need more, they overlap."""

LEAST_HEIGHT = 14.0
OVERHANG = 3.0
"""How far the mark of the maximum goes beyond the clients, above and below."""

NUMBER_HEIGHT = 16.0
"""What the number above the mark and the gap between rows take."""

AXIS_WIDTH = 4.6 * 72
"""What the horizontal axis has at least, beside the labels."""

GREY = "#555555"


@dataclass(frozen=True)
class Spent:
    """What the clients of an arm have spent: one value a client and seed, in ``epsilons`` and in ``sizes``.

    ``stated`` is the largest epsilon, and ``stands`` where it is on the axis.
    """

    label: str
    unit: str
    epsilons: tuple[float, ...]
    sizes: tuple[int, ...]
    stated: float
    stands: float
    budget: float | None
    delta: float
    accountant: str


@dataclass(frozen=True)
class Swarm:
    """How far above the middle of its row each client stands, and the room that it has there, in points."""

    heights: Vector
    gaps: Vector

    @property
    def reach(self) -> float:
        """How far the mark of the maximum goes up and down."""
        return max(LEAST_HEIGHT, float(np.ptp(self.heights)) + POINT) / 2 + OVERHANG


def client_epsilon(selection: Selection, records: pd.DataFrame, clients: pd.DataFrame) -> Figure:
    """Draw the epsilon that each client's records have spent at the end of the training, a row an arm.

    Parameters
    ----------
    selection : Selection
        The arms, from top to bottom; those without private clients are left out.
    records : pandas.DataFrame
        One row an arm and seed.
    clients : pandas.DataFrame
        One row an arm, seed and client, with the number of its records and its epsilon.

    Returns
    -------
    matplotlib.figure.Figure
        A point is a client of a seed, its colour the number of its records; points that would hide each other stand
        one above the other. A line across the row is the epsilon that is stated, the largest; a dotted one the budget.

    Raises
    ------
    UserError
        See :func:`clients_spent`.
    """
    arms = clients_spent(selection, records, clients)
    sizes = [size for arm in arms for size in arm.sizes]
    norm = _norm(min(sizes), max(sizes))
    with figure_style():
        figure = new_figure(selection, records, 1.0)
        ax = figure.subplots()
        arms = _placed(arms, _epsilon_axis(ax, arms))
        swarms = [_swarm(ax, arm) for arm in arms]
        places, total = _rows(ax, arms, swarms)
        figure.set_figheight(AROUND + COLOUR_BAR * (norm is not None) + total / 72)
        for arm, place, swarm in zip(arms, places, swarms, strict=True):
            _draw(ax, arm, place, swarm, norm)
        if norm is not None:
            _colour_bar(figure, ax, norm, pad=8 / total)
        _legend(figure, arms, None if norm else sizes[0])
        sns.despine(ax=ax)
    return figure


def clients_spent(selection: Selection, records: pd.DataFrame, clients: pd.DataFrame) -> list[Spent]:
    """Return what the clients of each arm have spent, for the arms that have private clients.

    Raises
    ------
    UserError
        An arm has no records or no clients, none of them has private clients, or the largest epsilon of the clients is
        not the one that is stated.
    """
    require_arms(records, selection.arms, "records.csv")
    found = []
    for arm, label in selection.arms.items():
        seeds = rows_of(records, arm)
        if (seeds["privacy_unit"] == "none").any() or seeds["partition"].isna().any():
            continue
        require_arms(clients, [arm], "clients.csv")
        mine = clients[clients["arm"] == arm].sort_values(["seed", "client"], kind="stable")
        first = seeds.iloc[0]
        # Where whole clients are hidden, there may be one epsilon of all of them and none of each.
        if first["privacy_unit"] == "client" and mine["epsilon"].isna().all():
            continue
        _require_the_stated_maximum(arm, seeds, mine)
        found.append(
            Spent(
                label=label,
                unit=str(first["privacy_unit"]),
                epsilons=tuple(map(float, mine["epsilon"])),
                sizes=tuple(map(int, mine["records"])),
                stated=float(seeds["epsilon"].max()),
                stands=float(seeds["epsilon"].max()),
                budget=None if pd.isna(first["budget"]) else float(first["budget"]),
                delta=float(first["delta"]),
                accountant=str(first["accountant"]),
            )
        )
    if not found:
        raise UserError(
            f"figure client_epsilon of {selection.title!r}: none of the arms {', '.join(selection.arms)} has private "
            "clients; select one with a partition and `privacy.kind: example`, or leave this figure out"
        )
    return found


def _require_the_stated_maximum(arm: str, seeds: pd.DataFrame, clients: pd.DataFrame) -> None:
    for seed, stated in zip(seeds["seed"], seeds["epsilon"], strict=True):
        # A client without an epsilon must not pass for one that has spent nothing.
        largest = clients["epsilon"][clients["seed"] == seed].max(skipna=False)
        if not np.isclose(largest, stated, rtol=1e-9, atol=0.0):
            raise UserError(
                f"clients.csv: arm {arm!r}: the largest epsilon of the clients of seed {seed} is {largest:g}, and "
                f"records.csv states {stated:g}"
            )


def _norm(smallest: int, largest: int) -> Normalize | None:
    """Return the scale of the colours, None where all clients have as many records."""
    if smallest == largest:
        return None
    return (LogNorm if largest > SPREAD * smallest > 0 else Normalize)(smallest, largest)


def _epsilon_axis(ax: Axes, arms: Sequence[Spent]) -> EpsilonScale | None:
    """Scale the axis of epsilon; return the scale where it is logarithmic, None where 0 is an end of it."""
    epsilons = [value for arm in arms for value in arm.epsilons]
    shown = [*epsilons, *(arm.budget for arm in arms if arm.budget is not None)]
    finite = [value for value in epsilons if has_logarithm([value])]
    logarithmic = any(map(math.isinf, epsilons)) or (bool(finite) and max(finite) > SPREAD * min(finite))
    scale = None
    if logarithmic:
        # An infinite one alone leaves nothing to take the room from.
        ends = [value for value in shown if has_logarithm([value])] or [1.0]
        scale = EpsilonScale.of(shown, room=max(1.05, (max(ends) / min(ends)) ** 0.06))
        scale.draw(ax, "x", (1, 2, 3, 5), ticks=has_logarithm(shown))
    else:
        # Half a point must not be cut off where it stands at zero.
        top = max(shown) or 1.0
        ax.set_xlim(-0.01 * top, 1.06 * top)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    units = " or ".join(f"one {unit}" for unit in dict.fromkeys(arm.unit for arm in arms))
    names = ", ".join(dict.fromkeys(arm.accountant.upper() for arm in arms))
    deltas = ", ".join(scientific(delta) for delta in dict.fromkeys(arm.delta for arm in arms))
    said = " (log scale)" if scale else ""
    ax.set_xlabel(f"ε of {units} at the end of the training, {names}, δ = {deltas}{said}")
    return scale


def _placed(arms: Sequence[Spent], scale: EpsilonScale | None) -> list[Spent]:
    """Return the arms with where each epsilon stands on the axis in its place; what is written of it stays."""
    place = scale.place if scale else float
    return [replace(arm, epsilons=tuple(map(place, arm.epsilons)), stands=place(arm.stated)) for arm in arms]


def _swarm(ax: Axes, arm: Spent) -> Swarm:
    """Place the clients of an arm so that none hides another, as long as there is room."""
    epsilons = np.array(arm.epsilons)
    shares = (ax.transScale + ax.transLimits).transform(np.column_stack([epsilons, np.zeros_like(epsilons)]))[:, 0]
    # By records where the epsilon is the same, so that the colours of a column are in order.
    order = np.lexsort(np.array([arm.sizes, epsilons]))
    heights, gaps = np.zeros(len(order)), np.full(len(order), POINT)
    apart = np.flatnonzero(np.diff(shares[order]) * AXIS_WIDTH >= POINT) + 1
    for crowd in np.split(order, apart):
        lanes = _lanes(shares[crowd] * AXIS_WIDTH)
        gaps[crowd] = min(POINT, SWARM_HEIGHT / max(1, np.ptp(lanes)))
        heights[crowd] = (lanes - (lanes.max() + lanes.min()) / 2) * gaps[crowd]
    return Swarm(heights, gaps)


def _lanes(places: Vector) -> Vector:
    """Return a lane for each of ``places``, from left to right: the free one that is nearest to the middle.

    Examples
    --------
    >>> _lanes(np.array([0.0, 1.0, 1.0, 1.0, 9.0])).tolist()
    [0.0, 1.0, -1.0, 2.0, 0.0]
    """
    ends: list[float] = []
    taken = []
    for place in places:
        lane = next((lane for lane, end in enumerate(ends) if end + POINT <= place), len(ends))
        ends[lane : lane + 1] = [place]
        taken.append((lane + 1) // 2 if lane % 2 else -(lane // 2))
    return np.array(taken, dtype=float)


def _rows(ax: Axes, arms: Sequence[Spent], swarms: Sequence[Swarm]) -> tuple[list[float], float]:
    """Lay out the rows from top to bottom, and return the middle of each and the height of all."""
    mixed = len({arm.unit for arm in arms}) > 1
    names = [wrapped(arm.label, LABEL_WIDTH) + f"\n(of one {arm.unit})" * mixed for arm in arms]
    labels = [LINE_HEIGHT * (1 + name.count("\n")) / 2 for name in names]
    halves = [max(swarm.reach, label) for swarm, label in zip(swarms, labels, strict=True)]
    # The number stands above the clients, and is not counted to the middle.
    ends = list(accumulate(2 * half + NUMBER_HEIGHT for half in halves))
    places = [end - half for end, half in zip(ends, halves, strict=True)]
    total = ends[-1] + NUMBER_HEIGHT / 2
    ax.set_ylim(total, 0)
    ax.set_yticks(places, names)
    ax.grid(axis="y", visible=False)
    return places, total


def _draw(ax: Axes, arm: Spent, place: float, swarm: Swarm, norm: Normalize | None) -> None:
    top, bottom = place - swarm.reach, place + swarm.reach
    # One after the other from below, and where many overlap without white edges: these would change their colour.
    order = np.argsort(swarm.heights, kind="stable")
    look: dict[str, Any] = {"color": HUES[0]}
    if norm is not None:
        look = {"c": np.array(arm.sizes)[order], "cmap": _colours(), "norm": norm}
    ax.scatter(
        np.array(arm.epsilons)[order], place - swarm.heights[order], s=POINT**2, clip_on=False, zorder=3,
        edgecolors="white", linewidths=np.where(swarm.gaps[order] > 1.0, 0.3, 0.0).tolist(), **look,
    )  # fmt: skip
    # Behind the clients: where all have spent the same, the line must not hide them.
    ax.plot([arm.stands] * 2, [bottom, top], color="black", linewidth=1.3, zorder=2)
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": 7, "annotation_clip": False}
    # A line of the grid must not cross the number.
    beside["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    number = epsilon_bound(arm.stated)
    if arm.budget is None:
        ax.annotate(number, (arm.stands, top), (0, 1), ha="center", **beside)
        return
    # The budget is never below what was spent: the number goes to the left, the budget to the right.
    ax.annotate(number, (arm.stands, top), (1, 1), ha="right", **beside)
    ax.plot([arm.budget] * 2, [bottom, top], color=GREY, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=2)
    ax.annotate(f"budget {arm.budget:g}", (arm.budget, top), (2, 1), ha="left", color=GREY, **beside)


def _colours() -> Colormap:
    colours: Colormap = sns.color_palette("flare", as_cmap=True)
    return colours


def _colour_bar(figure: Figure, ax: Axes, norm: Normalize, pad: float) -> None:
    bar = figure.colorbar(ScalarMappable(norm, _colours()), ax=ax, location="bottom", aspect=36, shrink=0.62, pad=pad)
    if isinstance(norm, LogNorm):
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        bar.ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar.set_label("Training records of the client" + (" (log scale)" if isinstance(norm, LogNorm) else ""))
    # Viewers of SVG show white seams between areas without edges.
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")


def _legend(figure: Figure, arms: Sequence[Spent], records: int | None) -> None:
    each = "" if records is None else f", {records:,} records each"
    colour = GREY if records is None else HUES[0]
    handles = [
        Line2D([], [], marker="o", markersize=POINT, linestyle="none", color=colour, label=f"a client of a seed{each}"),
        Line2D([], [], marker="|", markersize=9, markeredgewidth=1.3, linestyle="none", color="black",
               label="ε stated: the largest over clients and seeds"),
    ]  # fmt: skip
    if any(arm.budget is not None for arm in arms):
        handles.append(Line2D([], [], linestyle=(0, (1, 1.5)), linewidth=1.1, color=GREY, label="budget"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.5)
