"""What a federated arm may not be, each with the key, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from ppml.config.load import parse_config

from .small import FEDERATED, PRIVATE, one_arm, refusal, small

SHARES = {**PRIVATE, "noise_by": "shares"}
CLIENT = {"kind": "client", "epsilon": 2.0}
CKKS = {"kind": "ckks"}
EQUAL = {**FEDERATED, "weighting": "uniform"}
ONE_STEP = {"epochs": 1, "shift": 0}
LOCAL = {"kind": "local", "partition": "iid8"}


def shared(**keys: Any) -> dict[str, Any]:
    """Return an arm whose sums carry the noise of records; ``keys`` replace its own."""
    return {"topology": FEDERATED, "privacy": SHARES, "aggregation": CKKS, "training": ONE_STEP, **keys}


def of_clients(**keys: Any) -> dict[str, Any]:
    """Return an arm that hides clients; ``keys`` replace its own."""
    return {"topology": EQUAL, "privacy": CLIENT, **keys}


def accepted(**keys: Any) -> Any:
    return parse_config(one_arm(**keys), "my.yaml").arms["a"]


@pytest.mark.parametrize(
    "arm",
    [
        shared(),
        shared(topology={**FEDERATED, "server": {"kind": "adam"}, "failures": 0.1, "least_answers": 7}),
        shared(privacy={**SHARES, "colluders": 2, "dropouts": 2}),
        of_clients(),
        of_clients(privacy={**CLIENT, "noise_by": "shares"}, aggregation=CKKS),
        of_clients(topology={**EQUAL, "correction": {"kind": "proximal", "strength": 0.1}}),
        of_clients(training={"epochs": 5, "shift": 1}),
        {
            "topology": {**FEDERATED, "participation": 0.5, "failures": 0.2, "correction": {"kind": "scaffold"}},
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
def test_what_goes_together_is_accepted(arm):
    accepted(**arm)


def test_a_federated_arm_is_plain_federated_averaging_where_nothing_is_said():
    topology = accepted(topology=FEDERATED).topology
    assert (topology.server.kind, topology.server.learning_rate, topology.server.momentum) == ("sgd", 1.0, 0.0)
    assert (topology.correction.kind, topology.participation, topology.failures, topology.least_answers) == (
        "none",
        1.0,
        0.0,
        1,
    )


# Who adds the noise.


@pytest.mark.parametrize("topology", [{"kind": "centralized"}, LOCAL])
def test_client_level_privacy_is_refused_where_there_is_no_federation(topology):
    assert refusal(one_arm(topology=topology, privacy=CLIENT)) == (
        f"arms.a: privacy 'client' with topology {topology['kind']!r}: there are no clients to hide; use topology "
        "federated, or privacy example"
    )


@pytest.mark.parametrize(
    ("topology", "aggregation"),
    [(FEDERATED, "plaintext"), (LOCAL, "plaintext"), ({"kind": "centralized"}, "plaintext")],
)
def test_shares_of_the_noise_are_refused_where_single_updates_are_seen(topology, aggregation):
    arm = shared(topology=topology, aggregation={"kind": aggregation})
    assert refusal(one_arm(**arm)) == (
        f"arms.a: privacy.noise_by 'shares' with aggregation {aggregation!r} and topology {topology['kind']!r}: "
        "whoever sees a single update sees no more than a share of the noise on it; allowed with topology federated "
        "and aggregation ckks, bfv, shares or masking"
    )


def test_shares_of_the_noise_of_clients_are_refused_where_single_updates_are_seen():
    message = refusal(one_arm(**of_clients(privacy={**CLIENT, "noise_by": "shares"})))
    assert message.startswith("arms.a: privacy.noise_by 'shares' with aggregation 'plaintext' and topology 'federated'")


def test_noise_of_a_server_is_refused_where_it_sees_no_update():
    assert refusal(one_arm(**of_clients(aggregation=CKKS))) == (
        "arms.a: privacy.noise_by 'server' with aggregation 'ckks': the server sees no update that it could add noise "
        "to; use aggregation plaintext, or noise_by shares"
    )


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({**PRIVATE, "noise_by": "server"}, "got 'server'; input should be 'owner' or 'shares'"),
        ({**CLIENT, "noise_by": "owner"}, "got 'owner'; input should be 'server' or 'shares'"),
    ],
)
def test_noise_by_somebody_else_is_refused_with_those_who_may(privacy, message):
    assert refusal(one_arm(topology=EQUAL, privacy=privacy)) == f"arms.a.privacy.noise_by: {message}"


# Who must be there for a sum to be opened.


@pytest.mark.parametrize("threshold", [2, 4, 9])
def test_a_threshold_of_half_the_clients_or_fewer_or_of_more_than_there_are_is_refused(threshold):
    masking = {"topology": FEDERATED, "aggregation": {"kind": "masking", "threshold": threshold}}
    assert refusal(one_arm(**masking)) == (
        f"arms.a.aggregation.threshold: got {threshold} of 8 clients that are asked in a round; more than half of "
        "them are needed, or two groups could be told of different sums"
    )


@pytest.mark.parametrize("threshold", [None, 5, 8])
def test_a_threshold_of_more_than_half_the_clients_is_accepted(threshold):
    arm = {"topology": FEDERATED, "aggregation": {"kind": "masking", "threshold": threshold}}
    parse_config(one_arm(**arm), "my.yaml")


def test_the_threshold_is_of_those_who_are_asked():
    half = {**FEDERATED, "participation": 0.5}
    parse_config(one_arm(topology=half, aggregation={"kind": "masking", "threshold": 3}), "my.yaml")
    message = refusal(one_arm(topology=half, aggregation={"kind": "masking", "threshold": 5}))
    assert "got 5 of 4 clients that are asked in a round" in message


def test_a_budget_that_leaves_too_few_for_the_masks_is_refused():
    budget = {"kind": "example", "noise_multiplier": 1.0, "budget": 2.0}
    assert refusal(one_arm(topology=FEDERATED, privacy=budget, aggregation={"kind": "masking"})) == (
        "arms.a: privacy.budget with aggregation 'masking': as clients stop, one after the other, too few are left for "
        "a sum to be opened; take another aggregation, or give privacy.epsilon"
    )
    parse_config(one_arm(topology=FEDERATED, privacy=budget, aggregation={"kind": "bfv"}), "my.yaml")


@pytest.mark.parametrize("kind", ["ckks", "bfv", "shares", "masking"])
def test_the_sum_of_one_client_is_refused_where_nobody_may_see_an_update(kind):
    alone = {**FEDERATED, "participation": 0.1}
    message = refusal(one_arm(topology=alone, aggregation={"kind": kind}))
    assert message == (
        f"arms.a.aggregation {kind!r} with 1 client that is asked in a round: the sum of one update shows it; at least "
        "2 are needed"
    )


def test_masks_that_open_a_sum_with_fewer_shares_of_the_noise_than_are_counted_are_refused():
    few = shared(aggregation={"kind": "masking", "clip": 64.0})
    assert refusal(one_arm(**few)) == (
        "arms.a.aggregation.threshold: got 6 beside privacy.dropouts 0 of 8 clients: a sum of fewer than 8 has less "
        "noise than is accounted; at least 8 are needed, or more dropouts"
    )
    parse_config(one_arm(**shared(aggregation={"kind": "masking", "clip": 64.0, "threshold": 8})), "my.yaml")
    spared = shared(privacy={**SHARES, "dropouts": 2}, aggregation={"kind": "masking", "clip": 64.0})
    parse_config(one_arm(**spared), "my.yaml")


# What a sum may not be.


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            shared(topology={**FEDERATED, "participation": 0.5}),
            "topology.participation 0.5 with noise in the sum of all clients: who is asked is not hidden from the "
            "server, so that nothing is gained by it; allowed: 1.0",
        ),
        (
            of_clients(topology={**EQUAL, "participation": 0.99}),
            "topology.participation 0.99 with noise in the sum of all clients: who is asked is not hidden from the "
            "server, so that nothing is gained by it; allowed: 1.0",
        ),
        (
            shared(topology={**FEDERATED, "correction": {"kind": "proximal"}}),
            "topology.correction 'proximal' with noise_by 'shares': a round is one step, in which no client drifts; "
            "allowed: none",
        ),
        (
            shared(topology={**FEDERATED, "correction": {"kind": "scaffold"}}),
            "topology.correction 'scaffold' with noise_by 'shares': a round is one step, in which no client drifts; "
            "allowed: none",
        ),
        (
            of_clients(topology={**EQUAL, "correction": {"kind": "scaffold"}}),
            "topology.correction 'scaffold' with privacy 'client': control variates would leave the clients without "
            "noise; allowed: none, proximal",
        ),
        (
            of_clients(
                topology={**EQUAL, "correction": {"kind": "scaffold"}},
                privacy={**CLIENT, "noise_by": "shares"},
                aggregation=CKKS,
            ),
            "topology.correction 'scaffold' with privacy 'client': control variates would leave the clients without "
            "noise; allowed: none, proximal",
        ),
        (
            of_clients(topology=FEDERATED),
            "topology.weighting 'examples' with privacy 'client': a client's weight tells of its records, and one with "
            "many would need more noise; allowed: uniform",
        ),
        (
            shared(training={"epochs": 2}),
            "training.epochs 2 with noise_by 'shares': a round is one step on one sample of all records; allowed: 1",
        ),
        (
            shared(training={}),
            "training.epochs 10 with noise_by 'shares': a round is one step on one sample of all records; allowed: 1",
        ),
        (
            shared(training={"epochs": 1, "shift": 2}),
            "training.shift with noise_by 'shares': images stay as they are there; leave it out",
        ),
        (
            shared(privacy={"kind": "example", "noise_multiplier": 1.0, "budget": 2.0, "noise_by": "shares"}),
            "privacy.budget with noise_by 'shares': all clients spend the same in every round; give privacy.epsilon, "
            "which calibrates the noise to all rounds",
        ),
    ],
)
def test_a_sum_with_less_noise_than_accounted_or_that_tells_more_is_refused(arm, message):
    assert refusal(one_arm(**arm)) == f"arms.a: {message}"


def test_a_budget_is_no_key_of_client_level_privacy():
    message = refusal(one_arm(**of_clients(privacy={"kind": "client", "noise_multiplier": 1.0, "budget": 2.0})))
    assert message.startswith("arms.a.privacy: unknown key 'budget'; ") and "max_update_norm" in message


# Values.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("participation", 0.0, "input should be greater than 0"),
        ("participation", 1.1, "input should be less than or equal to 1"),
        ("participation", "half", "input should be a valid number"),
        ("failures", 1.0, "input should be less than 1"),
        ("failures", -0.1, "input should be greater than or equal to 0"),
        ("least_answers", 0, "input should be greater than or equal to 1"),
        ("least_answers", 1.5, "input should be a valid integer"),
        ("rounds", 0, "input should be greater than or equal to 1"),
        ("weighting", "none", "input should be 'examples' or 'uniform'"),
    ],
)
def test_a_value_of_the_topology_out_of_range_is_refused_with_what_is_allowed(key, value, message):
    topology = {**FEDERATED, key: value}
    assert refusal(one_arm(topology=topology)) == f"arms.a.topology.{key}: got {value!r}; {message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colluders", 0, "input should be greater than or equal to 1"),
        ("dropouts", -1, "input should be greater than or equal to 0"),
        ("max_update_norm", 0.0, "input should be greater than 0"),
        ("delta", 0.0, "input should be greater than or equal to 0.000000000000001"),
        ("noise_multiplier", -1.0, "input should be greater than or equal to 0.001"),
        ("accountant", "none", "input should be 'tightest', 'prv', 'rdp', 'pld' or 'gdp'"),
    ],
)
def test_a_value_of_client_level_privacy_out_of_range_is_refused_with_what_is_allowed(key, value, message):
    privacy = {**CLIENT, key: value}
    assert refusal(one_arm(topology=EQUAL, privacy=privacy)) == f"arms.a.privacy.{key}: got {value!r}; {message}"


@pytest.mark.parametrize(("epsilon", "noise"), [(2.0, 1.0), (None, None)])
def test_client_level_privacy_takes_exactly_one_of_epsilon_and_noise(epsilon, noise):
    privacy = {"kind": "client", "epsilon": epsilon, "noise_multiplier": noise}
    assert refusal(one_arm(topology=EQUAL, privacy=privacy)) == (
        f"arms.a.privacy: give exactly one of epsilon and noise_multiplier, got epsilon {epsilon} and "
        f"noise_multiplier {noise}"
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"server": {"kind": "adm"}}, "server.kind: got 'adm'; did you mean 'adam'? allowed: sgd, adam"),
        ({"server": {"momentum": 0.5}}, "server.kind: is missing; allowed: sgd, adam"),
        ({"correction": {"kind": "fedprox"}}, "correction.kind: got 'fedprox'; allowed: none, proximal, scaffold"),
        ({"server": {"kind": "sgd", "momentum": 1.0}}, "server.momentum: got 1.0; input should be less than 1"),
        (
            {"server": {"kind": "adam", "adaptivity": 0.0}},
            "server.adaptivity: got 0.0; input should be greater than 0",
        ),
        (
            {"correction": {"kind": "proximal", "strength": 0.0}},
            "correction.strength: got 0.0; input should be greater than 0",
        ),
        ({"server": {"kind": "sgd", "beta1": 0.9}}, "server: unknown key 'beta1'; allowed: kind, "),
        ({"correction": {"kind": "none", "strength": 0.1}}, "correction: unknown key 'strength'; allowed: kind"),
    ],
)
def test_a_value_below_the_topology_is_refused_by_its_key_with_what_is_allowed(section, message):
    assert refusal(one_arm(topology={**FEDERATED, **section})).startswith(f"arms.a.topology.{message}")


# Partitions of a part of the records.


def divided(records: Any, **partition: Any) -> dict[str, Any]:
    content = small()
    content["partitions"]["iid8"] = {"kind": "iid", "clients": 8, **partition, "records": records}
    return content


def test_a_partition_may_take_all_records_or_fewer():
    for records in (8, 999, 1000, None):
        assert parse_config(divided(records), "my.yaml").partitions["iid8"].records == records


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            divided(1001),
            "partitions.iid8.records: got 1001, more than the 1000 samples of data.train; at most 1000 are allowed",
        ),
        (
            divided(7),
            "partitions.iid8.clients: got 8, more than the 7 samples of partitions.iid8.records; at most 7 are allowed",
        ),
        (
            divided(20, kind="shards", shards_per_client=3),
            "partitions.iid8.shards_per_client: 24 shards in all, more than the 20 samples of partitions.iid8.records; "
            "at most 2 a client are allowed",
        ),
        (divided(0), "partitions.iid8.records: got 0; input should be greater than or equal to 1"),
        (divided(9.5), "partitions.iid8.records: got 9.5; input should be a valid integer"),
    ],
)
def test_a_partition_of_records_that_there_are_not_is_refused(content, message):
    assert refusal(content) == message


def test_the_records_of_a_partition_are_those_that_delta_is_compared_with():
    content = divided(80)
    content["arms"] = {"a": {"topology": FEDERATED, "privacy": {**PRIVATE, "delta": 0.09}}}
    config = parse_config(content, "my.yaml")
    assert config.records_per_client("a") == 10
    assert config.warnings() == []
    content["arms"]["a"]["privacy"]["delta"] = 0.1
    assert "n = 10 records" in parse_config(content, "my.yaml").warnings()[0]


def test_a_partition_says_how_many_records_only_where_they_are_not_all():
    whole, part = (parse_config(divided(records), "my.yaml").partitions["iid8"].to_json() for records in (None, 80))
    assert whole == {"kind": "iid", "clients": 8}
    assert part == {"kind": "iid", "clients": 8, "records": 80}
