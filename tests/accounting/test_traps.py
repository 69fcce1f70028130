"""Known accounting errors of published code, each with its wrong epsilon."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ppml.accounting.calibration import calibrate
from ppml.accounting.epsilon import epsilon, epsilon_curve, epsilons_after
from ppml.accounting.events import MechanismEvent
from ppml.accounting.schedule import poisson_schedule
from ppml.config.datasets import DATASETS
from ppml.stages.example_files import read_examples

DELTA = 1e-5


def test_accountant_per_round_shows_less_than_half():
    # 8 clients of 7,500 examples, batch 64, noise multiplier 1, 20 rounds of one epoch.
    rate, steps = poisson_schedule(7500, 64)
    one_round, training = (MechanismEvent(rate, 1.0, count * steps, 1.0) for count in (1, 20))
    assert epsilon([one_round], DELTA, "rdp") == pytest.approx(1.15, abs=0.005)
    assert epsilon([training], DELTA, "rdp") == pytest.approx(2.61, abs=0.005)
    assert epsilon([training], DELTA, "pld") == pytest.approx(2.35, abs=0.005)
    assert epsilon([one_round] * 20, DELTA, "rdp") == epsilon([training], DELTA, "rdp")


@pytest.mark.parametrize(("batch_size", "by_pld"), [(64, 0.78), (256, 0.90)])
def test_noise_calibrated_by_rdp_has_smaller_epsilon_by_pld(batch_size, by_pld):
    rate, steps = poisson_schedule(10_000, batch_size)
    noise = calibrate(target=1.0, delta=DELTA, sample_rate=rate, steps=5 * steps, accountant="rdp")
    event = MechanismEvent(rate, noise, 5 * steps, 1.0)
    assert epsilon([event], DELTA, "rdp") == pytest.approx(1.0, abs=0.005)
    assert epsilon([event], DELTA, "pld") == pytest.approx(by_pld, abs=0.005)
    assert abs(epsilon([event], DELTA, "prv") - epsilon([event], DELTA, "pld")) < 0.05


def test_noise_calibrated_by_pld_exceeds_the_target_by_rdp():
    # Opacus calibrates by RDP by default, but its engine states PRV: both must use one accountant.
    schedule = {"delta": DELTA, "sample_rate": 0.1, "steps": 50}
    by_pld = calibrate(target=1.0, accountant="pld", **schedule)
    assert epsilon([MechanismEvent(0.1, by_pld, 50, 1.0)], DELTA, "rdp") > 1.05


@pytest.mark.parametrize("accountant", ["prv", "rdp", "pld", "gdp"])
@pytest.mark.parametrize("sampler", ["shuffled", "without_replacement", ""])
def test_other_samplers_have_no_epsilon_by_any_accountant(accountant, sampler):
    for rate, steps in itertools.product((0.1, 1.0), (0, 10)):
        other = MechanismEvent(rate, 1.0, steps, 1.0, sampler)
        with pytest.raises(ValueError, match=f"sampler '{sampler}'; allowed: 'poisson'"):
            epsilon([MechanismEvent(rate, 1.0, 10, 1.0), other], DELTA, accountant)


def test_unknown_accountant_is_refused():
    with pytest.raises(ValueError, match="accountant: got 'moments'"):
        epsilon([MechanismEvent(0.1, 1.0, 10, 1.0)], DELTA, "moments")


def test_epsilon_curve_counts_steps_in_order():
    events = [MechanismEvent(0.2, 1.5, 6, 1.0), MechanismEvent(0.1, 3.0, 4, 1.0)]
    after = dict(epsilon_curve(events, DELTA, "rdp"))
    assert list(after) == list(range(1, 11))
    assert after[5] == epsilon([replace(events[0], steps=5)], DELTA, "rdp")
    assert after[8] == pytest.approx(epsilon([events[0], replace(events[1], steps=2)], DELTA, "rdp"), rel=1e-12)
    assert after[10] == epsilon(events, DELTA, "rdp")
    assert epsilons_after(events, [0, 10], DELTA, "prv") == [0.0, epsilon(events, DELTA, "prv")]


def check_examples_are_independent(read) -> None:
    first, second = (np.random.default_rng(1).integers(0, 256, (20, 28, 28), dtype=np.uint8) for _ in range(2))
    second[7] = 255
    before, after = read(first), read(second)
    others = torch.arange(20) != 7
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[7], after[7])


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_normalization_uses_public_constants(dataset, tmp_path):
    def read(images):
        save_file(
            {"inputs": torch.from_numpy(images)[:, None], "labels": torch.zeros(20, dtype=torch.int64)}, tmp_path / "f"
        )
        return read_examples(tmp_path / "f", DATASETS[dataset].contract).inputs

    check_examples_are_independent(read)


def test_check_detects_normalization_by_the_data():
    def read(images):
        pixels = torch.from_numpy(images).float()
        return (pixels - pixels.mean()) / pixels.std()

    with pytest.raises(AssertionError):
        check_examples_are_independent(read)
