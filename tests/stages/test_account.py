"""The stage account: the privacy statement of a run."""

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

from .conftest import run_stage

PRIVACY = ExampleLevel(kind="example", epsilon=3.0, accountant="rdp", max_grad_norm=0.1)
WEAK = MechanismEvent(sample_rate=0.5, noise_multiplier=2.0, steps=20, max_grad_norm=0.1)
STRONG = MechanismEvent(sample_rate=0.1, noise_multiplier=2.0, steps=10, max_grad_norm=0.1)


def spent(*events):
    return epsilon(events, PRIVACY.delta, PRIVACY.accountant)


def state(*owners, privacy=PRIVACY):
    return account.privacy_statement(privacy, owners, [sum(event.steps for event in own) for own in owners])


def test_statement_describes_owner_with_largest_epsilon():
    statement = state((STRONG,), (WEAK,), (STRONG,))
    assert statement["epsilons"] == [spent(STRONG), spent(WEAK), spent(STRONG)]
    assert statement["epsilon"] == spent(WEAK) > spent(STRONG)
    mechanism = {"noise_multiplier": 2.0, "sample_rate": 0.5, "steps": 20, "max_grad_norm": 0.1}
    assert statement.items() >= mechanism.items()


def test_epsilon_is_that_of_executed_steps_not_target():
    statement = state((WEAK,))
    assert statement["target_epsilon"] == 3.0
    assert statement["epsilon"] == spent(WEAK) > 3.0


def test_all_mechanisms_of_an_owner_are_composed():
    statement = state((WEAK, STRONG))
    assert statement["epsilon"] == spent(WEAK, STRONG) > spent(WEAK)
    assert statement["steps"] == 30


def test_statement_has_all_qualifiers_of_epsilon():
    statement = state((WEAK,))
    names = ("unit", "noise_by", "noise_source", "sampling_source", "sampler", "delta", "accountant", "neighbouring")
    qualifiers = {key: statement[key] for key in names}
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


def test_arm_without_privacy_states_no_epsilon():
    assert account.privacy_statement(None, [(), ()], [0, 0]) == {"unit": "none", "noise_by": "none", "epsilon": None}


def test_equal_mechanisms_are_accounted_once(monkeypatch):
    calls = []
    true = account.epsilons_by_accountant
    monkeypatch.setattr(account, "epsilons_by_accountant", lambda *given: calls.append(given) or true(*given))
    state((WEAK,), (WEAK,), (STRONG,), (WEAK,))
    assert [events for events, *_ in calls] == [(WEAK,), (STRONG,)]


def write_statement(folder, privacy):
    """Run the stage on the events of a folder, and return the content of privacy.json."""
    files = folder / "events.json", folder / "privacy.json"
    run_stage("account", {"privacy": privacy}, {"events": files[0]}, {"privacy": files[1]})
    return read_json(files[1])


@pytest.mark.parametrize("privacy", [PRIVACY.to_json(), {"kind": "none"}])
def test_stage_writes_statement_of_one_run(privacy, tmp_path):
    private = privacy["kind"] != "none"
    write_json(
        tmp_path / "events.json",
        {
            "owners": [[WEAK.to_json()], [STRONG.to_json()]] if private else [[], []],
            "planned_steps": [20, 10] if private else [0, 0],
        },
    )
    written = write_statement(tmp_path, privacy)
    expected = state((WEAK,), (STRONG,)) if private else account.privacy_statement(None, [(), ()], [0, 0])
    assert written == expected
    assert expected["epsilon"] == (spent(WEAK) if private else None)


# All accountants.

FULL = MechanismEvent(sample_rate=1.0, noise_multiplier=10.0, steps=40, max_grad_norm=0.1)


@pytest.mark.parametrize("accountant", ["prv", "rdp", "pld", "gdp"])
def test_configured_accountant_states_epsilon_and_others_are_written(accountant):
    statement = state((FULL,), privacy=PRIVACY.model_copy(update={"accountant": accountant}))
    each = {name: epsilon([FULL], PRIVACY.delta, name) for name in ("prv", "rdp", "pld", "gdp")}
    assert {name: statement[f"epsilon_{name}"] for name in each} == each
    assert (statement["epsilon"], statement["accountant"]) == (each[accountant], accountant)
    assert statement["accountant_configured"] == accountant


def test_accountant_without_number_for_one_owner_has_none():
    assert state((FULL,), (WEAK,))["epsilon_gdp"] is None


def replace_accountant(monkeypatch, name, found):
    monkeypatch.setitem(ACCOUNTANTS, name, found)


def test_rdp_replaces_failed_prv_and_statement_names_it(monkeypatch):
    def fails(*given):
        raise AccountantFailed("no number")

    replace_accountant(monkeypatch, "prv", fails)
    statement = state((WEAK,), (STRONG,), privacy=PRIVACY.model_copy(update={"accountant": "prv"}))
    assert [statement[key] for key in ("accountant", "accountant_configured", "epsilon_prv")] == ["rdp", "prv", None]
    assert statement["epsilons"] == [epsilon([own], PRIVACY.delta, "rdp") for own in (WEAK, STRONG)]
    assert statement["curve"][-1]["epsilon"] == statement["epsilon"]


