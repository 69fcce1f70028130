"""``noise_source: secure`` from the configuration to what drew: no noise and no sample comes from a seed.

Each account states what drew, so that a training with secure noise in its configuration and seeded noise in its
weights is told by its own account.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from ppml.config.arm import Arm
from ppml.federation import distributed_dp as shares
from ppml.federation import factory as federation_build
from ppml.federation import run as federation_run
from ppml.federation import sum_noise_factory as build_private
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning import dpsgd, poisson
from ppml.learning.factory import build_learner
from ppml.learning.noise import SeededNoise
from ppml.learning.result import TrainingResult
from ppml.randomness import Randomness
from ppml.training import train

from ..learning.digits import some, vector
from .parties import federated, foreign_images, owners

EXAMPLE = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1}
CLIENT = {"kind": "client", "noise_multiplier": 1.0, "max_update_norm": 0.2}
MASKS = {"kind": "masking"}


def centralized(privacy: dict[str, Any]) -> Arm:
    training = {"epochs": 1, "batch_size": 20, "learning_rate": 0.1}
    return Arm.model_validate({"topology": {"kind": "centralized"}, "privacy": privacy, "training": training})


ARMS: dict[str, Callable[[str], Arm]] = {
    "centralized": lambda source: centralized({**EXAMPLE, "noise_source": source}),
    "by each owner": lambda source: federated({**EXAMPLE, "noise_source": source}),
    "by shares": lambda source: federated({**EXAMPLE, "noise": "distributed", "noise_source": source}, MASKS),
    "of clients, by shares": lambda source: federated(
        {**CLIENT, "noise": "distributed", "noise_source": source}, MASKS, weighting="uniform"
    ),
    "of clients, by the server": lambda source: federated({**CLIENT, "noise_source": source}, weighting="uniform"),
}


def run(arm: Arm) -> tuple[TrainingResult, list[tuple[Any, ...]]]:
    """Train, and return with the outcome the paths of all generators that were made from a seed."""
    made: list[tuple[Any, ...]] = []

    def listening(true):
        def make(self, *arguments):
            made.append(self.path)
            return true(self, *arguments)

        return make

    owned = [some(60)] if arm.topology.kind == "centralized" else owners()
    with (
        mock.patch.object(Randomness, "numpy", listening(Randomness.numpy)),
        mock.patch.object(Randomness, "torch", listening(Randomness.torch)),
        mock.patch.object(poisson.SeededSampler, "__init__", listening_to_samples(made)),
        mock.patch.object(federation_run, "InProcessGrid", in_this_process),
    ):
        outcome = train(
            arm,
            owned,
            [1.0] * len(owned),
            foreign_images(),
            classes=10,
            rng=Randomness(1),
            report=lambda row: None,
        )
    return outcome, made


def in_this_process(*given):
    # Clients in a process of their own would not be heard.
    return InProcessGrid(*given[:-1], None)


def listening_to_samples(made, true=poisson.SeededSampler.__init__):
    def make(self, records, rate, steps, rng):
        # Where every record is taken no sample is drawn.
        made.extend([rng.path] if rate < 1.0 else [])
        true(self, records, rate, steps, rng)

    return make


def check_secure(arm: Arm) -> None:
    (first, made), (second, _) = run(arm), run(arm)
    assert not [path for path in made if "noise" in path or "sampling" in path]
    assert not torch.equal(vector(first.models[0]), vector(second.models[0]))
    stated = [event for own in first.events for event in own]
    assert stated
    assert {(event.noise_source, event.sampling_source) for event in stated} == {("secure", "secure")}


@pytest.mark.parametrize("name", ARMS)
def test_secure_noise_comes_from_no_seed_and_is_stated_as_secure(name):
    check_secure(ARMS[name]("secure"))


@pytest.mark.parametrize("name", ARMS)
def test_seeded_noise_repeats_and_is_stated_as_seeded(name):
    (first, made), (second, _) = run(ARMS[name]("seeded")), run(ARMS[name]("seeded"))
    assert [path for path in made if "noise" in path]
    assert torch.equal(vector(first.models[0]), vector(second.models[0]))
    stated = {(event.noise_source, event.sampling_source) for own in first.events for event in own}
    assert stated == {("seeded", "seeded")}


# Planted faults: secure is replaced by seeded at each place where the source is chosen or passed on.


def always_seeded(source: str, rng: Randomness) -> SeededNoise:
    return SeededNoise(rng.numpy())


def seeded_sampler(records, rate, steps, source, rng, *, true=poisson.build_sampler):
    return true(records, rate, steps, "seeded", rng)


def with_seeded_source(kind):
    return lambda *arguments, **named: replace(kind(*arguments, **named), source="seeded")


def seeded_learner(training, privacy, noise_multiplier):
    return build_learner(training, privacy.model_copy(update={"noise_source": "seeded"}), noise_multiplier)


FAULTS = {
    "the noise of an owner": ("by each owner", dpsgd, "build_noise_source", always_seeded),
    "the noise of a centralized owner": ("centralized", dpsgd, "build_noise_source", always_seeded),
    "the samples of an owner": ("by each owner", dpsgd, "build_sampler", seeded_sampler),
    "the learner from the configuration": ("by each owner", federation_build, "build_learner", seeded_learner),
    "shares": ("by shares", shares, "build_noise_source", always_seeded),
    "the samples of a round": ("by shares", shares, "build_sampler", seeded_sampler),
    "shares of clients": ("of clients, by shares", shares, "build_noise_source", always_seeded),
    "the noise of a server": ("of clients, by the server", shares, "build_noise_source", always_seeded),
    "shares from the configuration": (
        *("by shares", build_private, "DistributedGaussian"),
        with_seeded_source(shares.DistributedGaussian),
    ),
    "the server's noise from the configuration": (
        *("of clients, by the server", build_private, "CentralGaussian"),
        with_seeded_source(shares.CentralGaussian),
    ),
}


@pytest.mark.parametrize(("name", "module", "attribute", "fault"), FAULTS.values(), ids=FAULTS)
def test_secure_that_is_replaced_by_seeded_is_caught(name, module, attribute, fault, monkeypatch):
    monkeypatch.setattr(module, attribute, fault)
    with pytest.raises(AssertionError):
        check_secure(ARMS[name]("secure"))


@pytest.mark.parametrize("name", ["by each owner", "by shares", "of clients, by the server"])
def test_noise_that_is_seeded_is_stated_as_such_whatever_the_configuration_says(name, monkeypatch):
    for module in (dpsgd, shares):
        monkeypatch.setattr(module, "build_noise_source", always_seeded)
    outcome, _ = run(ARMS[name]("secure"))
    assert {event.noise_source for own in outcome.events for event in own} == {"seeded"}
