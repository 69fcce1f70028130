"""The threat statement: what each arm's parties see, as the records of its runs say."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.table_threats import DEVIATING, LIMITS, threats_table

from .made_up import MadeUpArm, collect

ARMS = {
    "centralized": MadeUpArm("Centralized", 0.97),
    "dp": MadeUpArm("DP", 0.95, epsilon=2.9),
    "local": MadeUpArm("Alone", 0.9, "independent", clients=8, partition="iid-8"),
    "fl": MadeUpArm("FL", 0.97, "federated", None, "plaintext", 8, "iid-8", upload=10_000),
    "fl_dp": MadeUpArm("FL + DP", 0.95, "federated", 2.9, "plaintext", 8, "iid-8", upload=10_000),
    "fl_shares": MadeUpArm(
        "FL + DP + HE", 0.95, "federated", 2.9, "ckks", 8, "iid-8", upload=10_000, noise="distributed"
    ),
    "fl_clients": MadeUpArm(
        "FL + client DP",
        0.9,
        "federated",
        5.0,
        "plaintext",
        8,
        "iid-8",
        upload=10_000,
        unit="client",
        noise="central",
    ),
}


def table():
    collected = collect(ARMS)
    records = collected.records
    records.loc[records["arm"] == "fl_shares", "epsilon_if_opened"] = 9.5
    records.loc[records["arm"] == "fl_shares", "update_opened_by"] = "the key holder together with the server"
    return threats_table(collected.view, records, collected.costs, collected.joint)


def cells(column: str) -> dict[str, str]:
    shown = table().cells
    return dict(zip(ARMS, shown[column], strict=True))


def test_who_has_records():
    found = cells("Who has records")
    assert found["centralized"] == found["dp"] == "one owner, all of them"
    assert found["local"] == found["fl"] == "each client its own"


def test_who_opens_an_update_and_what_it_tells_then():
    opened, tells = cells("Who can open a single update"), cells("What an opened update tells")
    assert {opened[arm] for arm in ("centralized", "dp", "local")} == {tells[arm] for arm in ("dp", "local")} == {"—"}
    assert (opened["fl"], tells["fl"]) == ("the server", "may reveal records")
    assert tells["fl_dp"] == "at most ε 2.90 of one example, δ 1e-5"
    # One share of the noise is on it.
    assert opened["fl_shares"] == "the key holder together with the server"
    assert tells["fl_shares"] == "at most ε 9.50 of one example, δ 1e-5"
    # The server adds the noise to the sum: there is none on an update.
    assert tells["fl_clients"] == "may reveal records"


def test_what_sums_and_model_tell():
    told = cells("What sums and model tell")
    assert {told[arm] for arm in ("centralized", "local", "fl")} == {"may reveal records"}
    assert told["fl_shares"] == told["dp"] == "at most ε 2.90 of one example, δ 1e-5"
    assert told["fl_clients"].startswith("at most ε 5.00 of one client")


def test_who_can_compute_the_noise_is_named_in_the_row_of_each_private_arm():
    found = cells("Who can compute the noise")
    assert {found[arm] for arm in ("centralized", "local", "fl")} == {"—"}
    assert found["dp"] == "the holder of the root seed"
    assert found["fl_shares"] == "the holder of the root seed; each client: its own"
    assert found["fl_clients"] == "the holder of the root seed; the server: all of it"


def test_the_limits_stand_below_whatever_is_shown():
    notes = "\n".join(table().notes)
    assert all(limit in notes for limit in LIMITS)
    assert "sends false updates" in notes and "δ 1e-5" in notes


def test_an_arm_without_privacy_is_never_given_a_bound():
    shown = table().cells
    bare = shown[shown["Technique"].isin(["Centralized", "Alone", "FL"])]
    assert not bare.apply(lambda column: column.str.contains("ε")).any(axis=None)
    assert isinstance(table().raw, pd.DataFrame)


def notes_of(*kinds: str) -> tuple[str, ...]:
    arms = {kind: MadeUpArm(kind, 0.9, "federated", None, kind, 8, "iid-8", upload=10_000) for kind in kinds}
    collected = collect(arms)
    return threats_table(collected.view, collected.records, collected.costs, collected.joint).notes


def test_what_a_server_that_deviates_can_open_is_said_of_each_way_to_add_that_there_is():
    for kinds in (("plaintext",), ("secret_sharing",), ("masking", "secret_sharing"), ("ckks", "bfv")):
        expected = list(dict.fromkeys(DEVIATING[kind] for kind in DEVIATING if kind in kinds))
        assert [note for note in notes_of(*kinds) if note in DEVIATING.values()] == expected
    assert len(set(DEVIATING.values())) == 3
