"""The threat statement: the data and keys of each arm's parties."""

from __future__ import annotations

import dataclasses

from ppml.reporting.table import Table
from ppml.reporting.table_threats import DEVIATING, LIMITS

from .made_up import TECHNIQUES, MadeUpArm, collect

ARMS = {name: TECHNIQUES[name] for name in ("centralized", "dp", "local", "fl", "fl_dp")} | {
    "fl_shares": dataclasses.replace(TECHNIQUES["fl_dp_he"], noise="distributed"),
    "fl_clients": dataclasses.replace(TECHNIQUES["fl_dp"], epsilon=5.0, unit="client", noise="central"),
}


def table() -> Table:
    collected = collect(ARMS)
    shared = collected.records["arm"] == "fl_shares"
    collected.records.loc[shared, "epsilon_if_opened"] = 9.5
    collected.records.loc[shared, "update_opened_by"] = "the key holder together with the server"
    return collected.table("threats")


def cells(column: str) -> dict[str, str]:
    shown = table().cells
    return dict(zip(ARMS, shown[column], strict=True))


def test_examples_have_owners():
    found = cells("Examples")
    assert found["centralized"] == found["dp"] == "one owner: all examples"
    assert found["local"] == found["fl"] == "each client: its own"


def test_single_update_has_readers_and_leakage():
    access, leakage = cells("Access to a single update"), cells("Leakage of a single update")
    assert {access[arm] for arm in ("centralized", "dp", "local")} == {leakage[arm] for arm in ("dp", "local")} == {"—"}
    assert (access["fl"], leakage["fl"]) == ("the server", "may reveal examples")
    assert leakage["fl_dp"] == "at most ε 2.90 of one example, δ 1e-5"
    # The update has one share of the noise.
    assert access["fl_shares"] == "the key holder together with the server"
    assert leakage["fl_shares"] == "at most ε 9.50 of one example, δ 1e-5"
    # The server adds the noise to the sum: an update has none.
    assert leakage["fl_clients"] == "may reveal examples"


def test_sums_and_model_have_leakage():
    leakage = cells("Leakage of sums and model")
    assert {leakage[arm] for arm in ("centralized", "local", "fl")} == {"may reveal examples"}
    assert leakage["fl_shares"] == leakage["dp"] == "at most ε 2.90 of one example, δ 1e-5"
    assert leakage["fl_clients"].startswith("at most ε 5.00 of one client")


def test_row_names_holder_of_noise():
    found = cells("Noise known to")
    assert {found[arm] for arm in ("centralized", "local", "fl")} == {"—"}
    assert found["dp"] == "the holder of the root seed"
    assert found["fl_shares"] == "the holder of the root seed; each client: its own"
    assert found["fl_clients"] == "the holder of the root seed; the server: all of it"


def test_notes_state_limits():
    notes = "\n".join(table().notes)
    assert all(limit in notes for limit in LIMITS)
    assert "False updates" in notes and "δ 1e-5" in notes


def test_arm_without_privacy_has_no_bound():
    bare = table().cells.iloc[[0, 2, 3]]
    assert not bare.apply(lambda column: column.str.contains("ε")).any(axis=None)


def notes_of(*kinds: str) -> tuple[str, ...]:
    arms = {kind: MadeUpArm(kind, 0.9, "federated", None, kind, 8, "iid-8", upload=10_000) for kind in kinds}
    return collect(arms).table("threats").notes


def test_notes_describe_deviating_server():
    for kinds in (("plaintext",), ("secret_sharing",), ("masking", "secret_sharing"), ("ckks", "bfv")):
        expected = list(dict.fromkeys(DEVIATING[kind] for kind in DEVIATING if kind in kinds))
        assert [note for note in notes_of(*kinds) if note in DEVIATING.values()] == expected
    assert len(set(DEVIATING.values())) == 3
