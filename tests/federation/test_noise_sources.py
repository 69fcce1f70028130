"""``noise_source: secure`` from the configuration to the generators: no noise and no sample comes from a seed.

Each account states the executed source, so that it reveals a training with secure noise in its configuration and seeded
noise in its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from ppml.config.arm import Arm
from ppml.federation import distributed_dp, sum_noise_factory
from ppml.federation import factory as federation_factory
from ppml.federation import run as federation_run
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning import dpsgd, poisson
from ppml.learning.factory import build_learner
from ppml.learning.noise import SeededNoise
from ppml.learning.result import TrainingResult
from ppml.randomness import Randomness
from ppml.training import train

from ..learning.digits import some, vector
from .parties import CONTRACT, federated, foreign_images, owners

EXAMPLE = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1}
CLIENT = {"kind": "client", "noise_multiplier": 1.0, "max_update_norm": 0.2}
MASKS = {"kind": "masking"}


def centralized(privacy: dict[str, Any]) -> Arm:
    training = {"epochs": 1, "batch_size": 20, "learning_rate": 0.1}
    return Arm.model_validate({"topology": {"kind": "centralized"}, "privacy": privacy, "training": training})


ARMS: dict[str, Callable[[str], Arm]] = {
    "centralized": lambda source: centralized({**EXAMPLE, "noise_source": source}),
    "local": lambda source: federated({**EXAMPLE, "noise_source": source}),
    "distributed, examples": lambda source: federated(
        {**EXAMPLE, "noise": "distributed", "noise_source": source}, MASKS
    ),
    "distributed, clients": lambda source: federated(
        {**CLIENT, "noise": "distributed", "noise_source": source}, MASKS, weighting="uniform"
    ),
    "central": lambda source: federated({**CLIENT, "noise_source": source}, weighting="uniform"),
}


def run(arm: Arm) -> tuple[TrainingResult, list[tuple[Any, ...]]]:
    """Train; return the result and the paths of all generators with a seed."""
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
            contract=CONTRACT,
            rng=Randomness(1),
            report=lambda row: None,
        )
    return outcome, made


def in_this_process(*given):
    # The test does not observe clients in other processes.
    return InProcessGrid(*given[:-1], None)


def listening_to_samples(made, true=poisson.SeededSampler.__init__):
    def make(self, examples, rate, steps, rng):
        # There is no sampling at rate 1.
        made.extend([rng.path] if rate < 1.0 else [])
        true(self, examples, rate, steps, rng)

    return make


def check_secure(arm: Arm) -> None:
    (first, made), (second, _) = run(arm), run(arm)
    assert not [path for path in made if "noise" in path or "sampling" in path]
    assert not torch.equal(vector(first.models[0]), vector(second.models[0]))
    stated = [event for own in first.events for event in own]
    assert stated
    assert {(event.noise_source, event.sampling_source) for event in stated} == {("secure", "secure")}


@pytest.mark.parametrize("name", ARMS)
def test_secure_noise_uses_no_seed(name):
    check_secure(ARMS[name]("secure"))


@pytest.mark.parametrize("name", ARMS)
def test_seeded_noise_repeats(name):
    (first, made), (second, _) = run(ARMS[name]("seeded")), run(ARMS[name]("seeded"))
    assert [path for path in made if "noise" in path]
    assert torch.equal(vector(first.models[0]), vector(second.models[0]))
    stated = {(event.noise_source, event.sampling_source) for own in first.events for event in own}
    assert stated == {("seeded", "seeded")}


# Planted faults: seeded in the place of secure, at each place that chooses or passes on the source.


def always_seeded(source: str, rng: Randomness) -> SeededNoise:
    return SeededNoise(rng.numpy())


def seeded_sampler(examples, rate, steps, source, rng, *, true=poisson.build_sampler):
    return true(examples, rate, steps, "seeded", rng)


def with_seeded_source(kind):
    return lambda *arguments, **named: replace(kind(*arguments, **named), source="seeded")


def seeded_learner(training, privacy, noise_multiplier):
    return build_learner(training, privacy.model_copy(update={"noise_source": "seeded"}), noise_multiplier)


FAULTS = {
    "noise of a client": ("local", dpsgd, "build_noise_source", always_seeded),
    "centralized noise": ("centralized", dpsgd, "build_noise_source", always_seeded),
    "samples of a client": ("local", dpsgd, "build_sampler", seeded_sampler),
    "learner from the configuration": ("local", federation_factory, "build_learner", seeded_learner),
    "distributed noise, examples": ("distributed, examples", distributed_dp, "build_noise_source", always_seeded),
    "samples of a round": ("distributed, examples", distributed_dp, "build_sampler", seeded_sampler),
    "distributed noise, clients": ("distributed, clients", distributed_dp, "build_noise_source", always_seeded),
    "central noise": ("central", distributed_dp, "build_noise_source", always_seeded),
    "distributed noise from the configuration": (
        *("distributed, examples", sum_noise_factory, "DistributedGaussian"),
        with_seeded_source(distributed_dp.DistributedGaussian),
    ),
    "central noise from the configuration": (
        *("central", sum_noise_factory, "CentralGaussian"),
        with_seeded_source(distributed_dp.CentralGaussian),
    ),
}


@pytest.mark.parametrize(("name", "module", "attribute", "fault"), FAULTS.values(), ids=FAULTS)
def test_seeded_noise_instead_of_secure_is_detected(name, module, attribute, fault, monkeypatch):
    monkeypatch.setattr(module, attribute, fault)
    with pytest.raises(AssertionError):
        check_secure(ARMS[name]("secure"))


@pytest.mark.parametrize("name", ["local", "distributed, examples", "central"])
def test_events_state_the_executed_noise_source(name, monkeypatch):
    for module in (dpsgd, distributed_dp):
        monkeypatch.setattr(module, "build_noise_source", always_seeded)
    outcome, _ = run(ARMS[name]("secure"))
    assert {event.noise_source for own in outcome.events for event in own} == {"seeded"}
