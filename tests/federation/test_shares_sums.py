"""What noise in the sum is added to: clipped gradients of one sample of all records, or clipped updates."""

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
    DpFedAvg,
    NoiseSample,
    DistributedDpSgd,
    DistributedGaussian,
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
    with_members,
)
from .sharing import (
    BY_CLIENT,
    IDLE,
    STEP,
    Changed,
    Plant,
    by_example,
    honest,
    sensitivity,
    shares,
    turn,
)

# The sum of gradients.


def gradients_one_by_one(model: torch.nn.Module, records: Examples, norm: float) -> np.ndarray:
    """Return the clipped gradient of each record, in float64, one backward pass a record."""
    found = []
    for image, label in zip(records.inputs, records.labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradient = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))]).double()
        found.append((gradient * min(1.0, norm / gradient.norm().item())).numpy())
    return np.array(found)


@cache
def somewhere() -> np.ndarray:
    """Return weights at which some gradients are larger than 0.1 and some are smaller."""
    rng = np.random.default_rng(1)
    return rng.normal(0.0, 1.0, PARAMETERS).astype(np.float32)


def chosen_by(work: DistributedDpSgd, client: int, records: int | Examples, number: int = 1) -> np.ndarray:
    """Return the positions that a client samples of its records, or of so many without gradients."""
    seen = []
    zeros = NoiseSample(np.zeros(PARAMETERS, np.int64), "seeded")

    def heard(model, records, chosen, norm):
        seen.append(chosen.numpy())
        return np.zeros(PARAMETERS, np.float32)

    with (
        mock.patch.object(shares_module, "clipped_sum", heard),
        mock.patch.object(shares_module, "rounded_gaussian", lambda *_: zeros),
    ):
        model, member = idle(records) if isinstance(records, int) else (logistic(), ClientData(IDLE, records))
        work.contribute(model, member, turn(client, number))
    return seen[0]


@cache
def idle(records: int) -> tuple[torch.nn.Module, ClientData]:
    """Return a model and a client with so many records without gradients."""
    return logistic(), ClientData(IDLE, blank(records))


def small_shares(noise: float = 1.0, **others) -> DistributedGaussian:
    return shares(noise, 3, size=PARAMETERS, codec=FixedPointCodec(16.0, 20), **others)


def check_sums_of_gradients(rate: float, plant: Plant = honest) -> None:
    """Compare two rounds of three clients with gradients that are clipped one by one."""
    work = plant(by_example(small_shares(norm=0.5), rate=rate))
    state = GlobalState(somewhere(), work.start(PARAMETERS))
    for number in (1, 2):
        expected, total = np.zeros(PARAMETERS), np.zeros(PARAMETERS, np.int64)
        for client, records in enumerate(owners()):
            chosen = torch.from_numpy(chosen_by(work, client, records, number))
            model = logistic()
            unflatten_into(model, state.parameters)
            gradients = gradients_one_by_one(model, records.select(chosen), 0.5)
            made = work.contribute(logistic(), ClientData(IDLE, records), replace(turn(client, number), state=state))
            np.testing.assert_allclose(made.values, -gradients.sum(axis=0), atol=1e-5)
            assert not np.array_equal(made.noise, np.zeros(PARAMETERS))
            expected += -gradients.sum(axis=0) + made.noise * STEP
            total += CODEC.encode(made.values) + made.noise
        after = work.apply(total * STEP, state, number)
        # The public expected number of records, and the learning rate of the round: 0.1, then two thirds of it.
        step = 0.1 * (4 - number) / 3 * expected / (rate * 125)
        assert np.abs(step).max() > 1e-4
        np.testing.assert_allclose(after.parameters - state.parameters, step, atol=1e-6)
        state = replace(after, memory=state.memory)


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_the_clients_send_the_clipped_gradients_of_their_samples_and_all_step_along_the_mean(rate):
    check_sums_of_gradients(rate)


