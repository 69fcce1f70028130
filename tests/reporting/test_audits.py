import pytest
from matplotlib.colors import to_hex

from ppml.errors import UserError
from ppml.reporting.audits import audit_table
from ppml.reporting.figure_audit import audit
from ppml.reporting.style import ALARM

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
    assert row["With half the noise"] == f"0.997 [{raw['control_low']:.3f}, {raw['control_high']:.2f}]"
    assert (row["Canary before clipping"], row["After clipping"]) == ("310\N{MULTIPLICATION SIGN}", "1.0000")
    assert (row["Steps"], row["Coins"], row["Verdict"]) == ("200", "400 of 800", "holds")


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


def test_the_figure_shows_claims_measurements_and_controls(techniques):
    (ax,) = audit(techniques.selection, techniques.records, techniques.audits).axes
    (measured, *_), (control, *_) = (container.lines for container in ax.containers)
    assert list(measured.get_xdata()) == list(techniques.audits["estimate"])
    assert list(control.get_xdata()) == list(techniques.audits["control"])
    claims = [
        line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert claims == list(techniques.audits["noise_multiplier"])


def test_arms_without_an_audit_are_no_table():
    plain = {name: arm for name, arm in TECHNIQUES.items() if not arm.epsilon}
    collected = collect(plain)
    collected.audits = collect(TECHNIQUES).audits
    with pytest.raises(UserError, match=r"none of the arms centralized, local, fl, fl_he of .* was audited"):
        table_of(collected)
