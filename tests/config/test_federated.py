"""The rules for federated arms: each error names the key, the value and the allowed values."""

from __future__ import annotations

from typing import Any

import pytest

from ppml.config.load import parse_config
from ppml.data.partition import random_path

from .small import FEDERATED, PRIVATE, check_refused, one_arm, refusal, small

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
        {
            "topology": {**FEDERATED, "participation": 0.5, "dropout_rate": 0.2, "correction": {"kind": "scaffold"}},
            "privacy": PRIVATE,
        },
        {"topology": FEDERATED, "privacy": PRIVATE, "aggregation": CKKS},
        {
            "topology": {**FEDERATED, "participation": 0.5},
            "privacy": {"kind": "example", "noise_multiplier": 1.0, "budget": 2.0},
        },
        {"topology": {**FEDERATED, "correction": {"kind": "scaffold"}}, "aggregation": CKKS},
    ],
)
def test_valid_combination_is_accepted(arm):
    accepted(**arm)


def test_default_federated_arm_is_plain_federated_averaging():
    topology = accepted(topology=FEDERATED).topology
    assert (topology.server.kind, topology.server.learning_rate, topology.server.momentum) == ("sgd", 1.0, 0.0)
    assert (topology.correction.kind, topology.participation) == ("none", 1.0)
    assert (topology.dropout_rate, topology.min_clients) == (0.0, 1)


# The place of the noise.


@pytest.mark.parametrize("topology", [{"kind": "centralized"}, INDEPENDENT])
def test_client_level_privacy_needs_a_federation(topology):
    content = one_arm(topology=topology, privacy=CLIENT)
    check_refused(content, "arms.a: privacy 'client'", f"topology {topology['kind']!r}", "use topology federated")


@pytest.mark.parametrize("topology", [FEDERATED, INDEPENDENT, {"kind": "centralized"}])
def test_distributed_noise_needs_an_aggregation_that_hides_updates(topology):
    content = one_arm(**example_level(topology=topology, aggregation={"kind": "plaintext"}))
    allowed = "allowed with topology federated and aggregation ckks, bfv, secret_sharing or masking"
    check_refused(content, "arms.a: privacy.noise 'distributed'", f"topology {topology['kind']!r}", allowed)


def test_distributed_noise_at_client_level_needs_an_aggregation_that_hides_updates():
    content = one_arm(**client_level(privacy={**CLIENT, "noise": "distributed"}))
    check_refused(content, "arms.a: privacy.noise 'distributed'", "aggregation 'plaintext'")


def test_central_noise_needs_plaintext_aggregation():
    content = one_arm(**client_level(aggregation=CKKS))
    check_refused(content, "arms.a: privacy.noise 'central'", "use aggregation plaintext, or noise distributed")


@pytest.mark.parametrize(
    ("privacy", "allowed"),
    [
        ({**PRIVATE, "noise": "central"}, "'local' or 'distributed'"),
        ({**CLIENT, "noise": "local"}, "'central' or 'distributed'"),
    ],
)
def test_other_place_of_the_noise_is_refused(privacy, allowed):
    content = one_arm(topology=UNIFORM, privacy=privacy)
    check_refused(content, f"arms.a.privacy.noise: got {privacy['noise']!r}; ", allowed)


# The number of clients that open a sum.


@pytest.mark.parametrize("threshold", [2, 4, 9])
def test_threshold_is_more_than_half_of_the_clients_and_at_most_all(threshold):
    content = one_arm(topology=FEDERATED, aggregation={"kind": "masking", "threshold": threshold})
    check_refused(content, f"arms.a.aggregation.threshold: got {threshold} of 8 clients", "more than half of them")


@pytest.mark.parametrize("threshold", [None, 5, 8])
def test_threshold_of_more_than_half_of_the_clients_is_accepted(threshold):
    accepted(topology=FEDERATED, aggregation={"kind": "masking", "threshold": threshold})


def test_threshold_counts_the_clients_of_a_round():
    half = {**FEDERATED, "participation": 0.5}
    accepted(topology=half, aggregation={"kind": "masking", "threshold": 3})
    content = one_arm(topology=half, aggregation={"kind": "masking", "threshold": 5})
    check_refused(content, "arms.a.aggregation.threshold: got 5 of 4 clients")


