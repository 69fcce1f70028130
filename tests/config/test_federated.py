"""The rules for federated arms: each error names the key, the value and the allowed values."""

from __future__ import annotations

from typing import Any

import pytest

from ppml.config.load import parse_config
from ppml.data.partition import random_path

from .small import FEDERATED, PRIVATE, check_refused, one_arm, small

DISTRIBUTED = {**PRIVATE, "noise": "distributed"}
CLIENT = {"kind": "client", "epsilon": 2.0}
CKKS = {"kind": "ckks"}
UNIFORM = {**FEDERATED, "weighting": "uniform"}
ONE_STEP = {"epochs": 1, "shift": 0}
INDEPENDENT = {"kind": "independent", "partition": "iid8"}


def example_level(**keys: Any) -> dict[str, Any]:
    """Return an arm with distributed noise that protects examples; ``keys`` replace its own."""
    return {"topology": FEDERATED, "privacy": DISTRIBUTED, "aggregation": CKKS, "training": ONE_STEP, **keys}


def client_level(**keys: Any) -> dict[str, Any]:
    """Return an arm that protects clients; ``keys`` replace its own."""
    return {"topology": UNIFORM, "privacy": CLIENT, **keys}


SCAFFOLD = {"kind": "scaffold"}
HALF = {**FEDERATED, "participation": 0.5}
CENTRALIZED = {"kind": "centralized"}
PLAINTEXT = {"kind": "plaintext"}
NOT_DISTRIBUTED = "arms.a: privacy.noise 'distributed'"
BUDGET = {"kind": "example", "noise_multiplier": 1.0, "budget": 2.0}


def masking(threshold: int | None, **topology: Any) -> dict[str, Any]:
    """Return an arm whose sums ``threshold`` clients open."""
    return {"topology": {**FEDERATED, **topology}, "aggregation": {"kind": "masking", "threshold": threshold}}


def accepted(**keys: Any) -> Any:
    return parse_config(one_arm(**keys), "my.yaml").arms["a"]


@pytest.mark.parametrize(
    "arm",
    [
        example_level(),
        example_level(topology={**FEDERATED, "server": {"kind": "adam"}, "dropout_rate": 0.1, "min_clients": 7}),
        example_level(privacy={**DISTRIBUTED, "max_colluding": 2, "max_dropouts": 2}),
        client_level(),
        client_level(privacy={**CLIENT, "noise": "distributed"}, aggregation=CKKS),
        client_level(topology={**UNIFORM, "correction": {"kind": "proximal", "mu": 0.1}}),
        client_level(training={"epochs": 5, "shift": 1}),
        {"topology": {**HALF, "dropout_rate": 0.2, "correction": SCAFFOLD}, "privacy": PRIVATE},
        {"topology": FEDERATED, "privacy": PRIVATE, "aggregation": CKKS},
        {"topology": HALF, "privacy": BUDGET, "aggregation": {"kind": "bfv"}},
        {"topology": {**FEDERATED, "correction": SCAFFOLD}, "aggregation": CKKS},
        masking(None),
        masking(5),
        masking(8),
        masking(3, participation=0.5),
        example_level(aggregation={"kind": "masking", "clip": 64.0, "threshold": 8}),
        example_level(privacy={**DISTRIBUTED, "max_dropouts": 2}, aggregation={"kind": "masking", "clip": 64.0}),
    ],
)
def test_valid_combination_is_accepted(arm):
    accepted(**arm)


def test_default_federated_arm_is_plain_federated_averaging():
    topology = accepted(topology=FEDERATED).topology
    assert (topology.server.kind, topology.server.learning_rate, topology.server.momentum) == ("sgd", 1.0, 0.0)
    assert (topology.correction.kind, topology.participation) == ("none", 1.0)
    assert (topology.dropout_rate, topology.min_clients) == (0.0, 1)