@pytest.mark.parametrize(("events", "names"), [((FULL,), ("gdp",)), ((WEAK,), ("pld", "prv"))], ids=["full", "sampled"])
def test_tightest_bound_is_stated_and_named(events, names):
    statement = state(events, privacy=PRIVACY.model_copy(update={"accountant": "tightest"}))
    assert (statement["accountant"], statement["accountant_configured"]) == (
        min(names, key=lambda name: statement[f"epsilon_{name}"]),
        "tightest",
    )
    assert statement["epsilon"] == min(statement[f"epsilon_{name}"] for name in names) < statement["epsilon_rdp"]
    assert statement["curve"][-1]["epsilon"] == statement["epsilon"]


def of_pld(change):
    return lambda kinds, counts, delta: [change(value) for value in pld.epsilons(kinds, counts, delta)]


@pytest.mark.parametrize("accountant", ["tightest", "prv", "pld"])
@pytest.mark.parametrize("difference", [0.019, 0.07])
def test_rdp_states_epsilon_if_prv_and_pld_disagree(accountant, difference, monkeypatch):
    privacy = PRIVACY.model_copy(update={"accountant": accountant})
    weaker = (MechanismEvent(0.1, 4.0, 50, 0.1),)
    replace_accountant(monkeypatch, "prv", of_pld(lambda value: value + difference))
    statement = state(weaker, privacy=privacy)
    if difference < 0.02:
        assert statement["accountant"] == {"prv": "prv"}.get(accountant, "pld")
    else:
        assert (statement["accountant"], statement["epsilon"]) == ("rdp", epsilon(weaker, PRIVACY.delta, "rdp"))


@pytest.mark.parametrize("accountant", ["tightest", "prv", "pld"])
def test_number_below_exact_epsilon_is_neither_stated_nor_written(accountant, monkeypatch):
    for name in ("prv", "pld"):
        replace_accountant(monkeypatch, name, of_pld(lambda value: 0.98 * value))
    statement = state((FULL,), privacy=PRIVACY.model_copy(update={"accountant": accountant}))
    assert (statement["epsilon_prv"], statement["epsilon_pld"]) == (None, None)
    assert statement["accountant"] == ("gdp" if accountant == "tightest" else "rdp")
    assert statement["epsilon"] >= epsilon([FULL], PRIVACY.delta, "gdp")


def test_contradictory_closed_forms_are_an_error(monkeypatch):
    replace_accountant(monkeypatch, "rdp", of_pld(lambda value: 0.9 * value))
    with pytest.raises(UserError, match=r"^privacy\.accountant: epsilon 2\.33\d* by RDP is below the exact 2\.59"):
        state((FULL,))


# Replacement of an example, and values for the joint epsilon of several runs.


def test_replace_one_at_full_batches_equals_half_the_noise():
    statement = state((FULL,), (STRONG,))
    assert statement["epsilon_replace_one"] == epsilon([replace(FULL, noise_multiplier=5.0)], PRIVACY.delta, "gdp")
    assert state((STRONG,))["epsilon_replace_one"] > 1.5 * state((STRONG,))["epsilon_pld"]


def test_dominating_mechanism_and_identifier_are_written():
    statement = account.privacy_statement(PRIVACY, [(WEAK,), (STRONG, STRONG)], [20, 20], mechanism="1f")
    assert statement["mechanism"] == "1f"
    assert statement["dominating"] == [{"sample_rate": 0.5, "noise_multiplier": 2.0, "steps": 20}]


# Sources are those of the executed steps.

SECURE = {"noise_source": "secure", "sampling_source": "secure"}


@pytest.mark.parametrize("seeded", ["noise_source", "sampling_source"])
def test_secure_is_claimed_only_if_all_steps_were_secure(seeded):
    private = PRIVACY.model_copy(update={"noise_source": "secure"})
    statement = state((replace(WEAK, **SECURE),), privacy=private)
    assert (statement["noise_source"], statement["sampling_source"]) == ("secure", "secure")
    one_seeded = replace(WEAK, **SECURE, steps=19), replace(WEAK, **{**SECURE, seeded: "seeded"}, steps=1)
    with pytest.raises(ValueError, match=f"{seeded} of the executed steps is 'seeded', configured is 'secure'"):
        state((replace(WEAK, **SECURE),), one_seeded, privacy=private)


def test_source_is_not_copied_from_configuration():
    statement = state((replace(WEAK, noise_source="secure"),))
    assert (statement["noise_source"], statement["sampling_source"]) == ("secure", "seeded")


# The curve.


def test_curve_rises_to_stated_epsilon():
    statement = state((STRONG,), (WEAK, STRONG))
    epsilon_curve = statement["curve"]
    assert len(epsilon_curve) == 30 == statement["steps"]
    assert (epsilon_curve[-1]["step"], epsilon_curve[-1]["epsilon"]) == (30, statement["epsilon"])
    assert epsilon_curve[-1]["epoch"] == pytest.approx(0.5 * 20 + 0.1 * 10)
    spends = [point["epsilon"] for point in epsilon_curve]
    assert spends == sorted(spends)
    half = [point["epsilon"] for point in epsilon_curve if point["step"] == 10]
    assert half == [spent(MechanismEvent(0.5, 2.0, 10, 0.1))]


