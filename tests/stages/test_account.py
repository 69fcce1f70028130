import json
from dataclasses import replace

import pytest

from ppml.accounting import pld
from ppml.accounting.epsilon import ACCOUNTANTS, epsilon
from ppml.accounting.errors import AccountantFailed
from ppml.accounting.events import MechanismEvent
from ppml.config.technique import ClientLevel, ExampleLevel
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json
from ppml.stages import account

PRIVACY = ExampleLevel(kind="example", epsilon=3.0, accountant="rdp", max_grad_norm=0.1)
WEAK = MechanismEvent(sample_rate=0.5, noise_multiplier=2.0, steps=20, max_grad_norm=0.1)
STRONG = MechanismEvent(sample_rate=0.1, noise_multiplier=2.0, steps=10, max_grad_norm=0.1)


def spent(*events):
    return epsilon(events, PRIVACY.delta, PRIVACY.accountant)


def stated(*owners, privacy=PRIVACY):
    return account.privacy_statement(privacy, owners, [sum(event.steps for event in own) for own in owners])


def test_epsilon_is_the_largest_over_the_owners_and_the_mechanism_is_that_owners():
    said = stated((STRONG,), (WEAK,), (STRONG,))
    assert said["epsilons"] == [spent(STRONG), spent(WEAK), spent(STRONG)]
    assert said["epsilon"] == spent(WEAK) > spent(STRONG)
    assert (said["noise_multiplier"], said["sample_rate"], said["steps"], said["max_grad_norm"]) == (2.0, 0.5, 20, 0.1)


def test_epsilon_comes_from_what_was_executed_and_not_from_the_target():
    said = stated((WEAK,))
    assert said["target_epsilon"] == 3.0
    assert said["epsilon"] == spent(WEAK) > 3.0


def test_everything_that_ran_on_an_owners_records_is_composed():
    said = stated((WEAK, STRONG))
    assert said["epsilon"] == spent(WEAK, STRONG) > spent(WEAK)
    assert said["steps"] == 30


def test_statement_has_everything_that_qualifies_an_epsilon():
    said = stated((WEAK,))
    names = ("unit", "noise_by", "noise_source", "sampling_source", "sampler", "delta", "accountant", "neighbouring")
    qualifiers = {key: said[key] for key in names}
    assert qualifiers == {
        "unit": "example",
        "noise_by": "owner",
        "noise_source": "seeded",
        "sampling_source": "seeded",
        "sampler": "poisson",
        "delta": 1e-5,
        "accountant": "rdp",
        "neighbouring": "zero_out_one",
    }


def test_without_privacy_no_epsilon_is_stated():
    assert account.privacy_statement(None, [(), ()], [0, 0]) == {"unit": "none", "noise_by": "none", "epsilon": None}


def test_equal_mechanisms_are_accounted_once(monkeypatch):
    calls = []
    true = account.epsilons_by_accountant
    monkeypatch.setattr(account, "epsilons_by_accountant", lambda *given: calls.append(given) or true(*given))
    stated((WEAK,), (WEAK,), (STRONG,), (WEAK,))
    assert [events for events, *_ in calls] == [(WEAK,), (STRONG,)]


@pytest.mark.parametrize("privacy", [PRIVACY.to_json(), {"kind": "none"}])
def test_stage_writes_the_statement_of_one_run(privacy, tmp_path):
    private = privacy["kind"] != "none"
    write_json(
        tmp_path / "events.json",
        {
            "owners": [[WEAK.to_json()], [STRONG.to_json()]] if private else [[], []],
            "planned_steps": [20, 10] if private else [0, 0],
        },
    )
    files = ["--events", str(tmp_path / "events.json"), "--output", str(tmp_path / "privacy.json")]
    account.main(["--spec", json.dumps({"privacy": privacy}), *files])
    expected = stated((WEAK,), (STRONG,)) if private else account.privacy_statement(None, [(), ()], [0, 0])
    assert read_json(tmp_path / "privacy.json") == expected
    assert expected["epsilon"] == (spent(WEAK) if private else None)


