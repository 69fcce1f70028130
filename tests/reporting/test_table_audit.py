import pytest
from matplotlib.colors import to_hex

from ppml.errors import UserError
from ppml.reporting.figure_audit import audit
from ppml.reporting.style import ALARM
from ppml.reporting.table_audit import audit_table

from .made_up import TECHNIQUES, collect

PRIVATE = [name for name, arm in TECHNIQUES.items() if arm.epsilon]


def table_of(collected):
    return audit_table(collected.selection, collected.records, collected.audits)


@pytest.fixture
def failed(techniques):
    """Return records in which one arm releases less noise than it claims."""
    row = techniques.audits["arm"] == "fl_dp"
    techniques.audits.loc[row, ["estimate", "low", "high"]] = [0.9, 0.75, 1.1]
    techniques.audits.loc[row, ["held", "faults"]] = [False, "claims noise multiplier 2.03, releases 0.9"]
    return techniques


def test_a_row_an_audited_arm_says_what_is_claimed_and_what_was_measured(techniques):
    cells = table_of(techniques).cells.set_index("Technique")
    assert list(cells.index) == [TECHNIQUES[name].label for name in PRIVATE]
    row, raw = cells.loc["FL + DP"], techniques.audits.set_index("arm").loc["fl_dp"]
    assert row["Noise multiplier, claimed"] == "2.03"
    assert row["Measured"] == f"2.10 [{raw['low']:.2f}, {raw['high']:.2f}]"
    assert (row["ε, claimed"], row["ε, at least, measured"]) == ("2.90", "2.61")
    assert (row["Before clipping"], row["After clipping"]) == ("310\N{MULTIPLICATION SIGN}", "1.0000")
    assert (row["Releases"], row["Measurements"], row["Drawn"]) == ("70", "2,518", "140 of 1,400")
    assert row["Verdict"] == "holds"


def test_where_every_record_enters_every_release_nothing_is_drawn(techniques):
    techniques.audits.loc[techniques.audits["arm"] == "fl_dp", ["drawn", "coins"]] = 0
    assert table_of(techniques).cells.set_index("Technique").loc["FL + DP", "Drawn"] == "all, always"


def test_notes_say_who_audits_how_sure_it_is_and_what_it_does_not_show(techniques):
    notes = "\n".join(table_of(techniques).notes)
    for part in ("white box", "none of the 3 audited arms wrongly with 99 % confidence", "is not proven"):
        assert part in notes


def test_a_claim_that_does_not_hold_is_loud(failed):
    cells = table_of(failed).cells.set_index("Technique")["Verdict"]
    assert cells["FL + DP"] == "DOES NOT HOLD: claims noise multiplier 2.03, releases 0.9"
    assert (cells.drop("FL + DP") == "holds").all()
    figure = audit(failed.selection, failed.records, failed.audits)
    names = {label.get_text(): to_hex(label.get_color()) for label in figure.axes[0].get_yticklabels()}
    assert names["FL + DP: DOES NOT HOLD"] == ALARM.lower()
    assert list(names.values()).count(ALARM.lower()) == 1


def test_an_audit_that_shows_nothing_says_why(techniques):
    row = techniques.audits["arm"] == "fl_dp"
    techniques.audits["unclear"] = techniques.audits["unclear"].astype(object).mask(row, "gradients are too short")
    cells = table_of(techniques).cells.set_index("Technique")["Verdict"]
    assert cells["FL + DP"] == "not shown: gradients are too short"
    assert (cells.drop("FL + DP") == "holds").all()
    figure = audit(techniques.selection, techniques.records, techniques.audits)
    assert "FL + DP: not shown" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_the_figure_shows_measurements_over_claims_and_the_share_of_epsilon_that_is_shown(techniques):
    ax, share = audit(techniques.selection, techniques.records, techniques.audits).axes
    (measured, *_) = ax.containers[0].lines
    assert list(measured.get_xdata()) == pytest.approx([1.03] * len(PRIVATE))
    assert [bar.get_width() for bar in share.patches] == pytest.approx([0.9] * len(PRIVATE))
    assert {0.5, 1.0} <= {line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}


def test_an_epsilon_of_zero_has_no_share(techniques):
    techniques.audits.loc[techniques.audits["arm"] == "fl_dp", ["epsilon", "epsilon_low"]] = 0.0
    _, share = audit(techniques.selection, techniques.records, techniques.audits).axes
    assert sum(bar.get_width() > 0 for bar in share.patches) == len(PRIVATE) - 1


def test_arms_without_an_audit_are_no_table():
    plain = {name: arm for name, arm in TECHNIQUES.items() if not arm.epsilon}
    collected = collect(plain)
    collected.audits = collect(TECHNIQUES).audits
    with pytest.raises(UserError, match=r"none of the arms centralized, local, fl, fl_he of .* was audited"):
        table_of(collected)
