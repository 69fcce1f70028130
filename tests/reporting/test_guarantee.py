"""Notes below a table about its epsilons."""

from __future__ import annotations

import dataclasses

import pytest

from ppml.errors import UserError
from ppml.reporting.footnotes import SOURCES, noise_known_to, privacy_notes
from ppml.reporting.summaries import summarise

from .made_up import TECHNIQUES, collect

CLIENTS = dataclasses.replace(TECHNIQUES["fl_dp"], label="FL + client DP", epsilon=5.0, unit="client", noise="central")
SECURE = dataclasses.replace(TECHNIQUES["fl_dp"], label="FL + DP, secure", noise_source="secure")


def summary_of(collected):
    return summarise(collected.view, tuple(collected.view.arms), collected.records, collected.costs)


def notes_of(collected):
    return privacy_notes(summary_of(collected), collected.joint)


def note_of(collected, begin):
    """Return the only note with these first words."""
    (note,) = [note for note in notes_of(collected) if note.startswith(begin)]
    return note


def known_to(collected):
    return {arm: noise_known_to(row) for arm, row in summary_of(collected).iterrows()}


def test_arms_without_privacy_have_no_note():
    assert notes_of(collect({"fl": TECHNIQUES["fl"]})) == ()


def test_notes_state_joint_epsilon(techniques):
    note = note_of(techniques, "All private arms")
    row = techniques.joint.set_index("arms").loc["dp fl_dp fl_dp_he"]
    assert f"(9 different models): ε {row['epsilon']:.1f} of one example" in note
    assert "by TIGHTEST" in note and "no bound (∞)" in note
    private = collect({arm: TECHNIQUES[arm] for arm in ("dp", "fl_dp")})
    assert "∞" not in note_of(private, "All private arms")


def test_notes_state_largest_delta_and_units():
    arms = {"dp": dataclasses.replace(TECHNIQUES["dp"], delta=1e-4), "fl_dp": TECHNIQUES["fl_dp"], "clients": CLIENTS}
    note = note_of(collect(arms), "All private arms")
    assert "at δ 0.0001, the largest of them" in note
    assert "noise of an arm with client-level privacy counts half, without sampling" in note
    single = note_of(collect({"clients": CLIENTS}), "All private arms")
    assert "of one client" in single and "counts half" not in single


def test_column_of_all_seeds_is_joint_epsilon(techniques):
    table = techniques.table("summary")
    cells = table.cells.set_index("Technique")["ε, all seeds"]
    assert (cells["Centralized + DP"], cells["Centralized"]) == ("8.70", "∞")
    assert table.raw.set_index("arm")["epsilon_all_seeds"]["dp"] == pytest.approx(8.697)


def test_missing_joint_epsilon_is_refused(techniques):
    techniques.joint = techniques.joint[techniques.joint["arms"] != "dp fl_dp fl_dp_he"]
    with pytest.raises(UserError, match="has 0 rows for the arms dp fl_dp fl_dp_he"):
        techniques.table("summary")


def test_notes_state_neighbouring_relation():
    notes = "\n".join(notes_of(collect({"dp": TECHNIQUES["dp"], "clients": CLIENTS})))
    assert (
        "one example, which is replaced by a null example that contributes 0; the number of examples is public" in notes
    )
    assert "one client, whose contribution is replaced by 0; the number of clients is public" in notes
    assert "ε where the example is replaced by any other one (replace-one): Centralized + DP: 6.38." in notes
    assert "ε where the client is replaced by any other one (replace-one): FL + client DP: 11.0." in notes
    assert "add or remove" not in notes


def test_other_relation_is_refused(techniques):
    techniques.records["neighbouring"] = "add_or_remove_one"
    with pytest.raises(UserError, match="neighbouring is 'add_or_remove_one'; allowed: zero_out_one"):
        notes_of(techniques)


def test_note_names_holder_of_seed():
    collected = collect({"plain": TECHNIQUES["fl"], **TECHNIQUES, "clients": CLIENTS, "secure": SECURE})
    found = known_to(collected)
    assert found["dp"] == "the holder of the root seed"
    assert found["fl_dp"] == "the holder of the root seed; each client: its own"
    assert found["clients"] == "the holder of the root seed; the server: all of it"
    assert (found["secure"], found["plain"]) == ("no party", "—")
    note = note_of(collected, "The noise can be computed by")
    assert "no party (FL + DP, secure)" in note and "the holder of the root seed (Centralized + DP)" in note
    assert all(text in note for text in SOURCES.values())


def test_recorded_source_decides():
    collected = collect({"secure": SECURE})
    collected.records["sampling_source"] = "seeded"
    assert known_to(collected)["secure"] == "no party; the samples: the holder of the root seed"
    collected.records["noise_source"] = "seeded"
    assert known_to(collected)["secure"].startswith("the holder of the root seed")
    collected.records["noise_source"] = "dice"
    with pytest.raises(UserError, match="source of noise or samples is 'dice'; allowed: seeded, secure"):
        notes_of(collected)