REFUSED: list[tuple[Any, ...]] = [
    # The place of the noise.
    *(
        (
            {"topology": topology, "privacy": CLIENT},
            "arms.a: privacy 'client'",
            f"topology {topology['kind']!r}",
            "use topology federated",
        )
        for topology in (CENTRALIZED, INDEPENDENT)
    ),
    *(
        (
            example_level(topology=topology, aggregation=PLAINTEXT),
            NOT_DISTRIBUTED,
            f"topology {topology['kind']!r}",
            "allowed with topology federated and aggregation ckks, bfv, secret_sharing or masking",
        )
        for topology in (FEDERATED, INDEPENDENT, CENTRALIZED)
    ),
    (client_level(privacy={**CLIENT, "noise": "distributed"}), NOT_DISTRIBUTED, "aggregation 'plaintext'"),
    (
        client_level(aggregation=CKKS),
        "arms.a: privacy.noise 'central'",
        "use aggregation plaintext, or noise distributed",
    ),
    (
        {"topology": UNIFORM, "privacy": {**PRIVATE, "noise": "central"}},
        "arms.a.privacy.noise: got 'central'; ",
        "'local' or 'distributed'",
    ),
    (
        client_level(privacy={**CLIENT, "noise": "local"}),
        "arms.a.privacy.noise: got 'local'; ",
        "'central' or 'distrib",
    ),
    # The number of clients that open a sum.
    *(
        (masking(threshold), f"arms.a.aggregation.threshold: got {threshold} of 8 clients", "more than half of them")
        for threshold in (2, 4, 9)
    ),
    (masking(5, participation=0.5), "arms.a.aggregation.threshold: got 5 of 4 clients"),
    ({**masking(None), "privacy": BUDGET}, "arms.a: privacy.budget with aggregation 'masking'", "give privacy.epsilon"),
    *(
        (
            {"topology": {**FEDERATED, "participation": 0.1}, "aggregation": {"kind": kind}},
            f"arms.a.aggregation {kind!r} with 1 client",
            "at least 2 are needed",
        )
        for kind in ("ckks", "bfv", "secret_sharing", "masking")
    ),
    (
        example_level(aggregation={"kind": "masking", "clip": 64.0}),
        "arms.a.aggregation.threshold: got 6 with privacy.max_dropouts 0",
        "at least 8 are needed",
    ),
    # The noise and the content of a sum.
    (example_level(topology=HALF), "arms.a: topology.participation 0.5", "allowed: 1.0"),
    (client_level(topology={**UNIFORM, "participation": 0.99}), "arms.a: topology.participation 0.99", "allowed: 1.0"),
    *(
        (
            example_level(topology={**FEDERATED, "correction": {"kind": kind}}),
            f"arms.a: topology.correction {kind!r} with noise 'distributed'",
            "allowed: none",
        )
        for kind in ("proximal", "scaffold")
    ),
    *(
        (
            client_level(topology={**UNIFORM, "correction": SCAFFOLD}, **keys),
            "arms.a: topology.correction 'scaffold' with privacy 'client'",
            "allowed: none, proximal",
        )
        for keys in ({}, {"privacy": {**CLIENT, "noise": "distributed"}, "aggregation": CKKS})
    ),
    (
        client_level(topology=FEDERATED),
        "arms.a: topology.weighting 'examples' with privacy 'client'",
        "allowed: uniform",
    ),
    *(
        (example_level(training=training), f"arms.a: training.epochs {epochs} with noise 'distributed'", "allowed: 1")
        for epochs, training in ((2, {"epochs": 2}), (10, {}))
    ),
    (
        example_level(training={"epochs": 1, "shift": 2}),
        "arms.a: training.shift with noise 'distributed'",
        "leave it out",
    ),
    (
        example_level(privacy={**BUDGET, "noise": "distributed"}),
        "arms.a: privacy.budget with noise 'distributed'",
        "give privacy.epsilon",
    ),
    (client_level(privacy={**BUDGET, "kind": "client"}), "arms.a.privacy: unknown key 'budget'", "max_update_norm"),
    # Values of the topology.
    *(
        ({"topology": {**FEDERATED, key: value}}, f"arms.a.topology.{key}: got {value!r}; ", allowed)
        for key, value, allowed in (
            ("participation", 0.0, "greater than 0"),
            ("participation", 1.1, "less than or equal to 1"),
            ("participation", "half", "valid number"),
            ("dropout_rate", 1.0, "less than 1"),
            ("dropout_rate", -0.1, "greater than or equal to 0"),
            ("min_clients", 0, "greater than or equal to 1"),
            ("min_clients", 1.5, "valid integer"),
            ("rounds", 0, "greater than or equal to 1"),
            ("weighting", "none", "'examples' or 'uniform'"),
        )
    ),
    ({"topology": {**HALF, "min_clients": 5}}, "arms.a.topology.min_clients: got 5", "at most 4 are allowed"),
    *(
        ({"topology": {**FEDERATED, **section}}, f"arms.a.topology.{key}", allowed)
        for section, key, allowed in (
            ({"server": {"kind": "adm"}}, "server.kind: got 'adm'", "did you mean 'adam'? allowed: sgd, adam"),
            ({"server": {"momentum": 0.5}}, "server.kind: is missing", "allowed: sgd, adam"),
            ({"correction": {"kind": "prox"}}, "correction.kind: got 'prox'", "allowed: none, proximal, scaffold"),
            ({"server": {"kind": "sgd", "momentum": 1.0}}, "server.momentum: got 1.0", "less than 1"),
            ({"server": {"kind": "adam", "tau": 0.0}}, "server.tau: got 0.0", "greater than 0"),
            ({"correction": {"kind": "proximal", "mu": 0.0}}, "correction.mu: got 0.0", "greater than 0"),
            ({"server": {"kind": "sgd", "beta1": 0.9}}, "server: unknown key 'beta1'", "allowed: kind, "),
            ({"correction": {"kind": "none", "mu": 0.1}}, "correction: unknown key 'mu'", "allowed: kind"),
        )
    ),
    # Values of privacy for clients.
    *(
        (client_level(privacy={**CLIENT, key: value}), f"arms.a.privacy.{key}: got {value!r}; ", allowed)
        for key, value, allowed in (
            ("max_colluding", 0, "greater than or equal to 1"),
            ("max_dropouts", -1, "greater than or equal to 0"),
            ("max_update_norm", 0.0, "greater than 0"),
            ("delta", 0.0, "greater than or equal to 0.000000000000001"),
            ("noise_multiplier", -1.0, "greater than or equal to 0.001"),
            ("accountant", "none", "'tightest', 'prv', 'rdp', 'pld' or 'gdp'"),
        )
    ),
]
"""An arm, the key and the value in its error, and other parts of the error."""


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused[1])
def test_invalid_arm_is_refused_with_its_key_and_the_remedy(refused):
    arm, *message = refused
    check_refused(one_arm(**arm), *message)