def test_some_gradients_are_clipped_and_some_are_not():
    model = logistic()
    unflatten_into(model, somewhere())
    norms = np.linalg.norm(gradients_one_by_one(model, some(125), math.inf), axis=1)
    assert (norms > 0.5).sum() > 20 and (norms < 0.5).sum() > 5


def without_clipping(work):
    def contribute(model, member, turn):
        with mock.patch.object(bookkeeping, "clipping_factors", unclipped):
            return work.contribute(model, member, turn)

    changed = Changed(work, lambda made, turn: made)
    changed.contribute = contribute
    return changed


class DividesByTheSampled(DistributedDpSgd):
    """Divides by how many were sampled, which is private."""

    def contribute(self, model, member, turn):
        sampled.extend(len(chosen) for chosen in self._sampler(member.records, turn.rng))
        return super().contribute(model, member, turn)

    def apply(self, total, state, number):
        # The check asks each of the three clients twice.
        return DistributedDpSgd.apply(replace(self, expected=sum(sampled[-6:]) / 2), total, state, number)


sampled: list[int] = []


class StepsUphill(DistributedDpSgd):
    def contribute(self, model, member, turn):
        made = super().contribute(model, member, turn)
        return replace(made, values=-made.values)


class SamplesAtItsOwnRate(DistributedDpSgd):
    """Samples a batch from each client, however many records that has."""

    def _sampler(self, records, rng):
        return DistributedDpSgd._sampler(replace(self, sample_rate=min(1.0, 20 / len(records))), records, rng)


def as_a(kind):
    return lambda work: kind(**vars(work))


GRADIENT_FAULTS = {
    "clipping left out": without_clipping,
    "divided by the number sampled": as_a(DividesByTheSampled),
    "a step uphill": as_a(StepsUphill),
    "noise left out": lambda work: Changed(work, lambda made, turn: replace(made, noise=np.zeros_like(made.noise))),
}


@pytest.mark.parametrize("plant", GRADIENT_FAULTS.values(), ids=GRADIENT_FAULTS)
def test_a_wrong_sum_of_gradients_is_caught(plant):
    with pytest.raises(AssertionError):
        check_sums_of_gradients(0.4, plant)


def check_the_clients_samples_are_one_poisson_sample(work: DistributedDpSgd, sizes: Sequence[int] = (5, 30, 90)) -> None:
    rounds, rate = 500, work.sample_rate
    drawn = np.zeros((rounds, sum(sizes)), dtype=bool)
    for number in range(rounds):
        for client, size in enumerate(sizes):
            drawn[number, sum(sizes[:client]) + chosen_by(work, client, size, number)] = True
    error = math.sqrt(rate * (1 - rate) / rounds)
    assert np.abs(drawn.mean(axis=0) - rate).max() < 5.5 * error, "every record enters as often"
    sizes_of_samples = drawn.sum(axis=1)
    assert sizes_of_samples.std() == pytest.approx(math.sqrt(125 * rate * (1 - rate)), rel=0.16)
    # Records that never enter together, or always do, would show in the variance of each client, and between them.
    starts = np.cumsum([0, *sizes[:-1]])
    by_owner = np.add.reduceat(drawn.astype(int), starts, axis=1)
    for size, column in zip(sizes, by_owner.T, strict=True):
        assert column.std() == pytest.approx(math.sqrt(size * rate * (1 - rate)), rel=0.16)
    assert np.abs(np.corrcoef(by_owner.T) - np.eye(len(sizes))).max() < 0.22
    assert abs(np.corrcoef(sizes_of_samples[1:], sizes_of_samples[:-1])[0, 1]) < 0.22


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_the_clients_samples_are_together_one_poisson_sample_of_all_records(source):
    check_the_clients_samples_are_one_poisson_sample(by_example(small_shares(source=source), rate=0.2))


class FixedBatches(DistributedDpSgd):
    """Takes exactly so many records of each client."""

    def _sampler(self, records, rng):
        count = round(self.sample_rate * len(records))
        return [torch.from_numpy(np.sort(rng.child("sampling").numpy().permutation(len(records))[:count]))]