def test_budget_excludes_masking():
    budget = {"kind": "example", "noise_multiplier": 1.0, "budget": 2.0}
    content = one_arm(topology=FEDERATED, privacy=budget, aggregation={"kind": "masking"})
    check_refused(content, "arms.a: privacy.budget with aggregation 'masking'", "give privacy.epsilon")
    accepted(topology=FEDERATED, privacy=budget, aggregation={"kind": "bfv"})


@pytest.mark.parametrize("kind", ["ckks", "bfv", "secret_sharing", "masking"])
def test_sum_of_one_client_is_refused(kind):
    content = one_arm(topology={**FEDERATED, "participation": 0.1}, aggregation={"kind": kind})
    check_refused(content, f"arms.a.aggregation {kind!r} with 1 client", "at least 2 are needed")


def test_threshold_includes_all_counted_shares_of_the_noise():
    masking = {"kind": "masking", "clip": 64.0}
    key = "arms.a.aggregation.threshold: got 6 with privacy.max_dropouts 0"
    check_refused(one_arm(**example_level(aggregation=masking)), key, "at least 8 are needed")
    accepted(**example_level(aggregation={**masking, "threshold": 8}))
    accepted(**example_level(privacy={**DISTRIBUTED, "max_dropouts": 2}, aggregation=masking))


# The noise and the content of a sum.

SCAFFOLD = {"kind": "scaffold"}


@pytest.mark.parametrize(
    ("arm", "key", "allowed"),
    [
        (example_level(topology={**FEDERATED, "participation": 0.5}), "topology.participation 0.5", "allowed: 1.0"),
        (client_level(topology={**UNIFORM, "participation": 0.99}), "topology.participation 0.99", "allowed: 1.0"),
        (
            example_level(topology={**FEDERATED, "correction": {"kind": "proximal"}}),
            "topology.correction 'proximal' with noise 'distributed'",
            "allowed: none",
        ),
        (
            example_level(topology={**FEDERATED, "correction": SCAFFOLD}),
            "topology.correction 'scaffold' with noise 'distributed'",
            "allowed: none",
        ),
        (
            client_level(topology={**UNIFORM, "correction": SCAFFOLD}),
            "topology.correction 'scaffold' with privacy 'client'",
            "allowed: none, proximal",
        ),
        (
            client_level(
                topology={**UNIFORM, "correction": SCAFFOLD},
                privacy={**CLIENT, "noise": "distributed"},
                aggregation=CKKS,
            ),
            "topology.correction 'scaffold' with privacy 'client'",
            "allowed: none, proximal",
        ),
        (
            client_level(topology=FEDERATED),
            "topology.weighting 'examples' with privacy 'client'",
            "allowed: uniform",
        ),
        (example_level(training={"epochs": 2}), "training.epochs 2 with noise 'distributed'", "allowed: 1"),
        (example_level(training={}), "training.epochs 10 with noise 'distributed'", "allowed: 1"),
        (
            example_level(training={"epochs": 1, "shift": 2}),
            "training.shift with noise 'distributed'",
            "leave it out",
        ),
        (
            example_level(privacy={"kind": "example", "noise_multiplier": 1.0, "budget": 2.0, "noise": "distributed"}),
            "privacy.budget with noise 'distributed'",
            "give privacy.epsilon",
        ),
    ],
)
def test_sum_with_too_little_noise_or_too_much_content_is_refused(arm, key, allowed):
    check_refused(one_arm(**arm), f"arms.a: {key}", allowed)


def test_client_level_privacy_has_no_budget():
    content = one_arm(**client_level(privacy={"kind": "client", "noise_multiplier": 1.0, "budget": 2.0}))
    check_refused(content, "arms.a.privacy: unknown key 'budget'", "max_update_norm")


