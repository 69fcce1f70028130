"""The stage calibrate: the noise of each owner."""

import math

import pytest
from scipy.stats import norm

from ppml.config.arm import Arm
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json

from .conftest import run_stage

DELTA = 1e-5


def noise_of(folder, arm, *, sizes=(), examples=1000, threads=1):
    """Run the stage with clients of ``sizes``, or one owner of all examples, and return the noise that it writes."""
    inputs, outputs = {"about": folder / "about.json"}, {"noise": folder / "noise.json"}
    write_json(inputs["about"], {"n_train": examples})
    if sizes:
        inputs["partition"] = folder / "partition.json"
        write_json(inputs["partition"], {"clients": [list(range(size)) for size in sizes]})
    run_stage("calibrate", {"arm": Arm.model_validate(arm).technique()}, inputs, outputs, threads=threads)
    return read_json(outputs["noise"])["noise_multipliers"]


def private(epsilon, accountant="prv", **keys):
    return {"kind": "example", "epsilon": epsilon, "delta": DELTA, "accountant": accountant, **keys}


def federated(privacy, rounds=3, **topology):
    """Return an arm of a federation whose clients train one epoch a round."""
    topology = {"kind": "federated", "partition": "p", "rounds": rounds, **topology}
    return {"topology": topology, "privacy": privacy, "training": {"epochs": 1, "batch_size": 50}}


def spent_by_opacus(noise, rate, steps, accountant):
    from opacus.accountants import create_accountant

    counter = create_accountant(mechanism=accountant)
    for _ in range(steps):
        counter.step(noise_multiplier=noise, sample_rate=rate)
    return counter.get_epsilon(DELTA)


def exact_epsilon_of_gaussians(noise, steps):
    """Return the exact epsilon of ``steps`` Gaussian mechanisms without sampling (Balle & Wang, arXiv 1805.06530)."""
    mu = math.sqrt(steps) / noise

    def delta(epsilon):
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)

    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta(middle) > DELTA else (low, middle)
    return high


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_noise_spends_target_and_hardly_less(accountant, tmp_path):
    arm = {"privacy": private(2.0, accountant), "training": {"epochs": 3, "batch_size": 100}}
    (noise,) = noise_of(tmp_path, arm)
    assert 2.0 - 0.02 <= spent_by_opacus(noise, 0.1, 30, accountant) <= 2.0


def test_noise_without_sampling_agrees_with_exact_epsilon(tmp_path):
    arm = {"privacy": private(2.0), "training": {"epochs": 5, "batch_size": 1000}}
    (noise,) = noise_of(tmp_path, arm)
    # The PRV accountant states the upper end of an interval of 0.01 on either side.
    assert 2.0 - 0.03 <= exact_epsilon_of_gaussians(noise, steps=5) <= 2.0


def test_noise_of_owner_depends_on_its_number_of_examples(tmp_path):
    arm = federated(private(3.0, "rdp"))
    first, second, third, fourth = noise_of(tmp_path, arm, sizes=(100, 400, 200, 400))
    assert first > third > second == fourth
    for noise, rate, steps in ((first, 0.5, 3 * 2), (third, 0.25, 3 * 4), (second, 0.125, 3 * 8)):
        assert 3.0 - 0.02 <= spent_by_opacus(noise, rate, steps, "rdp") <= 3.0


def test_smaller_epsilon_and_more_steps_need_more_noise(tmp_path):
    def noise(epsilon, epochs):
        return noise_of(tmp_path, {"privacy": private(epsilon, "rdp"), "training": {"epochs": epochs}})[0]

    assert noise(1.0, 5) > noise(2.0, 5)
    assert noise(2.0, 10) > noise(2.0, 5)


def test_configured_noise_is_not_changed(tmp_path):
    privacy = private(None, noise_multiplier=4.0)
    assert noise_of(tmp_path, {"privacy": privacy}, sizes=(10, 20)) == [4.0, 4.0]
    assert noise_of(tmp_path, {"privacy": privacy}) == [4.0]


def test_unreachable_target_is_refused_with_remedy(tmp_path):
    with pytest.raises(UserError) as caught:
        noise_of(tmp_path, {"privacy": private(1e-9, "rdp"), "training": {"epochs": 10, "batch_size": 1000}})
    message = str(caught.value)
    assert message.startswith("privacy.epsilon: got 1e-09, ") and " for 10 steps at sample rate 1 (1000 " in message
    assert " is 0.0035; raise privacy.epsilon" in message and message.endswith(" tightest, prv, pld, gdp")