class TheSameEveryRound(DistributedDpSgd):
    def _sampler(self, records, rng):
        return super()._sampler(records, Randomness(rng.root))


class TheSameAtAllClients(DistributedDpSgd):
    def _sampler(self, records, rng):
        return super()._sampler(records, Randomness(1).child(*rng.path))


@pytest.mark.parametrize("kind", [FixedBatches, SamplesAtItsOwnRate, TheSameEveryRound, TheSameAtAllClients])
def test_samples_that_are_no_poisson_sample_are_caught(kind):
    with pytest.raises(AssertionError):
        check_the_clients_samples_are_one_poisson_sample(as_a(kind)(by_example(small_shares(), rate=0.2)))


def test_a_client_with_an_empty_sample_sends_its_noise_and_accounts_for_the_step():
    work = by_example(small_shares(), rate=1e-6)
    assert len(chosen_by(work, 0, 40)) == 0
    made = work.contribute(logistic(), ClientData(IDLE, some(40)), turn(0))
    assert not made.values.any()
    assert made.noise.std() == pytest.approx(work.shares.deviation, rel=0.05)
    assert [(event.sample_rate, event.steps) for event in made.events] == [(1e-6, 1)]


def test_a_rate_of_1_takes_every_record():
    assert chosen_by(by_example(small_shares(), rate=1.0), 0, 40).tolist() == list(range(40))


def test_contribution_and_noise_together_fit_what_a_value_may_be():
    work = by_example(small_shares(norm=0.5), rate=1.0)
    with mock.patch.object(shares_module, "clipped_sum", lambda *_: np.full(PARAMETERS, -1e9, np.float32)):
        made = work.contribute(logistic(), ClientData(IDLE, some(5)), turn(0))
    assert made.values.max() == work.shares.limit == pytest.approx(16.0 - TAIL * work.shares.deviation * STEP)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_records_that_are_not_finite_leave_the_sum_of_the_others_and_the_noise(value):
    work, client = by_example(small_shares(norm=0.5), rate=1.0), some(5)
    images = client.inputs.clone()
    images[2, 0, 9] = value
    made = work.contribute(logistic(), ClientData(IDLE, Examples(images, client.labels)), turn(0))
    others = gradients_one_by_one(logistic(), client.select(torch.tensor([0, 1, 3, 4])), 0.5)
    np.testing.assert_allclose(made.values, -others.sum(axis=0), atol=1e-5)
    plain = work.contribute(logistic(), ClientData(IDLE, client), turn(0))
    assert np.array_equal(made.noise, plain.noise) and made.events == plain.events


# The update of a client.


class Goes:
    """Moves every weight by ``distance``."""

    def __init__(self, distance: float) -> None:
        self._distance = distance

    def fit(self, model, records, **others):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += self._distance
        return ()


@pytest.mark.parametrize("own", [None, small_shares(norm=0.2)], ids=["server", "shares"])
@pytest.mark.parametrize(("distance", "norm"), [(1.0, 0.2), (-0.01, 0.2), (1e-3, 1e-3 * math.sqrt(PARAMETERS)), (0, 0)])
def test_an_update_is_clipped_to_its_norm_and_keeps_its_direction(own, distance, norm):
    work = DpFedAvg(FedAvgM(), 0.2, 3, own)
    made = work.contribute(logistic(), ClientData(Goes(distance), some(5), 0.4), turn(0))
    assert len(made.values) == work.length(PARAMETERS) == PARAMETERS, "no weight is sent"
    assert np.linalg.norm(made.values) == pytest.approx(norm, rel=1e-4) and np.linalg.norm(made.values) < 0.2 + 1e-9
    assert np.ptp(made.values) == pytest.approx(0.0, abs=1e-9) and np.sign(made.values[0]) == np.sign(distance)
    assert (made.noise is None) == (own is None)
    assert [event.sample_rate for event in made.events] == ([] if own is None else [1.0])


