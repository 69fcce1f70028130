"""Table and figure of the audits."""

import dataclasses

import pytest
from matplotlib.colors import to_hex

from ppml.errors import UserError
from ppml.reporting.technique_style import ALARM

from .made_up import TECHNIQUES, collect

PRIVATE = [name for name, arm in TECHNIQUES.items() if arm.epsilon]


@pytest.fixture
def failed(techniques):
    """Return tables with an arm that releases less noise than it claims."""
    row = techniques.audits["arm"] == "fl_dp"
    techniques.audits.loc[row, ["estimate", "low", "high"]] = [0.9, 0.75, 1.1]
    techniques.audits.loc[row, ["held", "faults"]] = [False, "claims noise multiplier 2.03, releases 0.9"]
    return techniques


def test_row_has_claim_and_measurement(techniques):
    cells = techniques.table("audit").cells.set_index("Technique")
    assert list(cells.index) == [TECHNIQUES[name].label for name in PRIVATE]
    row, raw = cells.loc["FL + DP"], techniques.audits.set_index("arm").loc["fl_dp"]
    assert row["Noise multiplier, claimed"] == "2.03"
    assert row["Measured"] == f"2.10 [{raw['low']:.2f}, {raw['high']:.2f}]"
    assert (row["ε, claimed"], row["ε, lower bound"]) == ("2.90", "2.61")
    assert (row["Before clipping"], row["After clipping"]) == ("310\N{MULTIPLICATION SIGN}", "1.0000")
    assert (row["Releases"], row["Measurements"], row["Drawn"]) == ("70", "2,518", "140 of 1,400")
    assert row["Verdict"] == "holds"


def test_release_of_all_examples_has_no_draws(techniques):
    techniques.audits.loc[techniques.audits["arm"] == "fl_dp", ["drawn", "coins"]] = 0
    assert techniques.table("audit").cells.set_index("Technique").loc["FL + DP", "Drawn"] == "all, always"


def test_notes_state_method_and_limits(techniques):
    notes = "\n".join(techniques.table("audit").notes)
    for part in ("White-box", "none of the 3 audited arms wrongly with 99 % confidence", "does not prove"):
        assert part in notes


def test_wrong_claim_is_marked(failed):
    cells = failed.table("audit").cells.set_index("Technique")["Verdict"]
    assert cells["FL + DP"] == "DOES NOT HOLD: claims noise multiplier 2.03, releases 0.9"
    assert (cells.drop("FL + DP") == "holds").all()
    figure = failed.figure("audit")
    names = {label.get_text(): to_hex(label.get_color()) for label in figure.axes[0].get_yticklabels()}
    assert names["FL + DP: DOES NOT HOLD"] == ALARM.lower()
    assert list(names.values()).count(ALARM.lower()) == 1


def test_inconclusive_audit_names_reason(techniques):
    row = techniques.audits["arm"] == "fl_dp"
    techniques.audits["unclear"] = techniques.audits["unclear"].astype(object).mask(row, "gradients are too short")
    cells = techniques.table("audit").cells.set_index("Technique")["Verdict"]
    assert cells["FL + DP"] == "not shown: gradients are too short"
    assert (cells.drop("FL + DP") == "holds").all()
    figure = techniques.figure("audit")
    assert "FL + DP: not shown" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_figure_shows_ratios_to_claims(techniques):
    ax, fraction = techniques.figure("audit").axes
    measured = [float(bar.lines[0].get_xdata()[0]) for bar in ax.containers]
    assert measured == pytest.approx([1.03] * len(PRIVATE))
    assert [bar.get_width() for bar in fraction.patches] == pytest.approx([0.9] * len(PRIVATE))
    assert {0.5, 1.0} <= {line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}


def test_audited_arms_of_a_technique_follow_its_name():
    arms = {name: dataclasses.replace(TECHNIQUES["dp"], label=f"ML + DP, ε {name}") for name in ("1", "2.9", "10")}
    figure = collect({"1": arms["1"], "fl_dp": TECHNIQUES["fl_dp"], **arms}).figure("audit")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["ML + DP", "ε 1", "ε 2.9", "ε 10", "Other techniques", "FL + DP"]


def test_every_audited_arm_has_room_on_a_page():
    arms = {f"a{place}": dataclasses.replace(TECHNIQUES["dp"], label=f"Arm {place}") for place in range(30)}
    assert collect(arms, seeds=1).figure("audit").get_size_inches()[1] < 7


def test_epsilon_of_zero_has_no_bar(techniques):
    techniques.audits.loc[techniques.audits["arm"] == "fl_dp", ["epsilon", "epsilon_low"]] = 0.0
    _, fraction = techniques.figure("audit").axes
    assert sum(bar.get_width() > 0 for bar in fraction.patches) == len(PRIVATE) - 1


def test_table_without_audited_arm_is_refused():
    plain = {name: arm for name, arm in TECHNIQUES.items() if not arm.epsilon}
    collected = collect(plain)
    collected.audits = collect(TECHNIQUES).audits
    with pytest.raises(UserError, match="none of the arms centralized, local, fl, fl_he was audited"):
        collected.table("audit")
