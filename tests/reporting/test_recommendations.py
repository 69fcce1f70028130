"""The recommendations against threats, and the answers to published numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ppml.errors import UserError
from ppml.reporting import recommendations as module
from ppml.reporting.literature import PublishedRow
from ppml.reporting.recommendations import THREATS, recommendations

from .made_up import TECHNIQUES, Collected, MadeUpArm, collect

ARMS = {name: TECHNIQUES[name] for name in ("centralized", "dp", "fl", "fl_dp", "fl_he")} | {
    "encrypted": MadeUpArm("Square CNN", 0.98, model="square_cnn"),
    "fl_masks": replace(TECHNIQUES["fl_he"], label="FL, masks", aggregation="masking", upload=107_000),
    "fl_dp_shares": replace(TECHNIQUES["fl_dp_he"], label="FL + DP, distributed", accuracy=0.951, noise="distributed"),
    "fl_clients": replace(TECHNIQUES["fl_dp"], label="FL, clients", model="logistic", unit="client", noise="central"),
}
OPENED = {"fl_he": "the key holder together with the server", "fl_masks": "6 of 8 clients together with the server"}


@pytest.fixture
def collected() -> Collected:
    made = collect(ARMS)
    rows = made.inferences.assign(arm="encrypted")
    made.inferences = rows
    for arm, parties in OPENED.items():
        made.records.loc[made.records["arm"] == arm, "update_opened_by"] = parties
    return made


def found(made: Collected) -> dict[str, module.Recommendation]:
    all_of_them = recommendations(made.view, made.records, made.costs, made.inferences)
    return {one.arm: one for one in all_of_them}


def test_each_protected_arm_has_its_threat(collected):
    threats = {arm: one.threat for arm, one in found(collected).items()}
    assert threats == {
        "dp": module.MODEL_REVEALS_EXAMPLE,
        "fl": module.EXAMPLES_MOVE,
        "fl_he": module.SERVER_READS_UPDATE,
        "fl_masks": module.SERVER_READS_UPDATE,
        "fl_dp": module.UPDATE_AND_MODEL_REVEAL_EXAMPLE,
        "fl_dp_shares": module.UPDATE_AND_MODEL_REVEAL_EXAMPLE,
        "fl_clients": module.MODEL_REVEALS_CLIENT,
        "encrypted": module.SERVER_READS_INPUT,
    }
    assert set(threats.values()) == set(THREATS)


def test_cost_is_against_same_model_without_privacy(collected):
    one = found(collected)
    accuracy = collected.records.groupby("arm")["accuracy_all"].mean()
    seconds = collected.costs.groupby("arm")["cpu_seconds"].mean()
    assert one["dp"].reference == "Centralized"
    assert one["dp"].accuracy_lost == pytest.approx(accuracy["centralized"] - accuracy["dp"])
    assert one["dp"].time_factor == pytest.approx(seconds["dp"] / seconds["centralized"])
    # No arm of one owner has the model of this arm.
    assert one["fl_clients"].reference == "" and math.isnan(one["fl_clients"].accuracy_lost)


def test_seeds_of_one_arm_alone_do_not_count(collected):
    records = collected.records
    lucky = (records["arm"] == "fl_masks") & (records["seed"] > 0)
    collected.records = records[~lucky]
    one_seed = found(collected)["fl_masks"]
    first = collected.records[collected.records["seed"] == 0].set_index("arm")["accuracy_all"]
    assert one_seed.accuracy_lost == pytest.approx(first["centralized"] - first["fl_masks"])


def test_first_recommendation_is_most_accurate_then_smallest(collected):
    first: dict[str, str] = {}
    for one in found(collected).values():
        first.setdefault(one.threat, one.arm)
    assert first[module.UPDATE_AND_MODEL_REVEAL_EXAMPLE] == "fl_dp_shares"
    # Both arms have the same weights.
    assert first[module.SERVER_READS_UPDATE] == "fl_masks"


def test_trust_follows_from_access(collected):
    trust = {arm: one.trust for arm, one in found(collected).items()}
    assert trust["fl"] == "the server, with every update"
    assert trust["fl_he"] == "no collusion of the key holder and the server"
    assert trust["fl_masks"] == "no collusion of 6 of 8 clients and the server"
    assert (trust["dp"], trust["fl_dp"]) == ("the owner of all examples", "no other party")
    assert "noise" in trust["fl_clients"]


def test_table_has_row_for_each_recommendation(collected):
    table = collected.table("recommendations")
    assert len(table.headings) <= 6
    assert [*table.raw["arm"]] == [*found(collected)]
    costs = dict(zip(table.raw["arm"], table.cells["Cost"], strict=True))
    assert "a prediction" in costs["encrypted"] and "points" in costs["dp"] and "upload" in costs["fl"]
    assert "points" not in costs["fl_clients"]


def test_table_without_protection_is_refused():
    with pytest.raises(UserError, match="table recommendations"):
        made = collect({"centralized": TECHNIQUES["centralized"]})
        made.inferences = made.inferences.iloc[:0]
        made.table("recommendations")


def published(key: str, epsilon: float | None) -> dict[str, PublishedRow]:
    row = {"paper": "PRIVATE-AI", "table": "4", "technique": "FL + DP", "accuracy": 0.815, "epsilon": epsilon}
    return {key: PublishedRow.model_validate(row)}


@pytest.mark.parametrize(("epsilon", "answer"), [(2.9, "fl_dp_shares"), (None, "fl"), (8.0, "fl_dp_shares")])
def test_headline_has_most_accurate_answer_within_epsilon(epsilon, answer):
    compare = [{"published": "a/1", "arm": arm} for arm in ("fl", "fl_dp", "fl_dp_shares")]
    table = collect(ARMS, compare=compare).table("headline", published("a/1", epsilon))
    assert len(table.headings) <= 6
    assert [*table.raw["arm"]] == [answer]


def test_headline_without_answer_is_refused():
    made = collect(ARMS, compare=[{"published": "a/1", "arm": "fl"}, {"published": "a/1", "arm": "dp"}])
    with pytest.raises(UserError, match="at most its ε"):
        made.table("headline", published("a/1", 0.5))
