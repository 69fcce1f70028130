"""The sums under the noise: clipped gradients of one Poisson sample of all examples, or clipped updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.data.examples import Examples
from ppml.federation import distributed_dp as shares_module
from ppml.federation.algorithms import ClientData
from ppml.federation.distributed_dp import (
    TAIL,
    DistributedDpSgd,
    DistributedGaussian,
    DpFedAvg,
    NoiseSample,
)
from ppml.federation.global_state import GlobalState
from ppml.federation.server_optimizer import FedAvgM
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.learner import TrainingDiverged
from ppml.learning.parameters import unflatten_into
from ppml.randomness import Randomness

from ..learning.digits import blank, some
from ..learning.planted import unclipped
from .parties import (
    CODEC,
    PARAMETERS,
    federated,
    logistic,
    owners,
    parties,
    play,
    with_clients,
)
from .sum_noise import (
    BY_CLIENT,
    IDLE,
    STEP,
    Changed,
    Plant,
    by_example,
    distributed_gaussian,
    honest,
    round_context,
    sensitivity,
)

# Sums of gradients.


def clipped_gradients(model: torch.nn.Module, examples: Examples, norm: float) -> np.ndarray:
    """Return the clipped gradient of each example, in float64, by one backward pass per example."""
    found = []
    for image, label in zip(examples.inputs, examples.labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradient = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))]).double()
        found.append((gradient * min(1.0, norm / gradient.norm().item())).numpy())
    return np.array(found)


@cache
def random_weights() -> np.ndarray:
    """Return weights at which some gradients are longer than 0.1 and some are shorter."""
    rng = np.random.default_rng(1)
    return rng.normal(0.0, 1.0, PARAMETERS).astype(np.float32)


def sample_of(algorithm: DistributedDpSgd, client: int, examples: int | Examples, number: int = 1) -> np.ndarray:
    """Return the indices of a client's sample of its examples, or of a number of examples without gradients."""
    seen = []
    zeros = NoiseSample(np.zeros(PARAMETERS, np.int64), "seeded")

    def record_sample(model, examples, chosen, norm):
        seen.append(chosen.numpy())
        return np.zeros(PARAMETERS, np.float32)

    with (
        mock.patch.object(shares_module, "clipped_sum", record_sample),
        mock.patch.object(shares_module, "rounded_gaussian", lambda *_: zeros),
    ):
        model, data = idle(examples) if isinstance(examples, int) else (logistic(), ClientData(IDLE, examples))
        algorithm.compute_update(model, data, round_context(client, number))
    return seen[0]


@cache
def idle(examples: int) -> tuple[torch.nn.Module, ClientData]:
    """Return a model and the data of a client with a number of examples without gradients."""
    return logistic(), ClientData(IDLE, blank(examples))


def small_gaussian(noise: float = 1.0, **others) -> DistributedGaussian:
    return distributed_gaussian(noise, 3, size=PARAMETERS, codec=FixedPointCodec(16.0, 20), **others)


def check_gradient_sums(rate: float, plant: Plant = honest) -> None:
    """Compare two rounds of three clients with gradients clipped one by one."""
    algorithm = plant(by_example(small_gaussian(max_norm=0.5), rate=rate))
    state = GlobalState(random_weights(), algorithm.initial_memory(PARAMETERS))
    for number in (1, 2):
        expected, total = np.zeros(PARAMETERS), np.zeros(PARAMETERS, np.int64)
        for client, examples in enumerate(owners()):
            chosen = torch.from_numpy(sample_of(algorithm, client, examples, number))
            model = logistic()
            unflatten_into(model, state.parameters)
            gradients = clipped_gradients(model, examples.select(chosen), 0.5)
            made = algorithm.compute_update(
                logistic(), ClientData(IDLE, examples), replace(round_context(client, number), global_state=state)
            )
            np.testing.assert_allclose(made.values, -gradients.sum(axis=0), atol=1e-5)
            assert not np.array_equal(made.noise, np.zeros(PARAMETERS))
            expected += -gradients.sum(axis=0) + made.noise * STEP
            total += CODEC.encode(made.values) + made.noise
        after = algorithm.apply_sum(total * STEP, state, number)
        # The public expected batch size, and the learning rate of the round: 0.1, then two thirds of it.
        step = 0.1 * (4 - number) / 3 * expected / (rate * 125)
        assert np.abs(step).max() > 1e-4
        np.testing.assert_allclose(after.parameters - state.parameters, step, atol=1e-6)
        state = replace(after, memory=state.memory)


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_distributed_dp_sgd_sums_clipped_gradients(rate):
    check_gradient_sums(rate)