# Values.


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("participation", 0.0, "greater than 0"),
        ("participation", 1.1, "less than or equal to 1"),
        ("participation", "half", "valid number"),
        ("dropout_rate", 1.0, "less than 1"),
        ("dropout_rate", -0.1, "greater than or equal to 0"),
        ("min_clients", 0, "greater than or equal to 1"),
        ("min_clients", 1.5, "valid integer"),
        ("rounds", 0, "greater than or equal to 1"),
        ("weighting", "none", "'examples' or 'uniform'"),
    ],
)
def test_topology_value_out_of_range_is_refused(key, value, allowed):
    content = one_arm(topology={**FEDERATED, key: value})
    check_refused(content, f"arms.a.topology.{key}: got {value!r}; ", allowed)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("max_colluding", 0, "greater than or equal to 1"),
        ("max_dropouts", -1, "greater than or equal to 0"),
        ("max_update_norm", 0.0, "greater than 0"),
        ("delta", 0.0, "greater than or equal to 0.000000000000001"),
        ("noise_multiplier", -1.0, "greater than or equal to 0.001"),
        ("accountant", "none", "'tightest', 'prv', 'rdp', 'pld' or 'gdp'"),
    ],
)
def test_client_level_value_out_of_range_is_refused(key, value, allowed):
    content = one_arm(topology=UNIFORM, privacy={**CLIENT, key: value})
    check_refused(content, f"arms.a.privacy.{key}: got {value!r}; ", allowed)


def test_more_min_clients_than_clients_of_a_round_are_refused():
    content = one_arm(topology={**FEDERATED, "participation": 0.5, "min_clients": 5})
    check_refused(content, "arms.a.topology.min_clients: got 5", "at most 4 are allowed")


@pytest.mark.parametrize(("epsilon", "noise"), [(2.0, 1.0), (None, None)])
def test_client_level_privacy_takes_exactly_one_of_epsilon_and_noise(epsilon, noise):
    content = one_arm(topology=UNIFORM, privacy={"kind": "client", "epsilon": epsilon, "noise_multiplier": noise})
    check_refused(content, "arms.a.privacy: give exactly one of epsilon and noise_multiplier", f"epsilon {epsilon}")


@pytest.mark.parametrize(
    ("section", "key", "allowed"),
    [
        ({"server": {"kind": "adm"}}, "server.kind: got 'adm'", "did you mean 'adam'? allowed: sgd, adam"),
        ({"server": {"momentum": 0.5}}, "server.kind: is missing", "allowed: sgd, adam"),
        ({"correction": {"kind": "fedprox"}}, "correction.kind: got 'fedprox'", "allowed: none, proximal, scaffold"),
        ({"server": {"kind": "sgd", "momentum": 1.0}}, "server.momentum: got 1.0", "less than 1"),
        ({"server": {"kind": "adam", "tau": 0.0}}, "server.tau: got 0.0", "greater than 0"),
        ({"correction": {"kind": "proximal", "mu": 0.0}}, "correction.mu: got 0.0", "greater than 0"),
        ({"server": {"kind": "sgd", "beta1": 0.9}}, "server: unknown key 'beta1'", "allowed: kind, "),
        ({"correction": {"kind": "none", "mu": 0.1}}, "correction: unknown key 'mu'", "allowed: kind"),
    ],
)
def test_value_below_the_topology_is_refused_by_its_key(section, key, allowed):
    check_refused(one_arm(topology={**FEDERATED, **section}), f"arms.a.topology.{key}", allowed)


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


def test_json_of_a_partition_has_a_sample_size_only_if_it_is_set():
    whole, part = (parse_config(sampled(size), "my.yaml").partitions["iid8"].to_json() for size in (None, 80))
    assert whole == {"kind": "iid", "clients": 8}
    assert part == {"kind": "iid", "clients": 8, "sample_size": 80}


def test_path_of_randomness_of_a_partition_keeps_its_first_names():
    partition = parse_config(sampled(80), "my.yaml").partitions["iid8"]
    assert random_path(partition) == {"kind": "iid", "clients": 8, "records": 80}


def test_message_for_distributed_noise_is_a_whole_sentence():
    assert refusal(one_arm(**example_level(topology=FEDERATED, aggregation={"kind": "plaintext"}))) == (
        "arms.a: privacy.noise 'distributed' with aggregation 'plaintext' and topology 'federated': a single update "
        "carries only a share of the noise, so the server may see only the sum; allowed with topology federated and "
        "aggregation ckks, bfv, secret_sharing or masking"
    )
