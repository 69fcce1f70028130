"""``device: cuda``: the claims of a CPU hold on a GPU, whose bits may vary; skipped without a GPU."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch

from ppml.config.arm import Arm
from ppml.federation import simulation_grid as grid
from ppml.learning.clipped_sum import clipped_sum as summed_by_clients
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.evaluation import evaluate
from ppml.learning.poisson import SeededSampler
from ppml.learning.result import TrainingResult
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness
from ppml.training import train

from .federation.runs import PRIVACY, owners
from .learning import test_dpsgd
from .learning.digits import CONTRACT, Silent, blank, digits, one_thread, some, vector
from .learning.test_dpsgd import clipped_sum, moved, plain
from .learning.test_not_finite import CASES, null, spoilt

__all__ = ["one_thread"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SIZES = (400, 250, 600)
NONE: dict[str, Any] = {"kind": "none"}
CLIENT = {"kind": "client", "noise_multiplier": 1.0, "max_update_norm": 1.0}
CENTRALIZED = {"kind": "centralized"}
LOCAL = {"kind": "independent", "partition": "three"}
FEDERATED = {"kind": "federated", "partition": "three", "rounds": 3}
ARMS = {
    "centralized": (CENTRALIZED, NONE, "plaintext"),
    "private": (CENTRALIZED, PRIVACY, "plaintext"),
    "private, secure noise": (CENTRALIZED, {**PRIVACY, "noise_source": "secure"}, "plaintext"),
    "alone": (LOCAL, NONE, "plaintext"),
    "alone, private": (LOCAL, PRIVACY, "plaintext"),
    "federated": (FEDERATED, NONE, "plaintext"),
    "federated, private": (FEDERATED, PRIVACY, "plaintext"),
    "federated, private clients": ({**FEDERATED, "weighting": "uniform"}, CLIENT, "plaintext"),
    "ckks": (FEDERATED, NONE, "ckks"),
    "bfv": (FEDERATED, PRIVACY, "bfv"),
    "masking": (FEDERATED, PRIVACY, "masking"),
    "shares": (FEDERATED, NONE, "secret_sharing"),
}


def trained(name: str, device: str) -> TrainingResult:
    topology, privacy, aggregation = ARMS[name]
    # Poisson sampling with little noise, so that the models of two devices can be compared.
    arm = Arm.model_validate(
        {
            "topology": topology,
            "privacy": privacy,
            "aggregation": {"kind": aggregation},
            "training": {"epochs": 3, "batch_size": 20, "learning_rate": 0.05 if privacy is not PRIVACY else 0.5},
        }
    )
    owned = [digits()[0]] if topology is CENTRALIZED else owners(SIZES)
    return train(
        arm,
        [examples.to(device) for examples in owned],
        [None if privacy is NONE else 0.1] * len(owned),
        digits()[1].to(device),
        contract=CONTRACT,
        rng=Randomness(1),
        report=lambda row: None,
    )


@pytest.mark.parametrize("name", ARMS)
def test_gpu_training_has_same_account_and_accuracy(name):
    on_cpu, on_gpu = trained(name, "cpu"), trained(name, "cuda")
    assert on_gpu.events == on_cpu.events
    assert {parameter.device.type for model in on_gpu.models for parameter in model.parameters()} == {"cuda"}
    assert [row.step for row in on_gpu.history] == [row.step for row in on_cpu.history]
    if ARMS[name][2] in ("plaintext", "masking", "secret_sharing"):
        assert (on_gpu.bytes_up, on_gpu.bytes_down) == (on_cpu.bytes_up, on_cpu.bytes_down)
    for ours, theirs in zip(on_gpu.models, on_cpu.models, strict=True):
        accuracy = [evaluate(model, digits()[1].to(where))[1] for model, where in ((ours, "cuda"), (theirs, "cpu"))]
        # 360 images: five standard errors of a good model's error rate.
        assert accuracy[0] == pytest.approx(accuracy[1], abs=0.08)
        assert accuracy[0] > 0.5


@pytest.mark.parametrize("name", ["centralized", "alone", "federated"])
def test_noiseless_weights_equal_cpu_up_to_rounding(name):
    ours, theirs = ([vector(model).cpu() for model in trained(name, device).models] for device in ("cuda", "cpu"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("model", ["tanh_cnn", "resnet18"])
def test_private_step_is_clipped_sum(model):
    examples, rng, norm = some(24), Randomness(5), 0.5
    (sample,) = SeededSampler(examples, 0.75, 1, rng.child("sampling"))
    built = build_model(model, CONTRACT, Randomness(0).torch())
    expected = clipped_sum(built.eval(), examples.select(sample), norm) / 18
    on_gpu = built.train().to("cuda"), examples.to("cuda")
    step = moved(plain(18), *on_gpu, noise_multiplier=0.0, max_grad_norm=norm, rng=rng).cpu()
    assert (step - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_noise_matches_account(source):
    test_dpsgd.test_noise_in_weights_matches_events(source, device="cuda")


def test_seeded_noise_has_cpu_bits():
    released: dict[str, list[torch.Tensor]] = {"cpu": [], "cuda": []}
    for device, kept in released.items():
        DpSgdLearner(
            plain(10, learning_rate=0.5),
            noise_multiplier=1.5,
            max_grad_norm=0.2,
            on_release=lambda gradients, kept=kept: kept.append(gradients[0].cpu()),
        ).fit(Silent().to(device), blank(50).to(device), window=TrainingWindow(), rng=Randomness(1))
    assert len(released["cpu"]) == 5
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(released["cuda"], released["cpu"], strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_example_contributes_0(case, value):
    model, examples = CASES[case][0]().to("cuda"), CASES[case][1]()
    everything = torch.arange(len(examples), device="cuda")
    with mock.patch.object(bookkeeping, "clipping_factors", null):
        expected = summed_by_clients(model, examples.to("cuda"), everything, 0.1)
    found = summed_by_clients(model, spoilt(examples, value).to("cuda"), everything, 0.1)
    assert found == pytest.approx(expected, abs=1e-6) and found.any()


def test_encrypting_clients_run_in_gpu_process(monkeypatch):
    def forked(*given):
        raise AssertionError("a forked process cannot use a GPU")

    monkeypatch.setattr(grid, "ForkedWorker", forked)
    clear, sealed = (vector(trained(name, "cuda").models[0]) for name in ("federated", "ckks"))
    assert (clear - sealed).norm() < 0.02 * clear.norm()