def test_check_has_clipped_and_unclipped_gradients():
    model = logistic()
    unflatten_into(model, random_weights())
    norms = np.linalg.norm(clipped_gradients(model, some(125), math.inf), axis=1)
    assert (norms > 0.5).sum() > 20 and (norms < 0.5).sum() > 5


def without_clipping(algorithm):
    def compute_update(model, data, round_context):
        with mock.patch.object(bookkeeping, "clipping_factors", unclipped):
            return algorithm.compute_update(model, data, round_context)

    changed = Changed(algorithm, lambda made, round_context: made)
    changed.compute_update = compute_update
    return changed


class DividesByTheSampled(DistributedDpSgd):
    """Divides by the executed batch size, which is private."""

    def compute_update(self, model, data, round_context):
        sampled.extend(len(chosen) for chosen in self._sampler(data.examples, round_context.rng))
        return super().compute_update(model, data, round_context)

    def apply_sum(self, total, state, number):
        # The check computes each of the three updates twice.
        return DistributedDpSgd.apply_sum(
            replace(self, expected_batch_size=sum(sampled[-6:]) / 2), total, state, number
        )


sampled: list[int] = []


class StepsUphill(DistributedDpSgd):
    def compute_update(self, model, data, round_context):
        made = super().compute_update(model, data, round_context)
        return replace(made, values=-made.values)


class SamplesAtItsOwnRate(DistributedDpSgd):
    """Samples 20 examples of each client, of any size."""

    def _sampler(self, examples, rng):
        return DistributedDpSgd._sampler(replace(self, sample_rate=min(1.0, 20 / len(examples))), examples, rng)


def as_a(kind):
    return lambda algorithm: kind(**vars(algorithm))


GRADIENT_FAULTS = {
    "clipping omitted": without_clipping,
    "divided by the executed batch size": as_a(DividesByTheSampled),
    "a step uphill": as_a(StepsUphill),
    "noise omitted": lambda algorithm: Changed(
        algorithm, lambda made, round_context: replace(made, noise=np.zeros_like(made.noise))
    ),
}


@pytest.mark.parametrize("plant", GRADIENT_FAULTS.values(), ids=GRADIENT_FAULTS)
def test_wrong_sum_of_gradients_is_detected(plant):
    with pytest.raises(AssertionError):
        check_gradient_sums(0.4, plant)


def check_samples_form_one_poisson_sample(algorithm: DistributedDpSgd, sizes: Sequence[int] = (5, 30, 90)) -> None:
    rounds, rate = 500, algorithm.sample_rate
    drawn = np.zeros((rounds, sum(sizes)), dtype=bool)
    for number in range(rounds):
        for client, size in enumerate(sizes):
            drawn[number, sum(sizes[:client]) + sample_of(algorithm, client, size, number)] = True
    error = math.sqrt(rate * (1 - rate) / rounds)
    assert np.abs(drawn.mean(axis=0) - rate).max() < 5.5 * error, "all examples have the same sampling rate"
    sizes_of_samples = drawn.sum(axis=1)
    assert sizes_of_samples.std() == pytest.approx(math.sqrt(125 * rate * (1 - rate)), rel=0.16)
    # Dependent samples would change the variance of each client, or the correlation between clients.
    starts = np.cumsum([0, *sizes[:-1]])
    by_owner = np.add.reduceat(drawn.astype(int), starts, axis=1)
    for size, column in zip(sizes, by_owner.T, strict=True):
        assert column.std() == pytest.approx(math.sqrt(size * rate * (1 - rate)), rel=0.16)
    assert np.abs(np.corrcoef(by_owner.T) - np.eye(len(sizes))).max() < 0.22
    assert abs(np.corrcoef(sizes_of_samples[1:], sizes_of_samples[:-1])[0, 1]) < 0.22


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_client_samples_form_one_poisson_sample(source):
    check_samples_form_one_poisson_sample(by_example(small_gaussian(source=source), rate=0.2))