# Every accountant, beside the one that is stated.

FULL = MechanismEvent(sample_rate=1.0, noise_multiplier=10.0, steps=40, max_grad_norm=0.1)


@pytest.mark.parametrize("accountant", ["prv", "rdp", "pld", "gdp"])
def test_the_stated_epsilon_is_that_of_the_configured_accountant_and_the_others_stand_beside_it(accountant):
    said = stated((FULL,), privacy=PRIVACY.model_copy(update={"accountant": accountant}))
    each = {name: epsilon([FULL], PRIVACY.delta, name) for name in ("prv", "rdp", "pld", "gdp")}
    assert {name: said[f"epsilon_{name}"] for name in each} == each
    assert (said["epsilon"], said["accountant"]) == (each[accountant], accountant)
    assert said["accountant_configured"] == accountant


def test_an_accountant_that_has_no_number_for_an_owner_has_none():
    assert stated((FULL,), (WEAK,))["epsilon_gdp"] is None


def failing(monkeypatch, name, found):
    monkeypatch.setitem(ACCOUNTANTS, name, found)


def test_renyi_stands_in_for_a_prv_that_fails_and_the_statement_says_so(monkeypatch):
    def fails(*given):
        raise AccountantFailed("no number")

    failing(monkeypatch, "prv", fails)
    said = stated((WEAK,), (STRONG,), privacy=PRIVACY.model_copy(update={"accountant": "prv"}))
    assert (said["accountant"], said["accountant_configured"], said["epsilon_prv"]) == ("rdp", "prv", None)
    assert said["epsilons"] == [epsilon([own], PRIVACY.delta, "rdp") for own in (WEAK, STRONG)]
    assert said["curve"][-1]["epsilon"] == said["epsilon"]


@pytest.mark.parametrize(("events", "names"), [((FULL,), ("gdp",)), ((WEAK,), ("pld", "prv"))], ids=["full", "sampled"])
def test_the_tightest_bound_is_stated_and_named(events, names):
    said = stated(events, privacy=PRIVACY.model_copy(update={"accountant": "tightest"}))
    assert (said["accountant"], said["accountant_configured"]) == (
        min(names, key=lambda name: said[f"epsilon_{name}"]),
        "tightest",
    )
    assert said["epsilon"] == min(said[f"epsilon_{name}"] for name in names) < said["epsilon_rdp"]
    assert said["curve"][-1]["epsilon"] == said["epsilon"]


def of_pld(change):
    return lambda kinds, counts, delta: [change(value) for value in pld.epsilons(kinds, counts, delta)]


@pytest.mark.parametrize("accountant", ["tightest", "prv", "pld"])
@pytest.mark.parametrize("apart", [0.019, 0.07])
def test_where_prv_and_pld_disagree_renyi_states_the_number(accountant, apart, monkeypatch):
    privacy = PRIVACY.model_copy(update={"accountant": accountant})
    weaker = (MechanismEvent(0.1, 4.0, 50, 0.1),)
    failing(monkeypatch, "prv", of_pld(lambda value: value + apart))
    said = stated(weaker, privacy=privacy)
    if apart < 0.02:
        assert said["accountant"] == {"prv": "prv"}.get(accountant, "pld")
    else:
        assert (said["accountant"], said["epsilon"]) == ("rdp", epsilon(weaker, PRIVACY.delta, "rdp"))


@pytest.mark.parametrize("accountant", ["tightest", "prv", "pld"])
def test_a_number_below_the_exact_epsilon_is_neither_stated_nor_written(accountant, monkeypatch):
    for name in ("prv", "pld"):
        failing(monkeypatch, name, of_pld(lambda value: 0.98 * value))
    said = stated((FULL,), privacy=PRIVACY.model_copy(update={"accountant": accountant}))
    assert (said["epsilon_prv"], said["epsilon_pld"]) == (None, None)
    assert said["accountant"] == ("gdp" if accountant == "tightest" else "rdp")
    assert said["epsilon"] >= epsilon([FULL], PRIVACY.delta, "gdp")


