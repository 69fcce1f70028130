"""Epsilon 0 and infinite epsilon have a position in every figure."""

from __future__ import annotations

import dataclasses
import math
import warnings

import matplotlib

matplotlib.use("Agg")

import pytest

from ppml.reporting.axes import EpsilonScale
from ppml.reporting.style import to_png

from .made_up import TECHNIQUES, MadeUpArm, collect
from .test_figures import draw, texts

FEDERATED = {"topology": "federated", "aggregation": "plaintext", "clients": 8, "partition": "iid-8"}
ARMS = {
    "none": MadeUpArm("Without", 0.98),
    "zero": MadeUpArm("Zero", 0.4, epsilon=0.0),
    "one": MadeUpArm("One", 0.9, epsilon=1.0),
    "ten": MadeUpArm("Ten", 0.95, epsilon=10.0),
    "unbounded": MadeUpArm("Unbounded", 0.97, epsilon=math.inf),
    "fl_zero": MadeUpArm("FL, zero", 0.4, epsilon=0.0, **FEDERATED),
    "fl": MadeUpArm("FL", 0.9, epsilon=2.9, sizes=(100, 8000, *[300] * 6), **FEDERATED),
    "fl_unbounded": MadeUpArm("FL, unbounded", 0.97, epsilon=math.inf, **FEDERATED),
}
CHOICES = {
    "all": list(ARMS),
    "zero": ["zero", "fl_zero"],
    "zero and others": ["zero", "one", "ten", "fl_zero", "fl"],
    "unbounded": ["unbounded", "fl_unbounded"],
    "single": ["fl"],
}
KINDS = ("privacy_utility", "epsilon", "client_epsilon", "size")


def axis(figure, kind):
    ax = figure.axes[0]
    return ax.yaxis if kind == "epsilon" else ax.xaxis


def named(figure, kind):
    """Return the text of each tick of the axis of epsilon by its position."""
    of = axis(figure, kind)
    places = [float(place) for place in of.get_majorticklocs()]
    return dict(zip(places, of.get_major_formatter().format_ticks(places), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chosen", CHOICES)
def test_figure_is_drawn_without_warnings(kind, chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(kind, collect({arm: ARMS[arm] for arm in CHOICES[chosen]}))
        assert to_png(figure)
    if kind != "size":
        low, high = sorted(axis(figure, kind).get_view_interval())
        assert all(map(math.isfinite, (low, high))) and low < high
        assert "0" in named(figure, kind).values() or "zero" not in chosen


@pytest.mark.parametrize("kind", ["privacy_utility", "epsilon"])
def test_zero_and_infinity_are_at_the_ends(kind):
    figure = draw(kind, collect(ARMS))
    names = named(figure, kind)
    (zero,) = [place for place, name in names.items() if name == "0"]
    (infinite,) = [place for place, name in names.items() if name == "∞"]
    others = [place for place, name in names.items() if name not in ("0", "∞")]
    low, high = axis(figure, kind).get_view_interval()
    assert low < zero < min(others) and max(others) < infinite < high
    drawn = [
        value
        for line in figure.axes[0].get_lines()
        for value in (line.get_ydata() if kind == "epsilon" else line.get_xdata())
    ]
    assert zero in drawn and infinite in drawn


def test_line_does_not_lead_to_zero():
    figure = draw("privacy_utility", collect({arm: ARMS[arm] for arm in ("zero", "one", "ten")}))
    joined = [list(line.get_xdata()) for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1]
    assert [1.0, 10.0] in joined and not any(0 in one for one in joined)


def test_small_epsilon_is_not_zero():
    arms = {name: dataclasses.replace(TECHNIQUES["dp"], epsilon=value) for name, value in (("a", 0.0), ("b", 0.004))}
    shown = texts(draw("size", collect(arms)))
    assert "ε 0" in shown and "ε 0.004" in shown


def test_scale_without_zero_is_logarithmic():
    scale = EpsilonScale.of([0.5, 2.0], room=2.0)
    assert (scale.ends, scale.zero, scale.infinite) == ((0.25, 4.0), None, None)
    assert scale.place(0.5) == 0.5
