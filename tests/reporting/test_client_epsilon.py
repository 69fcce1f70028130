"""The figure of each client's epsilon."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from ppml.errors import UserError
from ppml.reporting.figure_client_epsilon import POINT, ROW_HEIGHT
from ppml.reporting.formatting import epsilon_bound
from ppml.reporting.style import to_png

from .made_up import TECHNIQUES, Collected, MadeUpArm, collect

UNEVEN = (40, 160, 300, 500, 1000, 2000, 2500, 3500)


def fl(label: str, epsilon: float | None, **others) -> MadeUpArm:
    return dataclasses.replace(TECHNIQUES["fl_dp"], label=label, epsilon=epsilon, **others)


ARMS = {
    "even": fl("FL + DP, IID", 2.9),
    "uneven": fl("FL + DP, Dirichlet 0.3", 5.8, partition="dirichlet-8", sizes=UNEVEN),
    "budget": fl("FL + DP, budget", 0.99, partition="dirichlet-8", sizes=UNEVEN, budget=1.0),
    "whole": fl("FL + DP of a client", 8.0, unit="client"),
}


def points(figure: Figure) -> list[PathCollection]:
    return [found for found in figure.axes[0].collections if isinstance(found, PathCollection)]


def rows(figure: Figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def of_arm(collected: Collected, arm: str):
    return collected.clients[collected.clients["arm"] == arm]


def test_point_shows_epsilon_and_size_of_client():
    collected = collect(ARMS)
    for arm, drawn in zip(ARMS, points(collected.figure("client_epsilon")), strict=True):
        mine = of_arm(collected, arm)
        expected = mine[["epsilon", "records"]].to_numpy(dtype=float)
        seen = np.column_stack([drawn.get_offsets()[:, 0], drawn.get_array()])
        assert len(seen) == 3 * 8
        assert sorted(map(tuple, seen)) == sorted(map(tuple, expected))


def test_mark_is_stated_epsilon():
    collected = collect(ARMS)
    figure = collected.figure("client_epsilon")
    marks = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    for arm, mark, drawn in zip(ARMS, marks, points(figure), strict=True):
        stated = collected.records["epsilon"][collected.records["arm"] == arm].max()
        assert list(mark.get_xdata()) == [stated, stated]
        assert drawn.get_offsets()[:, 0].max() == stated
        bottom, top = sorted(mark.get_ydata())
        assert bottom < drawn.get_offsets()[:, 1].min() and drawn.get_offsets()[:, 1].max() < top
        assert epsilon_bound(stated) in texts(figure)


def test_arm_without_private_clients_is_omitted(techniques):
    assert rows(techniques.figure("client_epsilon")) == ["FL + DP", "FL + DP + HE"]


def test_client_level_arm_needs_epsilon_per_client():
    collected = collect(ARMS)
    assert len(rows(collected.figure("client_epsilon"))) == 4
    whole = collected.clients["arm"] == "whole"
    collected.clients["epsilon"] = collected.clients["epsilon"].mask(whole)
    assert rows(collected.figure("client_epsilon")) == [ARMS[arm].label for arm in ("even", "uneven", "budget")]


def test_labels_name_different_units():
    figure = collect({arm: ARMS[arm] for arm in ("even", "whole")}).figure("client_epsilon")
    assert figure.axes[0].get_xlabel() == "ε of one example or one client at the end of the training, PRV, δ = 1e-5"
    assert rows(figure) == ["FL + DP, IID\n(of one example)", "FL + DP of a client\n(of one client)"]


def test_axis_is_logarithmic_for_ratio_above_five():
    even, uneven = (collect({arm: ARMS[arm]}).figure("client_epsilon") for arm in ("even", "uneven"))
    assert even.axes[0].get_xscale() == "linear" and uneven.axes[0].get_xscale() == "log"
    assert uneven.axes[0].get_xlabel() == "ε of one example at the end of the training, PRV, δ = 1e-5 (log scale)"


def test_client_without_a_step_is_at_zero():
    collected = collect({"uneven": ARMS["uneven"]})
    collected.clients.loc[collected.clients["client"] == 7, "epsilon"] = 0.0
    figure = collected.figure("client_epsilon")
    ax = figure.axes[0]
    names = dict(zip(ax.get_xticks(), (tick.get_text() for tick in ax.get_xticklabels()), strict=True))
    (zero,) = [place for place, name in names.items() if name == "0"]
    across = points(figure)[0].get_offsets()[:, 0]
    assert (across == zero).sum() == 3 and (across > zero).sum() == 21
    assert ax.get_xlim()[0] < zero < min(place for place, name in names.items() if name != "0")


def test_equal_epsilons_are_one_column():
    collected = collect({"even": ARMS["even"]}, seeds=1)
    figure = collected.figure("client_epsilon")
    (drawn,) = points(figure)
    across, up = drawn.get_offsets().T
    assert len(set(across)) == 1 and len(set(up)) == 8
    assert np.diff(sorted(up)) * 72 * ROW_HEIGHT == pytest.approx(POINT)
    assert len(figure.axes) == 1, "one size needs no colours"
    assert "a client of a seed, 1,250 examples each" in texts(figure)


def test_clients_do_not_overlap():
    figure = collect({"uneven": ARMS["uneven"]}).figure("client_epsilon")
    to_png(figure)
    ax, (drawn,) = figure.axes[0], points(figure)
    places = ax.transData.transform(np.asarray(drawn.get_offsets())) * 72 / figure.dpi
    assert min(np.hypot(*(one - other)) for one, other in combinations(places, 2)) > 0.9 * POINT


def test_many_clients_stay_in_their_row():
    many = fl("FL + DP, 100 clients", 2.9, clients=100, partition="iid-100")
    figure = collect({"many": many, "even": ARMS["even"]}, seeds=5).figure("client_epsilon")
    first, second = (drawn.get_offsets()[:, 1] for drawn in points(figure))
    assert len(first) == 500 and first.max() < second.min()


def test_budget_is_dotted_line():
    figure = collect({"budget": ARMS["budget"]}).figure("client_epsilon")
    (dotted,) = [line for line in figure.axes[0].lines if line.get_linestyle() != "-"]
    assert list(dotted.get_xdata()) == [1.0, 1.0]
    assert {"budget 1", "0.990", "budget"} <= set(texts(figure))
    assert "budget" not in texts(collect({"even": ARMS["even"]}).figure("client_epsilon"))


@pytest.mark.parametrize(("sizes", "scale"), [(UNEVEN, " (log scale)"), ((1000, 1500) * 4, "")])
def test_colours_have_a_scale(sizes, scale):
    figure = collect({"a": fl("FL + DP", 2.9, sizes=sizes)}).figure("client_epsilon")
    bar = figure.axes[1]
    assert bar.get_xlabel() == f"Training examples of the client{scale}"
    assert bar.get_xlim() == pytest.approx((min(sizes), max(sizes)))


def test_figure_without_private_clients_is_refused():
    with pytest.raises(UserError, match="none of the arms dp, fl has private clients"):
        collect({arm: TECHNIQUES[arm] for arm in ("dp", "fl")}).figure("client_epsilon")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda epsilon: 1.1 * epsilon, r"is 3\.19, and .* states 2\.9"),
        (lambda epsilon: epsilon.mask(epsilon.index == 3), "is nan"),
    ],
)
def test_clients_that_contradict_records_are_refused(change, problem):
    collected = collect({"even": ARMS["even"]})
    collected.clients["epsilon"] = change(collected.clients["epsilon"])
    with pytest.raises(UserError, match=f"largest epsilon of the clients of seed 0 {problem}"):
        collected.figure("client_epsilon")


def test_arm_without_clients_is_named():
    collected = collect({"even": ARMS["even"], "uneven": ARMS["uneven"]})
    collected.clients = of_arm(collected, "even")
    with pytest.raises(UserError, match=r"clients\.csv: unknown arm 'uneven'"):
        collected.figure("client_epsilon")