# Partitions of a sample.


def sampled(sample_size: Any, **partition: Any) -> dict[str, Any]:
    content = small()
    content["partitions"]["iid8"] = {"kind": "iid", "clients": 8, **partition, "sample_size": sample_size}
    return content


@pytest.mark.parametrize("sample_size", [8, 999, 1000, None])
def test_partition_takes_all_examples_or_a_sample(sample_size):
    assert parse_config(sampled(sample_size), "my.yaml").partitions["iid8"].sample_size == sample_size


@pytest.mark.parametrize(
    ("content", "key", "allowed"),
    [
        (sampled(1001), "sample_size: got 1001", "at most 1000 are allowed"),
        (sampled(7), "clients: got 8", "at most 7 are allowed"),
        (
            sampled(20, kind="shards", shards_per_client=3),
            "shards_per_client: 24 shards in all",
            "at most 2 a client are allowed",
        ),
        (sampled(0), "sample_size: got 0", "greater than or equal to 1"),
        (sampled(9.5), "sample_size: got 9.5", "valid integer"),
    ],
)
def test_partition_of_too_few_examples_is_refused(content, key, allowed):
    check_refused(content, f"partitions.iid8.{key}", allowed)


def test_delta_is_compared_with_the_examples_of_the_sample():
    content = sampled(80)
    content["arms"] = {"a": {"topology": FEDERATED, "privacy": {**PRIVATE, "delta": 0.09}}}
    config = parse_config(content, "my.yaml")
    assert config.examples_per_client("a") == 10
    assert config.warnings() == []
    content["arms"]["a"]["privacy"]["delta"] = 0.1
    assert "n = 10 examples" in parse_config(content, "my.yaml").warnings()[0]


def test_path_of_randomness_of_a_partition_keeps_its_first_names():
    partition = parse_config(sampled(80), "my.yaml").partitions["iid8"]
    assert random_path(partition) == {"kind": "iid", "clients": 8, "records": 80}