# Planned steps.


@pytest.mark.parametrize("planned", [19, 21])
def test_unplanned_number_of_steps_is_an_error(planned):
    with pytest.raises(ValueError, match=f"owner 0 took 20 steps, planned were {planned}"):
        account.privacy_statement(PRIVACY, [(WEAK,)], [planned])


def test_budget_allows_fewer_steps_and_never_more():
    budget = ExampleLevel(kind="example", noise_multiplier=1.0, budget=spent(WEAK), accountant="rdp", max_grad_norm=0.1)
    statement = account.privacy_statement(budget, [(WEAK,)], [50])
    assert (statement["steps"], statement["steps_planned"], statement["budget"]) == (20, 50, statement["epsilon"])
    with pytest.raises(ValueError, match="took 20 steps"):
        account.privacy_statement(budget, [(WEAK,)], [19])
    with pytest.raises(ValueError, match="exceeds the budget"):
        account.privacy_statement(budget.model_copy(update={"budget": 0.99 * spent(WEAK)}), [(WEAK,)], [50])


def test_partial_participation_allows_fewer_steps_and_never_more():
    statement = account.privacy_statement(PRIVACY, [(WEAK,), (), (STRONG,)], [50, 20, 10], complete=False)
    assert statement["epsilons"] == [spent(WEAK), 0.0, spent(STRONG)]
    assert (statement["epsilon"], statement["steps"], statement["steps_planned"]) == (spent(WEAK), 20, 50)
    with pytest.raises(ValueError, match="owner 0 took 20 steps, planned were 19"):
        account.privacy_statement(PRIVACY, [(WEAK,)], [19], complete=False)
    with pytest.raises(ValueError, match="executed no mechanism"):
        account.privacy_statement(PRIVACY, [(), ()], [20, 20], complete=False)


@pytest.mark.parametrize("complete", [True, False, None], ids=["complete", "incomplete", "absent"])
def test_stage_allows_fewer_steps_only_if_events_are_incomplete(complete, tmp_path):
    content = {"owners": [[WEAK.to_json()]], "planned_steps": [21]}
    write_json(tmp_path / "events.json", content if complete is None else {**content, "complete": complete})
    if complete is False:
        expected = account.privacy_statement(PRIVACY, [(WEAK,)], [21], complete=False)
        assert write_statement(tmp_path, PRIVACY.to_json()) == expected
    else:
        with pytest.raises(ValueError, match="owner 0 took 20 steps, planned were 21"):
            write_statement(tmp_path, PRIVACY.to_json())


def test_owner_without_executed_mechanism_is_an_error():
    with pytest.raises(ValueError, match="executed no mechanism"):
        account.privacy_statement(PRIVACY, [(WEAK,), ()], [20, 0])


PARTIES = {"max_colluding": 2, "max_dropouts": 1}
SHARED = {"kind": "example", "epsilon": 8.0, "accountant": "gdp", "noise": "distributed", **PARTIES}
A_STEP_ON_ALL = MechanismEvent(1.0, 6.0, 20, 1.0)


def opened(shared=SHARED):
    return state(*[(A_STEP_ON_ALL,)] * 12, privacy=ExampleLevel.model_validate(shared))["epsilon_if_opened"]


def test_epsilon_if_opened_is_that_of_one_share():
    # Nine of twelve shares count, so that one of them has a third of the noise.
    assert opened() == pytest.approx(epsilon([MechanismEvent(1.0, 2.0, 20, 1.0)], 1e-5, "gdp"))
    assert state((A_STEP_ON_ALL,))["epsilon_if_opened"] is None


def test_opened_share_with_whole_noise_is_caught(monkeypatch):
    monkeypatch.setattr(account, "replace", lambda event, **changes: event)
    with pytest.raises(AssertionError):
        test_epsilon_if_opened_is_that_of_one_share()


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_client_level_neighbours_differ_by_zeroed_contribution(noise):
    privacy_statement = state(*[(A_STEP_ON_ALL,)] * 4, privacy=ClientLevel(epsilon=8.0, noise=noise))
    assert (privacy_statement["unit"], privacy_statement["neighbouring"]) == ("client", "zero_out_one")


# Epsilon 0.


@pytest.mark.parametrize("accountant", ["tightest", "prv", "rdp", "pld", "gdp"])
def test_every_accountant_states_epsilon_0(accountant):
    private = PRIVACY.model_copy(update={"accountant": accountant, "delta": 0.2})
    statement = state((MechanismEvent(1.0, 10.0, 1, 0.1),), privacy=private)
    assert statement["epsilon"] == 0.0
    assert [statement[f"epsilon_{name}"] for name in ("prv", "rdp", "pld", "gdp")] == [0.0] * 4