class FixedBatches(DistributedDpSgd):
    """Samples a fixed number of examples of each client."""

    def _sampler(self, examples, rng):
        count = round(self.sample_rate * len(examples))
        return [torch.from_numpy(np.sort(rng.child("sampling").numpy().permutation(len(examples))[:count]))]


class TheSameEveryRound(DistributedDpSgd):
    def _sampler(self, examples, rng):
        return super()._sampler(examples, Randomness(rng.root))


class TheSameAtAllClients(DistributedDpSgd):
    def _sampler(self, examples, rng):
        return super()._sampler(examples, Randomness(1).child(*rng.path))


@pytest.mark.parametrize("kind", [FixedBatches, SamplesAtItsOwnRate, TheSameEveryRound, TheSameAtAllClients])
def test_other_sampling_is_detected(kind):
    with pytest.raises(AssertionError):
        check_samples_form_one_poisson_sample(as_a(kind)(by_example(small_gaussian(), rate=0.2)))


def test_client_with_an_empty_sample_sends_noise():
    algorithm = by_example(small_gaussian(), rate=1e-6)
    assert len(sample_of(algorithm, 0, 40)) == 0
    made = algorithm.compute_update(logistic(), ClientData(IDLE, some(40)), round_context(0))
    assert not made.values.any()
    assert made.noise.std() == pytest.approx(algorithm.noise.sigma, rel=0.05)
    assert [(event.sample_rate, event.steps) for event in made.events] == [(1e-6, 1)]


def test_sample_rate_1_selects_every_example():
    assert sample_of(by_example(small_gaussian(), rate=1.0), 0, 40).tolist() == list(range(40))


def test_update_and_noise_fit_the_value_range():
    algorithm = by_example(small_gaussian(max_norm=0.5), rate=1.0)
    with mock.patch.object(shares_module, "clipped_sum", lambda *_: np.full(PARAMETERS, -1e9, np.float32)):
        made = algorithm.compute_update(logistic(), ClientData(IDLE, some(5)), round_context(0))
    assert made.values.max() == algorithm.noise.value_limit == pytest.approx(16.0 - TAIL * algorithm.noise.sigma * STEP)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_examples_with_nan_do_not_change_the_other_gradients(value):
    algorithm, client = by_example(small_gaussian(max_norm=0.5), rate=1.0), some(5)
    images = client.inputs.clone()
    images[2, 0, 9] = value
    made = algorithm.compute_update(logistic(), ClientData(IDLE, Examples(images, client.labels)), round_context(0))
    others = clipped_gradients(logistic(), client.select(torch.tensor([0, 1, 3, 4])), 0.5)
    np.testing.assert_allclose(made.values, -others.sum(axis=0), atol=1e-5)
    plain = algorithm.compute_update(logistic(), ClientData(IDLE, client), round_context(0))
    assert np.array_equal(made.noise, plain.noise) and made.events == plain.events


# Updates of clients.


class MoveWeights:
    """A learner that moves every weight by ``distance``."""

    def __init__(self, distance: float) -> None:
        self._distance = distance

    def fit(self, model, examples, **others):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += self._distance
        return ()


@pytest.mark.parametrize("noise", [None, small_gaussian(max_norm=0.2)], ids=["central", "distributed"])
@pytest.mark.parametrize(("distance", "norm"), [(1.0, 0.2), (-0.01, 0.2), (1e-3, 1e-3 * math.sqrt(PARAMETERS)), (0, 0)])
def test_update_is_clipped_and_keeps_its_direction(noise, distance, norm):
    algorithm = DpFedAvg(FedAvgM(), 0.2, 3, noise)
    made = algorithm.compute_update(logistic(), ClientData(MoveWeights(distance), some(5), 0.4), round_context(0))
    assert len(made.values) == algorithm.update_length(PARAMETERS) == PARAMETERS, "the update has no weight"
    assert np.linalg.norm(made.values) == pytest.approx(norm, rel=1e-4) and np.linalg.norm(made.values) < 0.2 + 1e-9
    assert np.ptp(made.values) == pytest.approx(0.0, abs=1e-9) and np.sign(made.values[0]) == np.sign(distance)
    assert (made.noise is None) == (noise is None)
    assert [event.sample_rate for event in made.events] == ([] if noise is None else [1.0])


