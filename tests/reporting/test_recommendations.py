"""The decisions by threat, their table, and the answers to published numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ppml.errors import UserError
from ppml.reporting.decision import FILTERS, decide, protections
from ppml.reporting.literature import PublishedRow
from ppml.reporting.report_content import overview_of
from ppml.reporting.summaries import summarise

from .made_up import TECHNIQUES, Collected, MadeUpArm, collect

ARMS = {name: TECHNIQUES[name] for name in ("centralized", "dp", "fl", "fl_dp", "fl_he")} | {
    "encrypted": MadeUpArm("Square CNN", 0.98, model="square_cnn"),
    "fl_masks": replace(TECHNIQUES["fl_he"], label="FL, masks", aggregation="masking", upload=107_000),
    "fl_dp_shares": replace(TECHNIQUES["fl_dp_he"], label="FL + DP, distributed", accuracy=0.951, noise="distributed"),
    "fl_clients": replace(TECHNIQUES["fl_dp"], label="FL, clients", model="logistic", unit="client", noise="central"),
}
OPENED = {
    "fl_he": "the key holder together with the server",
    "fl_masks": "6 of 8 clients together with the server",
    "fl_dp_shares": "all 3 servers together",
}


@pytest.fixture
def collected() -> Collected:
    made = collect(ARMS)
    made.inferences = made.inferences.assign(arm="encrypted")
    for arm, parties in OPENED.items():
        made.records.loc[made.records["arm"] == arm, "update_opened_by"] = parties
    return made


def decisions(made):
    """Return the decisions on the only data set, and their options by the name of the threat."""
    summary = summarise(made.view, tuple(made.view.arms), made.records, made.costs)
    (data,) = decide(summary, made.records, made.inferences)
    return data, {one.threat.key: one.options for one in data.decisions}


def arms_of(found):
    return {threat: [one.arm for one in options] for threat, options in found.items()}


def test_each_protected_arm_has_its_threat(collected):
    # Of two arms with the same weights, the one with the smaller upload is first.
    assert arms_of(decisions(collected)[1]) == {
        "pooling": ["fl"],
        "server": ["fl_masks", "fl_he"],
        "model": ["dp"],
        "both": ["fl_dp_shares", "fl_dp"],
        "client": ["fl_clients"],
        "prediction": ["encrypted"],
    }


def test_cost_is_against_the_arm_without_the_protection(collected):
    data, found = decisions(collected)
    accuracy = collected.records.groupby("arm")["accuracy_all"].mean()
    seconds = collected.costs.groupby("arm")["cpu_seconds"].mean()
    against = {"pooling": "centralized", "server": "fl", "model": "centralized", "both": "fl"}
    for threat, other in against.items():
        one = found[threat][0]
        assert one.against == ARMS[other].label
        assert one.change == pytest.approx(accuracy[one.arm] - accuracy[other])
        assert one.seconds_factor == pytest.approx(seconds[one.arm] / seconds[other])
    assert found["server"][1].bytes_text == "1.13 MB (10.76\N{MULTIPLICATION SIGN})"
    # No arm without privacy has the model of this arm.
    assert found["client"][0].against == found["client"][0].change_text == ""
    # The sentence names the arm of each cost.
    assert "hiding the updates from the server costs nothing against FL;" in data.sentence
    points = f"{-100 * found['model'][0].change:.2f}"
    assert f"differential privacy at ε 2.90 costs {points} points against Centralized;" in data.sentence


def test_sentence_states_seeds_and_terms_of_epsilon(collected):
    data, found = decisions(collected)
    arms = [options[0].arm for options in found.values()]
    rows = collected.records[collected.records["arm"].isin(arms)]
    private = rows[rows["privacy_unit"] != "none"]
    seeds = [str(count) for count in sorted(set(rows.groupby("arm").size()))]
    assert f"over {' or '.join(seeds)} seed" in data.terms and data.terms in data.sentence
    assert set(private["privacy_unit"]) == {"example", "client"} and "one example or client" in data.terms
    assert f"δ {private['delta'].iloc[0]:g}".replace("e-0", "e-") in data.terms
    assert all(name.upper() in data.terms for name in private["accountant"].unique())


def test_sentence_without_privacy_states_no_epsilon():
    arms = {"centralized": TECHNIQUES["centralized"], "fl": TECHNIQUES["fl"]}
    assert "ε" not in decisions(collect(arms))[0].sentence


def test_cost_of_prediction_is_that_of_one_image(collected):
    (one,) = decisions(collected)[1]["prediction"]
    mean = collected.inferences.mean(numeric_only=True)
    assert one.seconds == pytest.approx(mean["one_client"] + mean["one_server"])
    assert one.bytes_text == "996 KB a prediction" and "996 KB a prediction" in one.cost
    # The accuracy is on the same images as that of all other arms.
    records = collected.records
    assert one.score == pytest.approx(records.loc[records["arm"] == "encrypted", "accuracy_all"].mean())


def test_trust_follows_from_access(collected):
    trust = {one.arm: one.trust for options in decisions(collected)[1].values() for one in options}
    assert trust["fl"] == "the server, with every update"
    assert trust["fl_he"] == "no collusion of the key holder and the server"
    assert trust["fl_masks"] == "no collusion of 6 of 8 clients and the server"
    assert trust["fl_dp_shares"] == "no collusion of all 3 servers"
    assert (trust["dp"], trust["fl_dp"]) == ("the owner of all examples", "no other party")
    assert trust["fl_clients"] == "the server, with every update and the noise"


def test_of_equal_trust_the_most_accurate_arm_remains(techniques):
    better = replace(TECHNIQUES["local"], label="Local, logistic", accuracy=0.96, model="logistic")
    found = arms_of(decisions(techniques)[1])
    assert found["pooling"] == ["fl", "local"]
    # The noise of each client protects its update, with encryption or without: the smaller upload remains.
    assert found["both"] == ["fl_dp"]
    assert arms_of(decisions(collect({**TECHNIQUES, "better": better}))[1])["pooling"] == ["fl", "better"]


def test_technique_at_another_epsilon_is_not_compared():
    arms = {
        "none": MadeUpArm("ML", 0.98),
        **{f"dp_{n}": MadeUpArm(f"ML + DP {n}", 0.95, epsilon=2.0, max_grad_norm=n) for n in (1, 2)},
        "loose": MadeUpArm("ML + DP 50", 0.979, epsilon=50.0),
    }
    (one,) = decisions(collect(arms))[1]["model"]
    assert one.arm in ("dp_1", "dp_2")


def test_without_common_epsilon_each_one_is_a_choice():
    arms = {f"dp_{n}": MadeUpArm(f"ML + DP {n}", 0.9 + n / 100, epsilon=float(n)) for n in (1, 2, 4)}
    data, found = decisions(collect(arms))
    assert [one.arm for one in found["model"]] == ["dp_4", "dp_2", "dp_1"]
    assert data.sentence.startswith("On MNIST with 10,000 training examples: differential privacy at ε 4.00 reaches 9")
    assert not found["model"][0].against


def test_techniques_compare_over_common_seeds(collected):
    # The encrypted arm has two seeds more, which are better by chance; with the same seed both arms are equal.
    later = (collected.records["arm"] == "fl_he") & (collected.records["seed"] > 0)
    collected.records.loc[later, "accuracy_all"] = 0.999
    one_seed = (collected.records["arm"] != "fl_masks") | (collected.records["seed"] == 0)
    collected.records = collected.records[one_seed]
    options = decisions(collected)[1]["server"]
    assert [one.arm for one in options] == ["fl_masks", "fl_he"]
    # The change is over the seeds of both arms, too.
    assert options[0].change == 0


def test_two_seeds_have_no_interval():
    found = decisions(collect(TECHNIQUES, seeds=2))[1]
    assert "[" not in found["model"][0].change_text
    assert "[" in decisions(collect(TECHNIQUES))[1]["model"][0].change_text


def test_each_data_set_has_its_own_decisions():
    made = collect({**TECHNIQUES, "other": replace(TECHNIQUES["dp"], dataset="kmnist", accuracy=0.5)})
    summary = summarise(made.view, tuple(made.view.arms), made.records, made.costs)
    first, second = decide(summary, made.records, made.inferences)
    assert (first.dataset, second.dataset) == ("MNIST", "KMNIST")
    assert [option.arm for one in second.decisions for option in one.options] == ["other"]


def test_protections_follow_from_the_parts_of_an_arm(techniques):
    summary = summarise(techniques.view, tuple(techniques.view.arms), techniques.records, techniques.costs)
    found = {arm: protections(row, {"fl"}) for arm, row in summary.iterrows()}
    assert found["centralized"] == []
    assert found["fl"] == ["pooling", "prediction"]
    assert found["fl_he"] == ["pooling", "server"]
    assert found["fl_dp_he"] == found["fl_dp"] == ["pooling", "server", "model"]
    assert set(FILTERS) == {"pooling", "server", "model", "client", "prediction"}


def test_table_and_report_make_the_same_decisions(collected):
    # The report has arms that the table of recommendations lacks, and they decide nothing.
    few = [arm for arm in ARMS if arm != "fl_masks"]
    spec = {
        "labels": collected.view.arms,
        "experiments": [
            {"name": "all", "title": "All", "arms": [*ARMS], "tables": ["threats"]},
            {"name": "few", "title": "Few", "arms": few, "tables": ["recommendations"]},
        ],
    }
    overview = overview_of(spec, collected.records, collected.costs, collected.inferences)
    collected.view = collected.view.model_copy(update={"arms": {arm: collected.view.arms[arm] for arm in few}})
    table = collected.table("recommendations")
    assert [*table.cells] == ["Threat", "Technique", "Accuracy (%)", "ε", "Cost", "Trust"]
    shown = [(one.threat.name, option) for one in overview.decisions[0].decisions for option in one.options]
    assert len(shown) == len(few) - 1 and [*table.raw["arm"]] == [option.arm for _, option in shown]
    for (threat, one), cells in zip(shown, table.lines, strict=True):
        assert cells == [threat, one.label, one.score_text, one.epsilon_text, one.cost, one.trust]


def test_table_without_protection_is_refused():
    made = collect({"centralized": TECHNIQUES["centralized"]})
    made.inferences = made.inferences.iloc[:0]
    with pytest.raises(UserError, match="table recommendations"):
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
