"""Partitions of examples among clients."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml.config.data import Dirichlet, Iid, Shards
from ppml.data.partition import partition, sample_examples
from ppml.errors import UserError
from ppml.randomness import Randomness

SPECS = [Iid(clients=8), Shards(clients=8, shards_per_client=2), Dirichlet(clients=8, alpha=0.5)]

each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)


def divide(spec, labels, seed=0):
    return partition(spec, labels, Randomness(seed).numpy())


def assert_every_example_has_one_owner(parts, count):
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


def label_counts(parts, labels):
    return np.array([np.bincount(labels[part], minlength=10) for part in parts])


@each_spec
def test_every_example_has_exactly_one_owner_with_ascending_positions(spec, real_data):
    parts = divide(spec, real_data.train.labels)
    assert len(parts) == spec.clients
    assert_every_example_has_one_owner(parts, len(real_data.train.labels))
    assert all(len(part) and part.dtype == np.int64 and np.all(np.diff(part) > 0) for part in parts)


@each_spec
def test_seed_decides_partition(spec, real_data):
    labels = real_data.train.labels
    first, again, other = divide(spec, labels, 1), divide(spec, labels, 1), divide(spec, labels, 2)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize("clients", [1, 7, 8, 1200])
def test_iid_parts_differ_by_at_most_one_example(clients, real_data):
    sizes = [len(part) for part in divide(Iid(clients=clients), real_data.train.labels)]
    assert max(sizes) - min(sizes) <= 1


def test_iid_clients_have_label_distribution_of_all_examples(real_data):
    labels = real_data.train.labels
    counts = label_counts(divide(Iid(clients=4), labels), labels)
    expected = np.bincount(labels, minlength=10) / 4
    # Hypergeometric: about four standard deviations of a count of 30.
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected))


def test_shards_within_classes_give_each_client_at_most_two_labels():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    counts = label_counts(divide(Shards(clients=10, shards_per_client=2), labels), labels)
    assert set(np.count_nonzero(counts, axis=1)) <= {1, 2}
    assert set(counts.ravel()) <= {0, 50, 100}


@pytest.mark.parametrize("seed", range(5))
def test_shards_of_real_labels_give_each_client_few_labels(seed, real_data):
    labels = real_data.train.labels
    counts = label_counts(divide(Shards(clients=20, shards_per_client=2), labels, seed), labels)
    # A shard is shorter than any class: it has two labels at most, and most shards have one.
    assert np.count_nonzero(counts, axis=1).max() <= 4
    assert np.count_nonzero(counts, axis=1).mean() <= 3
    assert np.ptp(counts.sum(axis=1)) <= 2


def test_more_shards_per_client_give_more_labels(real_data):
    labels = real_data.train.labels
    few, many = (
        np.count_nonzero(label_counts(divide(Shards(clients=8, shards_per_client=n), labels), labels), axis=1).mean()
        for n in (1, 8)
    )
    assert few < many


def test_smaller_alpha_gives_more_skewed_partition(real_data):
    labels = real_data.train.labels

    def largest_fraction(alpha):
        counts = [label_counts(divide(Dirichlet(clients=8, alpha=alpha), labels, seed), labels) for seed in range(5)]
        return np.mean([(one.max(axis=1) / one.sum(axis=1)).mean() for one in counts])

    skews = [largest_fraction(alpha) for alpha in (0.1, 0.5, 2.0, 100.0)]
    assert all(more > less for more, less in itertools.pairwise(skews))
    assert skews[0] > 0.5
    assert skews[-1] < 0.2


def test_dirichlet_of_one_client_gives_it_all_examples(real_data):
    (only,) = divide(Dirichlet(clients=1, alpha=0.1), real_data.train.labels)
    assert_every_example_has_one_owner([only], len(real_data.train.labels))


@each_spec
def test_more_clients_than_examples_are_refused(spec):
    with pytest.raises(UserError) as caught:
        divide(spec, np.zeros(7, dtype=np.int64))
    message = str(caught.value)
    assert message.startswith("clients: got 8, more than the 7 ") and message.endswith("at most 7 are allowed")


def test_dirichlet_with_empty_client_in_every_draw_is_refused_with_remedy():
    spec = Dirichlet(clients=50, alpha=0.001)
    with pytest.raises(UserError) as caught:
        divide(spec, np.repeat(np.arange(10), 10))
    message = str(caught.value)
    assert message.startswith("dirichlet with 50 clients leaves client ")
    assert " of 50 are empty, 100 " in message
    assert message.endswith("; use fewer clients, or a larger alpha than 0.001")


def test_shards_with_empty_client_are_refused_with_remedy():
    # Of forty shards of ten examples, thirty are empty, and one client has four of these.
    with pytest.raises(UserError, match=r"^shards with 10 clients leaves client \d+ .*; use fewer clients"):
        divide(Shards(clients=10, shards_per_client=4), np.arange(10))


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(
    count=st.integers(1, 300),
    classes=st.integers(1, 10),
    clients=st.integers(1, 40),
    shards=st.integers(1, 5),
    alpha=st.sampled_from([0.05, 0.5, 5.0]),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_partition_covers_all_examples_once_or_is_refused(count, classes, clients, shards, alpha, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    specs = (
        Iid(clients=clients),
        Shards(clients=clients, shards_per_client=shards),
        Dirichlet(clients=clients, alpha=alpha),
    )
    for spec in specs:
        try:
            parts = partition(spec, labels, rng)
        except UserError as error:
            assert clients > count or (spec.kind != "iid" and "leaves client" in str(error))
            continue
        assert len(parts) == clients and all(len(part) for part in parts)
        assert_every_example_has_one_owner(parts, count)


def test_sample_is_drawn_from_all_examples(real_data):
    count = len(real_data.train.labels)
    chosen = [
        sample_examples(Iid(clients=8, sample_size=100), count, Randomness(seed).numpy()).tolist() for seed in (0, 1)
    ]
    assert chosen[0] == sorted(set(chosen[0])) and len(chosen[0]) == 100
    assert max(chosen[0]) > 100, "the sample has more than the first examples"
    assert chosen[0] != chosen[1]


def test_all_examples_are_divided_without_sample_size():
    assert sample_examples(Iid(clients=2), 10, Randomness(0).numpy()).tolist() == list(range(10))


def test_sample_size_above_number_of_examples_is_refused():
    with pytest.raises(UserError, match=r"^sample_size: got 11, more than the 10 .*; at most 10 are allowed"):
        sample_examples(Iid(clients=2, sample_size=11), 10, Randomness(0).numpy())


def test_sample_size_is_part_of_json_only_if_set():
    assert Iid(clients=8).to_json() == {"kind": "iid", "clients": 8}
    assert list(Shards(clients=8, sample_size=250).to_json().values()) == ["shards", 8, 2, 250]
