import json

import pytest

from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.config.technique import ExampleLevel
from ppml.records.files import read_json, write_json
from ppml.stages import account

PRIVACY = ExampleLevel(kind="example", epsilon=3.0, accountant="rdp", max_grad_norm=0.1)
WEAK = MechanismEvent(sample_rate=0.5, noise_multiplier=1.0, steps=20, max_grad_norm=0.1)
STRONG = MechanismEvent(sample_rate=0.1, noise_multiplier=2.0, steps=10, max_grad_norm=0.1)


def spent(*events):
    return epsilon(events, PRIVACY.delta, PRIVACY.accountant)


def test_epsilon_is_the_largest_over_the_owners_and_the_mechanism_is_that_owners():
    said = account.statement(PRIVACY, [(STRONG,), (WEAK,), (STRONG,)])
    assert said["epsilons"] == [spent(STRONG), spent(WEAK), spent(STRONG)]
    assert said["epsilon"] == spent(WEAK) > spent(STRONG)
    assert (said["noise_multiplier"], said["sample_rate"], said["steps"], said["max_grad_norm"]) == (1.0, 0.5, 20, 0.1)


def test_epsilon_comes_from_what_was_executed_and_not_from_the_target():
    said = account.statement(PRIVACY, [(WEAK,)])
    assert said["target_epsilon"] == 3.0
    assert said["epsilon"] == spent(WEAK) > 3.0


def test_everything_that_ran_on_an_owners_records_is_composed():
    said = account.statement(PRIVACY, [(WEAK, STRONG)])
    assert said["epsilon"] == spent(WEAK, STRONG) > spent(WEAK)
    assert said["steps"] == 30


def test_statement_has_everything_that_qualifies_an_epsilon():
    said = account.statement(PRIVACY, [(WEAK,)])
    qualifiers = {key: said[key] for key in ("unit", "noise_by", "noise_source", "delta", "accountant", "neighbouring")}
    assert qualifiers == {
        "unit": "example",
        "noise_by": "owner",
        "noise_source": "seeded",
        "delta": 1e-5,
        "accountant": "rdp",
        "neighbouring": "add_or_remove_one",
    }


def test_without_privacy_no_epsilon_is_stated():
    assert account.statement(None, [(), ()]) == {"unit": "none", "noise_by": "none", "epsilon": None}


def test_equal_mechanisms_are_accounted_once(monkeypatch):
    calls = []
    monkeypatch.setattr(account, "epsilon", lambda *given: calls.append(given) or 1.0)
    account.statement(PRIVACY, [(WEAK,), (WEAK,), (STRONG,), (WEAK,)])
    assert [events for events, *_ in calls] == [(WEAK,), (STRONG,)]


@pytest.mark.parametrize("privacy", [PRIVACY.to_json(), {"kind": "none"}])
def test_stage_writes_the_statement_of_one_run(privacy, tmp_path):
    private = privacy["kind"] != "none"
    write_json(tmp_path / "events.json", {"owners": [[WEAK.to_json()], [STRONG.to_json()]] if private else [[], []]})
    files = ["--events", str(tmp_path / "events.json"), "--output", str(tmp_path / "privacy.json")]
    account.main(["--spec", json.dumps({"privacy": privacy}), *files])
    expected = account.statement(PRIVACY if private else None, [(WEAK,), (STRONG,)])
    assert read_json(tmp_path / "privacy.json") == expected
    assert expected["epsilon"] == (spent(WEAK) if private else None)
