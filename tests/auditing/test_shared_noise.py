"""No combination of two private models is nearer to the weights without noise than with independent noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from ppml import training as techniques
from ppml.config.arm import Arm
from ppml.data.examples import Examples
from ppml.federation import factory as build
from ppml.randomness import Randomness
from ppml.training import train

from ..federation.runs import ignore_row
from ..learning.digits import one_thread, some, vector
from .arms import CONTRACT
from .lines import nearest_pair, nearness

__all__ = ["one_thread"]

SMALLEST = 0.95
"""Independent noise gives at least .98 for all pairs; shared noise gives less than .2."""

FEDERATED = {"topology": {"kind": "federated", "partition": "three", "rounds": 6}, "training": {"epochs": 1}}
SHARES = {"aggregation": {"kind": "ckks", "clip": 64.0}}
EXAMPLE = {"kind": "example", "max_grad_norm": 0.1}
ARMS = {
    "strong": ({}, EXAMPLE, 8.0),
    "medium": ({}, EXAMPLE, 4.0),
    "weak": ({}, EXAMPLE, 2.0),
    "another clipping norm": ({}, {**EXAMPLE, "max_grad_norm": 0.2}, 4.0),
    "another rate": ({"training": {"learning_rate": 1.0}}, EXAMPLE, 4.0),
    "noise of each client": (FEDERATED, EXAMPLE, 4.0),
    "noise of each client, weak": (FEDERATED, EXAMPLE, 2.0),
    "shares": ({**FEDERATED, **SHARES}, {**EXAMPLE, "noise": "distributed"}, 4.0),
    "shares, weak": ({**FEDERATED, **SHARES}, {**EXAMPLE, "noise": "distributed"}, 2.0),
    "noise of the server": (FEDERATED, {"kind": "client", "max_update_norm": 0.5}, 0.2),
    "noise of the server, weak": (FEDERATED, {"kind": "client", "max_update_norm": 0.5}, 0.1),
}


def spec_of(name: str) -> tuple[Arm, float]:
    parts, privacy, noise = ARMS[name]
    training = {"batch_size": "all", "learning_rate": 2.0, "epochs": 6, **parts.get("training", {})}
    topology = dict(parts.get("topology", {"kind": "centralized"}))
    if privacy["kind"] == "client":
        topology["weighting"] = "uniform"
    arm = {
        **parts,
        "topology": topology,
        "model": "logistic",
        "privacy": {**privacy, "noise_multiplier": noise},
        "training": training,
    }
    return Arm.model_validate(arm), noise


@cache
def examples() -> list[Examples]:
    return [some(30, start=30 * number) for number in range(3)]


def weights(name: str, seed: int, *, noisy: bool) -> np.ndarray:
    """Return the trained weights of an arm, from initial weights 0."""
    arm, noise = spec_of(name)
    owned = examples()
    if arm.topology.kind == "centralized":
        owned = [Examples(torch.cat([own.inputs for own in owned]), torch.cat([own.labels for own in owned]))]
    multipliers = [noise if noisy else 0.0] * len(owned)
    rng = Randomness(2024).child("seed", seed)
    (model,) = train(arm, owned, multipliers, some(5), contract=CONTRACT, rng=rng, report=ignore_row).models
    return vector(model).double().numpy()


def released(seeds: tuple[int, ...] = (0, 1)) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the weights of every arm and seed, with noise and without."""
    names = [(name, seed) for name in ARMS for seed in seeds]
    return tuple(  # type: ignore[return-value]
        {f"{name}, seed {seed}": weights(name, seed, noisy=noisy) for name, seed in names} for noisy in (True, False)
    )


def test_noise_of_two_private_models_does_not_cancel():
    smallest, pair = nearest_pair(*released())
    assert smallest > SMALLEST, pair


def shared_draws(arm, sizes, noises, affordable_steps, model, rng, data):
    return rng, "one"


def one_stream(rng: Randomness, clients: int) -> build.Seeds:
    return build.Seeds(rng.party("server"), dict.fromkeys(range(clients), rng.party("client")))


def plant_shared_path(monkeypatch) -> None:
    monkeypatch.setattr(techniques, "draws_of", shared_draws)


def plant_shared_seeds(monkeypatch) -> None:
    """Plant one noise for all seeds of the configuration."""
    monkeypatch.setattr(techniques, "draws_of", lambda *given: (Randomness(2024), "one"))


@pytest.mark.parametrize("plant", [plant_shared_path, plant_shared_seeds])
def test_check_detects_shared_noise(plant: Callable, monkeypatch):
    plant(monkeypatch)
    smallest, _ = nearest_pair(*released((0, 1) if plant is plant_shared_seeds else (0,)))
    assert smallest < 0.5


def test_clients_of_a_federation_draw_different_noise(monkeypatch):
    """The sum of three independent noises is smaller than three times one noise."""

    def size() -> float:
        residual = weights("noise of each client", 0, noisy=True) - weights("noise of each client", 0, noisy=False)
        return float(np.linalg.norm(residual))

    independent = size()
    monkeypatch.setattr(build, "party_seeds", one_stream)
    assert size() == pytest.approx(independent * np.sqrt(3), rel=0.15)


def test_aggregation_does_not_change_the_noise():
    arm, noise = spec_of("noise of each client")
    masked = Arm.model_validate({**arm.technique(), "aggregation": {"kind": "masking"}})
    both = [
        train(one, examples(), [noise] * 3, some(5), contract=CONTRACT, rng=Randomness(1), report=ignore_row)
        for one in (arm, masked)
    ]
    assert torch.equal(*(vector(outcome.models[0]) for outcome in both))
    assert both[0].release == both[1].release is not None


def test_nearness_is_1_for_independent_and_0_for_shared_noise():
    generator = Randomness(1).numpy()
    clean, noise, other = generator.normal(size=(3, 5000))
    assert nearness([clean + noise, clean + 3 * other], [clean, clean]) == pytest.approx(1, abs=0.05)
    assert nearness([clean + noise, clean + 3 * noise], [clean, clean]) == pytest.approx(0, abs=1e-6)