def test_target_above_smallest_epsilon_is_reached(tmp_path):
    assert noise_of(tmp_path, {"privacy": private(0.11, "rdp"), "training": {"epochs": 1, "batch_size": 1000}})[0] > 10


@pytest.mark.parametrize("batch_size", [100, 1000])
def test_tightest_accountant_needs_less_noise_than_prv(batch_size, tmp_path):
    def noise(accountant):
        arm = {"privacy": private(0.563, accountant), "training": {"epochs": 4, "batch_size": batch_size}}
        return noise_of(tmp_path, arm)[0]

    least, by_prv = noise("tightest"), noise("prv")
    assert 0.96 < least / by_prv < 0.99


def test_distributed_noise_is_that_of_all_examples(tmp_path):
    arm = {**federated(private(3.0, "rdp", noise="distributed"), rounds=6), "aggregation": {"kind": "ckks"}}
    noises = noise_of(tmp_path, arm, sizes=(100, 400))
    assert len(noises) == 2 and len(set(noises)) == 1
    assert 3.0 - 0.02 <= spent_by_opacus(noises[0], 0.1, 6, "rdp") <= 3.0


def client_level(epsilon, accountant):
    privacy = {"kind": "client", "epsilon": epsilon, "delta": DELTA, "accountant": accountant}
    return federated(privacy, rounds=6, weighting="uniform")


def test_client_level_noise_does_not_depend_on_numbers_of_examples(tmp_path):
    first, *others = noise_of(tmp_path, client_level(2.0, "gdp"), sizes=(100, 400, 7))
    assert others == [first] * 2
    assert 2.0 - 0.01 <= exact_epsilon_of_gaussians(first, steps=6) <= 2.0


def test_unreachable_target_of_clients_counts_clients(tmp_path):
    with pytest.raises(UserError, match=r"for 6 steps at sample rate 1 \(3 clients\) is .*; raise privacy\.epsilon"):
        noise_of(tmp_path, client_level(1e-9, "rdp"), sizes=(100, 400, 7))


def budgeted(budget, accountant="rdp", **training):
    privacy = private(None, accountant, noise_multiplier=2.0, budget=budget)
    return {"privacy": privacy, "training": {"epochs": 4, "batch_size": 100, **training}}


def test_budget_allows_steps_that_fit_up_to_plan(tmp_path):
    def steps(budget):
        noise_of(tmp_path, budgeted(budget))
        return read_json(tmp_path / "noise.json")["affordable_steps"]

    (some,) = steps(1.2)
    assert 0 < some < 40
    assert spent_by_opacus(2.0, 0.1, some, "rdp") <= 1.2 < spent_by_opacus(2.0, 0.1, some + 1, "rdp")
    assert steps(50.0) == [40]


def test_budget_below_one_step_is_refused_with_remedy(tmp_path):
    with pytest.raises(UserError) as caught:
        noise_of(tmp_path, budgeted(0.01))
    assert str(caught.value).startswith("privacy.budget: got 0.01, ") and "noise_multiplier 2" in str(caught.value)
    assert str(caught.value).endswith("raise privacy.noise_multiplier or privacy.budget")


def test_arm_without_budget_has_no_affordable_steps(tmp_path):
    noise_of(tmp_path, {"privacy": private(None, noise_multiplier=4.0)})
    assert "affordable_steps" not in read_json(tmp_path / "noise.json")


def test_arm_without_privacy_is_not_calibrated(tmp_path):
    with pytest.raises(ValueError, match="only arms with privacy"):
        noise_of(tmp_path, {})


def test_noise_does_not_depend_on_number_of_processes(tmp_path):
    arm = federated(private(3.0, "rdp"))
    sizes = (100, 400, 200, 400, 731)
    assert noise_of(tmp_path, arm, sizes=sizes, threads=3) == noise_of(tmp_path, arm, sizes=sizes)


def test_unreachable_target_is_refused_equally_by_several_processes(tmp_path):
    arm = federated(private(1e-9, "rdp"))
    with pytest.raises(UserError, match=r"^privacy\.epsilon: got 1e-09, which no noise reaches"):
        noise_of(tmp_path, arm, sizes=(100, 400), threads=2)
