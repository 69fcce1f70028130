import pytest

from ppml.config.load import parse_config

from .small import PRIVATE, refusal, small

ARMS = {"plain": {}, "private": {"privacy": PRIVATE}}
CLIENTS = {
    "topology": {"kind": "federated", "partition": "iid8", "rounds": 2, "weighting": "uniform"},
    "privacy": {"kind": "client", "epsilon": 2.0},
}
SHOWN = {"e": {"title": "T", "arms": ["private"], "tables": ["audit"]}}


def audit(kind="canary", **keys):
    return small(arms=ARMS, audit={"kind": kind, **keys})


def test_private_arms_are_audited_where_it_is_asked_for_and_no_others():
    assert parse_config(audit(), "my.yaml").audited() == ("private",)
    assert parse_config(audit("none"), "my.yaml").audited() == ()
    assert parse_config(small(arms=ARMS), "my.yaml").audited() == ()


def test_arms_that_protect_clients_are_audited_like_those_that_protect_records():
    config = parse_config(small(arms={**ARMS, "clients": CLIENTS}, audit={"kind": "canary"}), "my.yaml")
    assert config.audited() == ("private", "clients")


def test_a_slow_arm_may_have_steps_of_its_own():
    config = parse_config(audit(steps=400, steps_of={"private": 64}), "my.yaml")
    assert (config.audit.steps_for("private"), config.audit.steps_for("another")) == (64, 400)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (audit("canry"), "audit.kind: got 'canry'; did you mean 'canary'? allowed: none, canary"),
        (audit(steps=31), "audit.steps: got 31; input should be greater than or equal to 32"),
        (audit(confidence=1.0), "audit.confidence: got 1.0; input should be less than 1"),
        (
            audit(stps=100),
            "audit: unknown key 'stps'; did you mean 'steps'? allowed: confidence, kind, steps, steps_of",
        ),
        (
            audit(steps_of={"private": 31}),
            "audit.steps_of.private: got 31; input should be greater than or equal to 32",
        ),
        (audit(steps_of={"plain": 64}), "audit.steps_of: unknown audited arm 'plain'; allowed: private"),
        (
            small(arms=ARMS, experiments=SHOWN),
            "experiments.e.tables: 'audit' shows arms that are audited, and none of private is; take an arm with "
            "privacy other than none, and set `audit: {kind: canary}`",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(content, message):
    assert refusal(content) == message
