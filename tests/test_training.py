"""Whole trainings of all techniques: results with equal bits, and results that must differ."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from ppml.aggregation.lattice import PublicKeyClients
from ppml.config.arm import Arm
from ppml.data.examples import Examples
from ppml.federation.factory import client_weights, party_seeds
from ppml.learning.result import TrainingResult
from ppml.learning.vectorized.clients import BatchedClientLearner, BatchedClients
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import train

from .federation.parties import CONTRACT, SIZES, foreign_images, owners
from .federation.runs import MOMENTUM, QUICK, by_hand, federated_arm, run
from .learning.digits import one_thread, some, vector

__all__ = ["one_thread"]

TECHNIQUES = {
    "fl": {},
    "fl_he": {"encrypted": True},
    "fl_dp": {"private": True},
    "fl_dp_he": {"private": True, "encrypted": True},
}


def trained(arm: Arm, owned: list[Examples], noise: list[float | None]) -> TrainingResult:
    return train(arm, owned, noise, foreign_images(), contract=CONTRACT, rng=Randomness(1), report=lambda row: None)


@cache
def result_of(name: str, seed: int = 1) -> TrainingResult:
    return run(federated_arm(**TECHNIQUES[name], server=MOMENTUM), seed=seed)


def weights_of(outcome: TrainingResult) -> list[torch.Tensor]:
    return [vector(model) for model in outcome.models]


def check_same(first: TrainingResult, second: TrainingResult) -> None:
    assert all(map(torch.equal, weights_of(first), weights_of(second)))
    assert first.history == second.history
    assert first.events == second.events


@pytest.mark.parametrize(("clear", "encrypted"), [("fl", "fl_he"), ("fl_dp", "fl_dp_he")])
def test_encryption_changes_no_bit_of_the_result(clear, encrypted):
    check_same(result_of(clear), result_of(encrypted))
    assert result_of(encrypted).bytes_up > 2 * result_of(clear).bytes_up


AGGREGATIONS = {
    "ckks, key per round": {"kind": "ckks", "rounds_per_key": 1},
    "ckks, shared key": {"kind": "ckks", "keys": "shared"},
    "bfv": {"kind": "bfv"},
    "bfv, key per round": {"kind": "bfv", "rounds_per_key": 1},
    "bfv, shared key": {"kind": "bfv", "keys": "shared"},
    "shares between 2": {"kind": "secret_sharing", "servers": 2},
    "shares between 3": {"kind": "secret_sharing"},
    "masking": {"kind": "masking", "threshold": 2},
}


@pytest.mark.parametrize("aggregation", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_no_aggregation_changes_a_bit_of_the_result(aggregation):
    for clear, technique in (("fl", {}), ("fl_dp", {"private": True})):
        check_same(result_of(clear), run(federated_arm(**technique, aggregation=aggregation, server=MOMENTUM)))


@pytest.mark.parametrize("aggregation", AGGREGATIONS.values(), ids=AGGREGATIONS)
def test_no_aggregation_changes_a_bit_of_the_result_with_dropouts(aggregation):
    """Three clients; in each of four rounds, another one drops out."""
    lossy = {"dropout_rate": 0.3, "rounds": 4, "min_clients": 2}
    plaintext, protected = (
        run(federated_arm(aggregation=one, server=MOMENTUM, **lossy), seed=74, workers=workers)
        for one, workers in ((None, 1), (aggregation, 2))
    )
    assert [row.clients for row in plaintext.history] == [2, 2, 2, 2]
    check_same(plaintext, protected)


def test_sum_with_error_of_one_grid_step_is_caught(monkeypatch):
    original = PublicKeyClients.reveal

    def add_one_step(side, total):
        values = original(side, total).copy()
        values[0] += 1
        return values

    monkeypatch.setattr(PublicKeyClients, "reveal", add_one_step)
    with pytest.raises(AssertionError):
        check_same(result_of("fl"), run(federated_arm(encrypted=True, server=MOMENTUM)))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_repetition_has_same_bits_for_any_global_seed(name):
    torch.manual_seed(123)
    check_same(result_of(name), run(federated_arm(**TECHNIQUES[name], server=MOMENTUM)))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_other_seed_gives_other_result(name):
    for first, second in zip(weights_of(result_of(name)), weights_of(result_of(name, seed=2)), strict=True):
        assert not torch.equal(first, second)


def test_noise_changes_the_result():
    assert not torch.equal(weights_of(result_of("fl"))[0], weights_of(result_of("fl_dp"))[0])


@pytest.mark.parametrize("name", TECHNIQUES)
def test_training_loss_stays_at_clients(name):
    rows = result_of(name).history
    assert [(row.step, row.train_loss, row.clients) for row in rows] == [(1, None, 3), (2, None, 3)]


def train_without_federation(kind: str, *, private: bool) -> TrainingResult:
    topology = {"kind": kind} if kind == "centralized" else {"kind": kind, "partition": "three"}
    arm = Arm.model_validate(
        {
            "topology": topology,
            "privacy": {"kind": "example", "noise_multiplier": 1.0} if private else {"kind": "none"},
            "training": {"epochs": 2, "batch_size": 10, "learning_rate": 0.1},
        }
    )
    owned = [some(60)] if kind == "centralized" else owners()
    return trained(arm, owned, [1.0 if private else None] * len(owned))


@pytest.mark.parametrize("private", [False, True], ids=["without privacy", "private"])
@pytest.mark.parametrize(("kind", "models"), [("centralized", 1), ("independent", 3)])
def test_training_without_federation_repeats_its_bits_and_sends_nothing(kind, models, private):
    first = train_without_federation(kind, private=private)
    check_same(first, train_without_federation(kind, private=private))
    assert len(first.models) == len(first.events) == models
    assert (first.bytes_up, first.bytes_down) == (0, 0)
    assert all(bool(own) == private for own in first.events)
    assert all((row.train_loss is None) == private for row in first.history)
    assert {row.clients for row in first.history} == {None}


def test_all_owners_start_from_same_weights_in_every_topology(monkeypatch):
    starts = []
    original = train.__globals__["build_model"]

    def spied(*arguments):
        model = original(*arguments)
        starts.append(vector(model))
        return model

    monkeypatch.setitem(train.__globals__, "build_model", spied)
    train_without_federation("independent", private=False)
    train_without_federation("centralized", private=False)
    run(federated_arm())
    # Three independent clients, the owner of all examples, and the federation.
    assert len(starts) == 3 + 1 + 1
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_private_arm_without_noise_is_refused():
    with pytest.raises(ValueError, match="noise multiplier"):
        trained(federated_arm(private=True), owners(), [None] * 3)


def test_each_client_gets_its_own_noise():
    noise = [0.5, 1.0, 2.0]
    outcome = trained(federated_arm(private=True), owners(), noise)
    assert [[event.noise_multiplier for event in own] for own in outcome.events] == [[one] for one in noise]


def start() -> nn.Module:
    return build_model("tanh_cnn", CONTRACT, Randomness(1).child("initial-weights").torch())


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_weighting_decides_weights_of_clients(weighting):
    arm = federated_arm(weighting=weighting, server={"kind": "sgd", "learning_rate": 0.5}, training={"shift": 0})
    # Each client trains by itself, with the same bits as in a batch of clients.
    seeds = party_seeds(Randomness(1), 3).clients
    learners = [
        BatchedClientLearner(client, BatchedClients(QUICK.settings, {client: own}, seeds))
        for client, own in enumerate(owners())
    ]
    weights = client_weights(SIZES, weighting)
    expected = by_hand(weights, rounds=2, step=2.0**-20, rate=0.5, start=start(), learners=learners)
    assert np.array_equal(weights_of(run(arm))[0].numpy(), expected)


def test_weights_are_at_most_1():
    assert max(client_weights(SIZES, "examples")) == 1.0
    assert client_weights([3], "examples") == [1.0]
