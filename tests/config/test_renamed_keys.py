"""Old keys and values: each is refused with the new one."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from ppml.config.load import parse_config
from ppml.config.renamed_keys import RENAMED_KEYS, RENAMED_VALUES
from ppml.errors import UserError

from .small import FEDERATED, PRIVATE, check_refused, one_arm, refusal, small


def claiming(**keys: Any) -> dict[str, Any]:
    return small(experiments={"e": {"title": "T", "arms": ["fl"], "claims": [keys]}})


KEYS: dict[str, tuple[dict[str, Any], str, str]] = {
    "adaptivity": (
        one_arm(topology={**FEDERATED, "server": {"kind": "adam", "adaptivity": 0.1}}),
        "arms.a.topology.server",
        "tau: 0.1",
    ),
    "choice": (small(data={"choice": "stratified"}), "data", "selection: stratified"),
    "colluders": (one_arm(privacy={**PRIVATE, "colluders": 2}), "arms.a.privacy", "max_colluding: 2"),
    "decay": (one_arm(training={"decay": "constant"}), "arms.a.training", "learning_rate_schedule: constant"),
    "dropouts": (one_arm(privacy={**PRIVATE, "dropouts": 1}), "arms.a.privacy", "max_dropouts: 1"),
    "failures": (one_arm(topology={**FEDERATED, "failures": 0.2}), "arms.a.topology", "dropout_rate: 0.2"),
    "features": (
        one_arm(features={"kind": "scattering", "copies": 4}),
        "arms.a",
        'transforms: [{"kind": "scattering", "copies": 4}]',
    ),
    "least_answers": (one_arm(topology={**FEDERATED, "least_answers": 3}), "arms.a.topology", "min_clients: 3"),
    "noise_by": (one_arm(privacy={**PRIVATE, "noise_by": "owner"}), "arms.a.privacy", "noise: local"),
    "reading": (claiming(reading="starts_higher"), "experiments.e.claims.0", "criterion: starts_higher"),
    "records": (
        small(partitions={"p": {"kind": "iid", "clients": 2, "records": 9}}),
        "partitions.p",
        "sample_size: 9",
    ),
    "rounds_a_key": (
        one_arm(topology=FEDERATED, aggregation={"kind": "bfv", "rounds_a_key": 2}),
        "arms.a.aggregation",
        "rounds_per_key: 2",
    ),
    "says": (claiming(says="It is so."), "experiments.e.claims.0", "quote: It is so."),
    "singly": (one_arm(inference={"kind": "ckks", "singly": 3}), "arms.a.inference", "single_images: 3"),
    "steps_of": (small(audit={"kind": "canary", "steps_of": {"a": 64}}), "audit", 'steps_by_arm: {"a": 64}'),
    "strength": (
        one_arm(topology={**FEDERATED, "correction": {"kind": "proximal", "strength": 0.1}}),
        "arms.a.topology.correction",
        "mu: 0.1",
    ),
}
"""Old key -> a configuration with it, its section, and the new entry."""

SECTIONS: dict[str, tuple[Any, str]] = {
    "noise": (lambda old: one_arm(privacy={**PRIVATE, "noise": old}), "arms.a.privacy.noise"),
    "topology": (lambda old: one_arm(topology={"kind": old, "partition": "iid8"}), "arms.a.topology.kind"),
    "aggregation": (lambda old: one_arm(topology=FEDERATED, aggregation={"kind": old}), "arms.a.aggregation.kind"),
    "tables": (
        lambda old: small(experiments={"e": {"title": "T", "arms": ["fl"], "tables": ["summary", old]}}),
        "experiments.e.tables.1",
    ),
}
"""Key, or section of a kind -> a configuration with a value of it, and the key in messages."""


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_old_key_is_refused_with_the_new_entry(old):
    content, section, entry = KEYS[old]
    assert entry.startswith(f"{RENAMED_KEYS[old]}: ")
    assert refusal(content) == f"{section}.{old}: renamed; write `{entry}`"


@pytest.mark.parametrize(("key", "old"), RENAMED_VALUES)
def test_old_value_is_refused_with_the_new_value(key, old):
    configured, place = SECTIONS[key]
    new = RENAMED_VALUES[key, old]
    check_refused(configured(old), f"{place}: got {old!r}; renamed; write `", f"{new}`")


@pytest.mark.parametrize(("old", "new"), [("owner", "local"), ("shares", "distributed"), ("server", "central")])
def test_old_key_with_an_old_value_is_refused_with_both_new(old, new):
    content = one_arm(privacy={**PRIVATE, "noise_by": old})
    assert refusal(content) == f"arms.a.privacy.noise_by: renamed; write `noise: {new}`"


def test_old_key_in_another_section_is_unknown():
    check_refused(one_arm(training={"failures": 1}), "arms.a.training: unknown key 'failures'", "allowed: batch_size")


def test_inherited_old_key_has_one_line_with_its_file():
    base = {"privacy": {**PRIVATE, "noise_by": "owner"}}
    content = small(arms={"top": {"extends": "base"}, "base": base})
    layers = [("base.yaml", content), ("my.yaml", {"seed": 3})]
    with pytest.raises(UserError) as caught:
        parse_config(content, "my.yaml", layers)
    assert str(caught.value) == (
        "base.yaml: arms.base.privacy.noise_by: renamed; write `noise: local` (1 more arm by extends)"
    )


def test_old_key_with_a_date_is_one_line() -> None:
    check_refused(one_arm(training={"decay": date(2024, 1, 1)}), "arms.a.training", "learning_rate_schedule")