def test_closed_forms_that_contradict_each_other_stop_the_run(monkeypatch):
    failing(monkeypatch, "rdp", of_pld(lambda value: 0.9 * value))
    with pytest.raises(UserError, match=r"RDP says epsilon .* below the exact .* \(GDP\)"):
        stated((FULL,))


# Replacing, and what several runs need.


def test_replacing_a_record_spends_what_half_of_the_noise_does_at_full_batches():
    said = stated((FULL,), (STRONG,))
    assert said["epsilon_replace_one"] == epsilon([replace(FULL, noise_multiplier=5.0)], PRIVACY.delta, "gdp")
    assert stated((STRONG,))["epsilon_replace_one"] > 1.5 * stated((STRONG,))["epsilon_pld"]


def test_the_dominating_mechanism_and_the_identifier_are_written():
    said = account.privacy_statement(PRIVACY, [(WEAK,), (STRONG, STRONG)], [20, 20], mechanism="1f")
    assert said["mechanism"] == "1f"
    assert said["dominating"] == [{"sample_rate": 0.5, "noise_multiplier": 2.0, "steps": 20}]


# Sources are those of the executed steps.

SECURE = {"noise_source": "secure", "sampling_source": "secure"}


@pytest.mark.parametrize("seeded", ["noise_source", "sampling_source"])
def test_secure_is_claimed_only_of_steps_that_drew_so(seeded):
    private = PRIVACY.model_copy(update={"noise_source": "secure"})
    said = stated((replace(WEAK, **SECURE),), privacy=private)
    assert (said["noise_source"], said["sampling_source"]) == ("secure", "secure")
    one_seeded = replace(WEAK, **SECURE, steps=19), replace(WEAK, **{**SECURE, seeded: "seeded"}, steps=1)
    with pytest.raises(ValueError, match=f"{seeded} of the executed steps is 'seeded', configured is 'secure'"):
        stated((replace(WEAK, **SECURE),), one_seeded, privacy=private)


def test_a_source_is_not_copied_from_the_configuration():
    said = stated((replace(WEAK, noise_source="secure"),))
    assert (said["noise_source"], said["sampling_source"]) == ("secure", "seeded")


# Along the way.


def test_the_curve_rises_from_the_first_steps_to_the_stated_epsilon_at_the_last():
    said = stated((STRONG,), (WEAK, STRONG))
    epsilon_curve = said["curve"]
    assert len(epsilon_curve) == 30 == said["steps"]
    assert (epsilon_curve[-1]["step"], epsilon_curve[-1]["epsilon"]) == (30, said["epsilon"])
    assert epsilon_curve[-1]["epoch"] == pytest.approx(0.5 * 20 + 0.1 * 10)
    spends = [point["epsilon"] for point in epsilon_curve]
    assert spends == sorted(spends)
    half = [point["epsilon"] for point in epsilon_curve if point["step"] == 10]
    assert half == [spent(MechanismEvent(0.5, 2.0, 10, 0.1))]


# Steps are those planned.


@pytest.mark.parametrize("planned", [19, 21])
def test_steps_other_than_those_planned_are_an_error(planned):
    with pytest.raises(ValueError, match=f"owner 0 took 20 steps, planned were {planned}"):
        account.privacy_statement(PRIVACY, [(WEAK,)], [planned])


def test_under_a_budget_fewer_steps_may_run_and_never_more():
    budget = ExampleLevel(kind="example", noise_multiplier=1.0, budget=spent(WEAK), accountant="rdp", max_grad_norm=0.1)
    said = account.privacy_statement(budget, [(WEAK,)], [50])
    assert (said["steps"], said["steps_planned"], said["budget"]) == (20, 50, said["epsilon"])
    with pytest.raises(ValueError, match="took 20 steps"):
        account.privacy_statement(budget, [(WEAK,)], [19])
    with pytest.raises(ValueError, match="exceeds the budget"):
        account.privacy_statement(budget.model_copy(update={"budget": 0.99 * spent(WEAK)}), [(WEAK,)], [50])