class Diverges:
    """Trains to weights that are not finite, or says so."""

    def __init__(self, *, says_so: bool) -> None:
        self._says_so = says_so

    def fit(self, model, records, **others):
        with torch.no_grad():
            next(model.parameters())[0, 0] = math.nan
        if self._says_so:
            raise TrainingDiverged("the loss is not finite in step 1 of 1", model=model)
        return ()


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("own", [None, small_shares(norm=0.2)], ids=["server", "shares"])
def test_an_update_that_is_not_finite_is_0_and_the_noise_is_as_planned(own, says_so, capsys, recwarn):
    work = DpFedAvg(FedAvgM(), 0.2, 3, own)
    made = work.contribute(logistic(), ClientData(Diverges(says_so=says_so), some(5)), turn(0))
    plain = work.contribute(logistic(), ClientData(Goes(0.1), some(5)), turn(0))
    assert len(made.values) == PARAMETERS and not made.values.any()
    assert np.array_equal(made.noise, plain.noise) if own else made.noise is None
    assert made.events == plain.events
    assert not recwarn.list and capsys.readouterr() == ("", "")


def test_a_federation_goes_on_where_the_update_of_a_client_is_not_finite():
    def ends(learner) -> tuple[int, np.ndarray]:
        parts = parties(federated(BY_CLIENT, weighting="uniform"))
        course = play(
            with_members(parts, lambda client, member: replace(member, learner=learner if client == 1 else Goes(0.1)))
        )
        assert course.failure is None
        return len(course.ends), course.states[0].common.parameters

    diverged, still = ends(Diverges(says_so=True)), ends(Goes(0.0))
    assert diverged[0] == still[0] == 3
    assert np.array_equal(diverged[1], still[1])


@pytest.mark.parametrize("work", [by_example(small_shares()), DpFedAvg(FedAvgM(), 0.2, 3)])
def test_global_weights_that_are_not_finite_stop_a_training_since_they_carry_noise(work):
    lost = np.full(PARAMETERS, np.nan, np.float32)
    with pytest.raises(TrainingDiverged, match=r"^client 2, round 3: the global weights are not finite$"):
        work.contribute(logistic(), ClientData(Goes(0.1), some(5)), turn(2, 3, parameters=lost))


def check_no_client_moves_the_mean_further_than_its_share(privacy, plant: Plant = honest) -> None:
    """Compare a round in which a client goes far with one in which it stays where it is."""
    arm = federated(privacy, weighting="uniform", rounds=1)
    found = []
    for distance in (0.0, 5.0):
        parts = parties(arm)
        parts = with_members(
            parts, lambda client, member, far=distance: replace(member, learner=Goes(far if client == 1 else 0.0))
        )
        people = replace(parts.population, work=plant(parts.population.work))
        course = play(replace(parts, population=people))
        (after,) = (state.common.parameters for state in course.states if state.applied == 1)
        found.append(after.astype(float))
    moved = np.linalg.norm(found[1] - found[0])
    assert 0.0 < moved <= 1.001 * sensitivity(0.2, PARAMETERS, 0.0) / 3


def test_no_client_moves_the_mean_further_than_its_norm_over_the_number_of_clients():
    check_no_client_moves_the_mean_further_than_its_share(BY_CLIENT)


class Unclipped(DpFedAvg):
    def contribute(self, model, member, turn):
        return DpFedAvg.contribute(replace(self, norm=math.inf), model, member, turn)


class DividesByOne(DpFedAvg):
    def apply(self, total, state, number):
        return self.server_optimizer.step(state, total)


@pytest.mark.parametrize("kind", [Unclipped, DividesByOne])
def test_a_client_that_moves_the_mean_further_is_caught(kind):
    with pytest.raises(AssertionError):
        check_no_client_moves_the_mean_further_than_its_share(BY_CLIENT, as_a(kind))


def test_the_mean_is_over_the_public_number_of_clients_where_one_is_missing():
    work = DpFedAvg(FedAvgM(), 0.2, 4)
    state = GlobalState(np.zeros(10, np.float32), work.start(10))
    after = work.apply(np.full(10, 0.3), state, 1)
    np.testing.assert_allclose(after.parameters, 0.075)
