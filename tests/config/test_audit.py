import pytest

from ppml.config.load import parse_config

from .small import PRIVATE, check_refused, small

ARMS = {"plain": {}, "private": {"privacy": PRIVATE}}
CLIENTS = {
    "topology": {"kind": "federated", "partition": "iid8", "rounds": 2, "weighting": "uniform"},
    "privacy": {"kind": "client", "epsilon": 2.0},
}
SHOWN = {"e": {"title": "T", "arms": ["private"], "tables": ["audit"]}}


def audit(kind="canary", **keys):
    return small(arms=ARMS, audit={"kind": kind, **keys})


def test_only_private_arms_are_audited_on_request():
    assert parse_config(audit(), "my.yaml").audited() == ("private",)
    assert parse_config(audit("none"), "my.yaml").audited() == ()
    assert parse_config(small(arms=ARMS), "my.yaml").audited() == ()


def test_arms_with_client_level_privacy_are_audited():
    config = parse_config(small(arms={**ARMS, "clients": CLIENTS}, audit={"kind": "canary"}), "my.yaml")
    assert config.audited() == ("private", "clients")


def test_arm_may_have_its_own_number_of_steps():
    config = parse_config(audit(steps=400, steps_by_arm={"private": 64}), "my.yaml")
    assert (config.audit.steps_for("private"), config.audit.steps_for("another")) == (64, 400)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (audit("canry"), "audit.kind: got 'canry'; did you mean 'canary'? allowed: none, canary"),
        (audit(steps=31), "audit.steps: got 31; input should be greater than or equal to 32"),
        (audit(confidence=1.0), "audit.confidence: got 1.0; input should be less than 1"),
        (
            audit(stps=100),
            "audit: unknown key 'stps'; did you mean 'steps'? allowed: confidence, kind, steps, steps_by_arm",
        ),
        (
            audit(steps_by_arm={"private": 31}),
            "audit.steps_by_arm.private: got 31; input should be greater than or equal to 32",
        ),
        (audit(steps_by_arm={"plain": 64}), "audit.steps_by_arm: unknown audited arm 'plain'; allowed: private"),
        (
            small(arms=ARMS, experiments=SHOWN),
            "experiments.e.tables: 'audit' shows audited arms, and none of private is audited",
        ),
    ],
)
def test_invalid_audit_is_refused(content, message):
    check_refused(content, message)