def test_where_not_every_client_took_part_in_all_rounds_fewer_steps_may_run_and_never_more():
    said = account.privacy_statement(PRIVACY, [(WEAK,), (), (STRONG,)], [50, 20, 10], complete=False)
    assert said["epsilons"] == [spent(WEAK), 0.0, spent(STRONG)]
    assert (said["epsilon"], said["steps"], said["steps_planned"]) == (spent(WEAK), 20, 50)
    with pytest.raises(ValueError, match="owner 0 took 20 steps, planned were 19"):
        account.privacy_statement(PRIVACY, [(WEAK,)], [19], complete=False)
    with pytest.raises(ValueError, match="executed no mechanism"):
        account.privacy_statement(PRIVACY, [(), ()], [20, 20], complete=False)


@pytest.mark.parametrize("complete", [True, False, None], ids=["complete", "not complete", "not said"])
def test_stage_allows_fewer_steps_only_where_the_events_say_that_clients_were_left_out(complete, tmp_path):
    content = {"owners": [[WEAK.to_json()]], "planned_steps": [21]}
    write_json(tmp_path / "events.json", content if complete is None else {**content, "complete": complete})
    files = ["--events", str(tmp_path / "events.json"), "--output", str(tmp_path / "privacy.json")]
    given = ["--spec", json.dumps({"privacy": PRIVACY.to_json()}), *files]
    if complete is False:
        account.main(given)
        assert read_json(tmp_path / "privacy.json") == account.privacy_statement(PRIVACY, [(WEAK,)], [21], complete=False)
    else:
        with pytest.raises(ValueError, match="owner 0 took 20 steps, planned were 21"):
            account.main(given)


def test_an_owner_on_whose_records_nothing_ran_is_an_error():
    with pytest.raises(ValueError, match="executed no mechanism"):
        account.privacy_statement(PRIVACY, [(WEAK,), ()], [20, 0])


SHARED = {"kind": "example", "epsilon": 8.0, "accountant": "gdp", "noise": "distributed", "max_colluding": 2, "max_dropouts": 1}
A_STEP_ON_ALL = MechanismEvent(1.0, 6.0, 20, 1.0)


def opened(shared=SHARED):
    return stated(*[(A_STEP_ON_ALL,)] * 12, privacy=ExampleLevel.model_validate(shared))["epsilon_if_opened"]


def test_towards_who_opens_single_contributions_the_epsilon_is_that_of_one_share():
    # Nine of twelve shares count, so that one of them has a third of the noise.
    assert opened() == pytest.approx(epsilon([MechanismEvent(1.0, 2.0, 20, 1.0)], 1e-5, "gdp"))
    assert stated((A_STEP_ON_ALL,))["epsilon_if_opened"] is None


def test_an_opened_share_that_is_taken_for_the_whole_noise_is_caught(monkeypatch):
    monkeypatch.setattr(account, "replace", lambda event, **changes: event)
    with pytest.raises(AssertionError):
        test_towards_who_opens_single_contributions_the_epsilon_is_that_of_one_share()


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_what_is_protected_of_a_client_is_what_it_contributes(noise):
    privacy_statement = stated(*[(A_STEP_ON_ALL,)] * 4, privacy=ClientLevel(epsilon=8.0, noise=noise))
    assert (privacy_statement["unit"], privacy_statement["neighbouring"]) == ("client", "zero_out_one")


# Epsilon 0.


@pytest.mark.parametrize("accountant", ["tightest", "prv", "rdp", "pld", "gdp"])
def test_an_epsilon_of_0_is_stated_by_every_accountant(accountant):
    private = PRIVACY.model_copy(update={"accountant": accountant, "delta": 0.2})
    said = stated((MechanismEvent(1.0, 10.0, 1, 0.1),), privacy=private)
    assert said["epsilon"] == 0.0
    assert [said[f"epsilon_{name}"] for name in ("prv", "rdp", "pld", "gdp")] == [0.0] * 4