class DivergingLearner:
    """A learner whose weights become NaN, with or without an error."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises

    def fit(self, model, examples, **others):
        with torch.no_grad():
            next(model.parameters())[0, 0] = math.nan
        if self._raises:
            raise TrainingDiverged("the loss is not finite in step 1 of 1", model=model)
        return ()


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("noise", [None, small_gaussian(max_norm=0.2)], ids=["central", "distributed"])
def test_update_with_nan_becomes_0_with_the_same_noise(noise, raises, capsys, recwarn):
    algorithm = DpFedAvg(FedAvgM(), 0.2, 3, noise)
    made = algorithm.compute_update(logistic(), ClientData(DivergingLearner(raises=raises), some(5)), round_context(0))
    plain = algorithm.compute_update(logistic(), ClientData(MoveWeights(0.1), some(5)), round_context(0))
    assert len(made.values) == PARAMETERS and not made.values.any()
    assert np.array_equal(made.noise, plain.noise) if noise else made.noise is None
    assert made.events == plain.events
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_federation_continues_after_an_update_with_nan():
    def ends(learner) -> tuple[int, np.ndarray]:
        parts = parties(federated(BY_CLIENT, weighting="uniform"))
        course = play(
            with_clients(
                parts, lambda client, data: replace(data, learner=learner if client == 1 else MoveWeights(0.1))
            )
        )
        assert course.failure is None
        return len(course.ends), course.states[0].global_state.parameters

    diverged, still = ends(DivergingLearner(raises=True)), ends(MoveWeights(0.0))
    assert diverged[0] == still[0] == 3
    assert np.array_equal(diverged[1], still[1])


@pytest.mark.parametrize("algorithm", [by_example(small_gaussian()), DpFedAvg(FedAvgM(), 0.2, 3)])
def test_global_weights_with_nan_end_the_training(algorithm):
    lost = np.full(PARAMETERS, np.nan, np.float32)
    with pytest.raises(TrainingDiverged, match=r"^client 2, round 3: the global weights are not finite$"):
        algorithm.compute_update(
            logistic(), ClientData(MoveWeights(0.1), some(5)), round_context(2, 3, parameters=lost)
        )


def check_influence_on_the_mean(privacy, plant: Plant = honest) -> None:
    """Compare a round in which a client moves far with one in which it does not move."""
    arm = federated(privacy, weighting="uniform", rounds=1)
    found = []
    for distance in (0.0, 5.0):
        parts = parties(arm)
        parts = with_clients(
            parts, lambda client, data, far=distance: replace(data, learner=MoveWeights(far if client == 1 else 0.0))
        )
        pool = replace(parts.pool, algorithm=plant(parts.pool.algorithm))
        course = play(replace(parts, pool=pool))
        (after,) = (state.global_state.parameters for state in course.states if state.applied == 1)
        found.append(after.astype(float))
    moved = np.linalg.norm(found[1] - found[0])
    assert 0.0 < moved <= 1.001 * sensitivity(0.2, PARAMETERS, 0.0) / 3


def test_client_has_bounded_influence_on_the_mean():
    check_influence_on_the_mean(BY_CLIENT)


class Unclipped(DpFedAvg):
    def compute_update(self, model, data, round_context):
        return DpFedAvg.compute_update(replace(self, max_update_norm=math.inf), model, data, round_context)


class DividesByOne(DpFedAvg):
    def apply_sum(self, total, state, number):
        return self.server_optimizer.step(state, total)


@pytest.mark.parametrize("kind", [Unclipped, DividesByOne])
def test_larger_influence_is_detected(kind):
    with pytest.raises(AssertionError):
        check_influence_on_the_mean(BY_CLIENT, as_a(kind))


def test_mean_is_over_the_public_number_of_clients():
    algorithm = DpFedAvg(FedAvgM(), 0.2, 4)
    state = GlobalState(np.zeros(10, np.float32), algorithm.initial_memory(10))
    after = algorithm.apply_sum(np.full(10, 0.3), state, 1)
    np.testing.assert_allclose(after.parameters, 0.075)
