"""Noise in the sum alone: how much there is, that all of it is accounted for, and what it is added to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from ppml.accounting.epsilon import epsilon
from ppml.accounting.events import MechanismEvent
from ppml.accounting.plan import plans
from ppml.aggregation.fixed_point import FixedPointCodec, Grid
from ppml.aggregation.plaintext import PlaintextAggregation, seal_plain, unseal_plain
from ppml.aggregation.protocol import Sealed
from ppml.config.arm import Arm
from ppml.data.examples import Examples
from ppml.errors import UserError
from ppml.federation import shares as shares_module
from ppml.federation.global_state import GlobalState
from ppml.federation.messages import UPDATE, unpack_update
from ppml.federation.server_step import MomentumStep
from ppml.federation.shares import (
    LEAST_DEVIATION,
    TAIL,
    ClippedUpdates,
    GradientSums,
    NoiseShares,
    ServerNoise,
    whole_normal,
)
from ppml.federation.state import ClientState
from ppml.federation.work import Contribution, LocalWork, Member, Turn
from ppml.learning.clipping import bookkeeping
from ppml.learning.learner import Settings
from ppml.learning.sgd import SgdLearner
from ppml.learning.vectors import load_parameters
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank, some, vector
from ..learning.planted import unclipped
from .parties import (
    CKKS,
    CODEC,
    PARAMETERS,
    Course,
    Federation,
    federated,
    logistic,
    owners,
    parties,
    play,
    trained,
    with_members,
)
from .scanner import secret_holders, secret_key_in, updates_in

STEP = CODEC.step
SHARED = {"kind": "example", "noise_multiplier": 1.0, "max_grad_norm": 0.1, "noise_by": "shares"}
BY_CLIENT = {"kind": "client", "noise_multiplier": 1.0, "max_update_norm": 0.2}
IDLE = SgdLearner(Settings(1, 10, 0.1))
VALUES = 78_400
"""Weights of :class:`Silent`: the deviation of so many normal values is known to a quarter of a percent."""


def shares(
    noise: float = 1.0, clients: int = 4, colluders: int = 1, dropouts: int = 0, *, size: int = VALUES, **others
) -> NoiseShares:
    given = {"norm": 0.1, "size": size, "codec": CODEC, **others}
    return NoiseShares(noise, clients, colluders, dropouts, **given)


def turn(client: int = 0, number: int = 1, *, parameters: np.ndarray | None = None, rounds: int = 3) -> Turn:
    start = np.zeros(PARAMETERS, np.float32) if parameters is None else parameters
    state = GlobalState(start, MomentumStep().start(len(start)))
    return Turn(client, number, rounds, state, {}, None, Randomness(1).child("round", number, "client", client))


def sensitivity(norm: float, size: int) -> float:
    """Return by how much one of them changes the sum, as the docstring says: its norm, and a step in every value."""
    return norm + math.sqrt(size) * 2.0**-20


# Arithmetic.


@pytest.mark.parametrize(("clients", "colluders", "dropouts"), [(2, 1, 0), (8, 1, 0), (10, 3, 2), (50, 1, 10)])
@pytest.mark.parametrize("noise", [0.5, 1.0, 7.3])
def test_the_shares_that_count_add_up_to_the_stated_noise(clients, colluders, dropouts, noise):
    one = shares(noise, clients, colluders, dropouts, codec=FixedPointCodec(1e4, 20))
    counted = clients - colluders - dropouts
    assert one.counted == counted
    assert one.sensitivity == pytest.approx(sensitivity(0.1, VALUES), rel=1e-15)
    assert math.sqrt(counted) * one.deviation * STEP == pytest.approx(noise * sensitivity(0.1, VALUES), rel=1e-12)
    event = one.event(0.25)
    assert (event.sample_rate, event.steps, event.max_grad_norm, event.sampler) == (0.25, 1, 0.1, "poisson")
    assert event.noise_multiplier == pytest.approx(noise, rel=1e-12)


def test_the_sensitivity_covers_what_rounding_adds():
    # Whole numbers of steps and a half: each value may be rounded the other way when one record is added.
    codec, rng = FixedPointCodec(1e4, 4), np.random.default_rng(1)
    one = shares(10.0, size=50, norm=0.3, codec=codec)
    largest = 0.0
    for _ in range(300):
        others, own = rng.normal(0.0, 1.0, 50), rng.normal(0.0, 1.0, 50)
        own *= 0.3 / np.linalg.norm(own)
        changed = codec.decode(codec.encode(others + own) - codec.encode(others))
        largest = max(largest, float(np.linalg.norm(changed)))
    assert 0.3 < largest <= one.sensitivity, "rounding does add to the norm"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"clients": 3, "colluders": 2, "dropouts": 1},
            r"^privacy: 3 clients, of whom 2 may collude and 1 drop out: no share of the noise is left; lower ",
        ),
        ({"clients": 1}, r"^privacy: 1 clients, of whom 1 may collude and 0 drop out: no share of the noise is left"),
        (
            {"codec": FixedPointCodec(8.0, 4), "norm": 1e-9, "noise": 1e-3},
            r"^aggregation\.fractional_bits: got 4; a share of the noise has a deviation of 0\.162 steps of the grid, "
            r"at least 16 are needed; raise it$",
        ),
        (
            {"codec": FixedPointCodec(1.0, 20)},
            r"^aggregation\.clip: got 1; a share of the noise needs 0\.695 of it, and at most half is allowed; raise "
            r"clip to 1\.39 or more$",
        ),
    ],
)
def test_noise_that_cannot_be_shared_is_refused_with_what_to_change(given, message):
    with pytest.raises(UserError, match=message):
        shares(**given)


def test_a_share_of_the_least_deviation_and_a_clip_of_twice_the_margin_are_allowed():
    # Norm and rounding come to three steps, and three shares count.
    exact = shares(1.000001 * 16 / math.sqrt(3), size=4, norm=2.0**-4, codec=FixedPointCodec(64.0, 4))
    assert exact.deviation == pytest.approx(LEAST_DEVIATION, rel=1e-5)
    margin = shares().margin
    assert margin == pytest.approx(TAIL * shares().deviation * STEP)
    with pytest.raises(UserError, match="aggregation"):
        shares(codec=FixedPointCodec(1.999 * margin, 20))
    assert shares(codec=FixedPointCodec(2.001 * margin, 20)).limit == pytest.approx(1.001 * margin)


# One share.


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_a_share_is_a_rounded_normal_value_of_the_stated_deviation(source):
    drawn = whole_normal(400_000, 1000.0, source, Randomness(1))
    assert drawn.dtype == np.int64
    assert abs(drawn.mean()) < 8.0
    assert drawn.std() == pytest.approx(1000.0, rel=0.006)
    assert stats.kstest(drawn[:100_000] / 1000.0, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.008


def test_seeded_shares_repeat_and_secure_ones_do_not():
    for source, same in [("seeded", True), ("secure", False)]:
        first, again, other = (whole_normal(100, 50.0, source, Randomness(seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again) == same
        assert not np.array_equal(first, other)


def test_a_share_never_leaves_its_margin():
    with mock.patch.object(shares_module, "TAIL", 1.5):
        drawn = whole_normal(10_000, 100.0, "seeded", Randomness(1))
    assert drawn.max() == 150 and drawn.min() == -150 and np.median(np.abs(drawn)) == pytest.approx(67, abs=3)


# The noise of a sum.


def by_example(one: NoiseShares, *, rate: float = 0.5, records: int = 125) -> GradientSums:
    return GradientSums(
        MomentumStep(), one, sample_rate=rate, expected=rate * records, peak=0.1, decay="linear", rounds=3
    )


def by_client(one: NoiseShares) -> ClippedUpdates:
    return ClippedUpdates(MomentumStep(), one.norm, one.clients, one)


Plant = Callable[[LocalWork], LocalWork]


def honest(work: LocalWork) -> LocalWork:
    return work


def contributions(work: LocalWork, number: int = 1) -> list[Grid]:
    """Return what clients without gradients send, in steps of the grid."""
    sent = []
    for client in range(work.shares.clients):
        start = np.zeros(VALUES, np.float32)
        made = work.contribute(Silent(), Member(IDLE, blank(8)), turn(client, number, parameters=start))
        assert not made.values.any()
        sent.append(CODEC.encode(made.values) + (0 if made.noise is None else made.noise))
    return sent


def check_noise_against_colluders_and_dropouts(make: Callable[[NoiseShares], LocalWork], plant: Plant = honest) -> None:
    """Compare what is accounted with the noise that is left at worst: colluders know theirs, dropouts send none."""
    for clients, colluders, dropouts in [(2, 1, 0), (5, 1, 2), (8, 3, 0)]:
        work = plant(make(shares(1.5, clients, colluders, dropouts, codec=FixedPointCodec(16.0, 20))))
        left = np.sum(contributions(work)[colluders + dropouts :], axis=0) * STEP
        stated = work.contribute(
            Silent(), Member(IDLE, blank(8)), turn(0, parameters=np.zeros(VALUES, np.float32))
        ).events[0]
        assert stated.noise_multiplier == pytest.approx(1.5, rel=1e-9)
        # Five standard errors of 78,400 values.
        assert left.std() / sensitivity(0.1, VALUES) == pytest.approx(1.5, rel=0.013)
        assert abs(left.mean()) < 5 * left.std() / math.sqrt(VALUES)


@pytest.mark.parametrize("make", [by_example, by_client])
def test_the_noise_that_nobody_knows_is_that_which_is_accounted(make):
    check_noise_against_colluders_and_dropouts(make)


class Changed:
    """Work whose contributions are changed before they are sent."""

    def __init__(self, work: LocalWork, change: Callable[[Contribution, Turn], Contribution]) -> None:
        self._work, self._change = work, change

    def __getattr__(self, name):
        return getattr(self._work, name)

    def contribute(self, model, member, turn):
        return self._change(self._work.contribute(model, member, turn), turn)


def one_share_less(work):
    last = work.shares.clients - 1
    return Changed(work, lambda made, turn: replace(made, noise=None) if turn.client == last else made)


def half_the_noise(work):
    return Changed(work, lambda made, turn: replace(made, noise=made.noise // 2))


class CountsDropouts(NoiseShares):
    """Relies on the shares of clients that may fail."""

    @property
    def counted(self) -> int:
        return self.clients - self.colluders


class CountsColluders(NoiseShares):
    """Relies on the shares of clients that may tell theirs."""

    @property
    def counted(self) -> int:
        return self.clients - self.dropouts


def counting(kind):
    return lambda work: replace(work, shares=kind(**vars(work.shares)))


def the_same_share_for_all(work):
    return Changed(work, lambda made, turn: replace(made, noise=work.shares.draw(Randomness(1))))


NOISE_FAULTS = {
    "one share less": one_share_less,
    "half the noise": half_the_noise,
    "dropouts are counted": counting(CountsDropouts),
    "colluders are counted": counting(CountsColluders),
    "the same share for all": the_same_share_for_all,
}


@pytest.mark.parametrize("make", [by_example, by_client])
@pytest.mark.parametrize("plant", NOISE_FAULTS.values(), ids=NOISE_FAULTS)
def test_noise_that_is_less_than_accounted_is_caught(plant, make):
    with pytest.raises(AssertionError):
        check_noise_against_colluders_and_dropouts(make, plant)


def test_shares_are_independent_over_clients_and_rounds():
    work = by_example(shares())
    drawn = np.array([*contributions(work, 1), *contributions(work, 2)], dtype=float)
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.018, "five standard errors"


# The sum of gradients.


def gradients_one_by_one(model: torch.nn.Module, records: Examples, norm: float) -> np.ndarray:
    """Return the clipped gradient of each record, in float64, one backward pass a record."""
    found = []
    for image, label in zip(records.images, records.labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradient = torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))]).double()
        found.append((gradient * min(1.0, norm / gradient.norm().item())).numpy())
    return np.array(found)


@cache
def somewhere() -> np.ndarray:
    """Return weights at which some gradients are larger than 0.1 and some are smaller."""
    rng = np.random.default_rng(1)
    return rng.normal(0.0, 1.0, PARAMETERS).astype(np.float32)


def chosen_by(work: GradientSums, client: int, records: int, number: int = 1) -> np.ndarray:
    """Return the positions that a client samples."""
    seen = []

    def heard(model, records, chosen, norm):
        seen.append(chosen.numpy())
        return np.zeros(PARAMETERS, np.float32)

    with (
        mock.patch.object(shares_module, "clipped_sum", heard),
        mock.patch.object(shares_module, "whole_normal", lambda *_: np.zeros(PARAMETERS, np.int64)),
    ):
        work.contribute(*idle(records), turn(client, number))
    return seen[0]


@cache
def idle(records: int) -> tuple[torch.nn.Module, Member]:
    """Return a model and a client with so many records without gradients."""
    return logistic(), Member(IDLE, blank(records))


def small_shares(noise: float = 1.0, **others) -> NoiseShares:
    return shares(noise, 3, size=PARAMETERS, codec=FixedPointCodec(16.0, 20), **others)


def check_sums_of_gradients(rate: float, plant: Plant = honest) -> None:
    """Compare two rounds of three clients with gradients that are clipped one by one."""
    work = plant(by_example(small_shares(norm=0.5), rate=rate))
    state = GlobalState(somewhere(), work.start(PARAMETERS))
    for number in (1, 2):
        expected, total = np.zeros(PARAMETERS), np.zeros(PARAMETERS, np.int64)
        for client, records in enumerate(owners()):
            chosen = torch.from_numpy(chosen_by(work, client, len(records), number))
            model = logistic()
            load_parameters(model, state.parameters)
            gradients = gradients_one_by_one(model, records.select(chosen), 0.5)
            made = work.contribute(logistic(), Member(IDLE, records), replace(turn(client, number), state=state))
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
    load_parameters(model, somewhere())
    norms = np.linalg.norm(gradients_one_by_one(model, some(125), math.inf), axis=1)
    assert (norms > 0.5).sum() > 20 and (norms < 0.5).sum() > 5


def without_clipping(work):
    def contribute(model, member, turn):
        with mock.patch.object(bookkeeping, "clipping_factors", unclipped):
            return work.contribute(model, member, turn)

    changed = Changed(work, lambda made, turn: made)
    changed.contribute = contribute
    return changed


class DividesByTheSampled(GradientSums):
    """Divides by how many were sampled, which is private."""

    def contribute(self, model, member, turn):
        sampled.append(len(self._sample(len(member.records), turn.rng)))
        return super().contribute(model, member, turn)

    def apply(self, total, state, number):
        # The check asks each of the three clients twice.
        return GradientSums.apply(replace(self, expected=sum(sampled[-6:]) / 2), total, state, number)


sampled: list[int] = []


class StepsUphill(GradientSums):
    def contribute(self, model, member, turn):
        made = super().contribute(model, member, turn)
        return replace(made, values=-made.values)


class SamplesAtItsOwnRate(GradientSums):
    """Samples a batch from each client, however many records that has."""

    def _sample(self, records, rng):
        return GradientSums._sample(replace(self, sample_rate=min(1.0, 20 / records)), records, rng)


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


def check_the_clients_samples_are_one_poisson_sample(work: GradientSums, sizes: Sequence[int] = (5, 30, 90)) -> None:
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


class FixedBatches(GradientSums):
    """Takes exactly so many records of each client."""

    def _sample(self, records, rng):
        count = round(self.sample_rate * records)
        return torch.from_numpy(np.sort(rng.child("sampling").numpy().permutation(records)[:count]))


class TheSameEveryRound(GradientSums):
    def _sample(self, records, rng):
        return super()._sample(records, Randomness(1).child(*rng.path[-2:]))


class TheSameAtAllClients(GradientSums):
    def _sample(self, records, rng):
        return super()._sample(records, Randomness(1).child(*rng.path[:2]))


@pytest.mark.parametrize("kind", [FixedBatches, SamplesAtItsOwnRate, TheSameEveryRound, TheSameAtAllClients])
def test_samples_that_are_no_poisson_sample_are_caught(kind):
    with pytest.raises(AssertionError):
        check_the_clients_samples_are_one_poisson_sample(as_a(kind)(by_example(small_shares(), rate=0.2)))


def test_a_client_with_an_empty_sample_sends_its_noise_and_accounts_for_the_step():
    work = by_example(small_shares(), rate=1e-6)
    assert len(chosen_by(work, 0, 40)) == 0
    made = work.contribute(logistic(), Member(IDLE, some(40)), turn(0))
    assert not made.values.any()
    assert made.noise.std() == pytest.approx(work.shares.deviation, rel=0.05)
    assert [(event.sample_rate, event.steps) for event in made.events] == [(1e-6, 1)]


def test_a_rate_of_1_takes_every_record():
    assert chosen_by(by_example(small_shares(), rate=1.0), 0, 40).tolist() == list(range(40))


def test_contribution_and_noise_together_fit_what_a_value_may_be():
    work = by_example(small_shares(norm=0.5), rate=1.0)
    with mock.patch.object(shares_module, "clipped_sum", lambda *_: np.full(PARAMETERS, -1e9, np.float32)):
        made = work.contribute(logistic(), Member(IDLE, some(5)), turn(0))
    assert made.values.max() == work.shares.limit == pytest.approx(16.0 - TAIL * work.shares.deviation * STEP)


def test_a_gradient_that_is_not_finite_is_not_sent():
    work = by_example(small_shares(norm=0.5), rate=1.0)
    with mock.patch.object(shares_module, "clipped_sum", lambda *_: np.full(PARAMETERS, np.nan, np.float32)):
        made = work.contribute(logistic(), Member(IDLE, some(5)), turn(0))
    with pytest.raises(ValueError, match="not finite"):
        CODEC.encode(made.values)


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
    work = ClippedUpdates(MomentumStep(), 0.2, 3, own)
    made = work.contribute(logistic(), Member(Goes(distance), some(5), 0.4), turn(0))
    assert len(made.values) == work.length(PARAMETERS) == PARAMETERS, "no weight is sent"
    assert np.linalg.norm(made.values) == pytest.approx(norm, rel=1e-4) and np.linalg.norm(made.values) < 0.2 + 1e-9
    assert np.ptp(made.values) == pytest.approx(0.0, abs=1e-9) and np.sign(made.values[0]) == np.sign(distance)
    assert (made.noise is None) == (own is None)
    assert [event.sample_rate for event in made.events] == ([] if own is None else [1.0])


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
    assert 0.0 < moved <= 1.001 * sensitivity(0.2, PARAMETERS) / 3


def test_no_client_moves_the_mean_further_than_its_norm_over_the_number_of_clients():
    check_no_client_moves_the_mean_further_than_its_share(BY_CLIENT)


class Unclipped(ClippedUpdates):
    def contribute(self, model, member, turn):
        return ClippedUpdates.contribute(replace(self, norm=math.inf), model, member, turn)


class DividesByOne(ClippedUpdates):
    def apply(self, total, state, number):
        return self.server_step.step(state, total)


@pytest.mark.parametrize("kind", [Unclipped, DividesByOne])
def test_a_client_that_moves_the_mean_further_is_caught(kind):
    with pytest.raises(AssertionError):
        check_no_client_moves_the_mean_further_than_its_share(BY_CLIENT, as_a(kind))


def test_the_mean_is_over_the_public_number_of_clients_where_one_is_missing():
    work = ClippedUpdates(MomentumStep(), 0.2, 4)
    state = GlobalState(np.zeros(10, np.float32), work.start(10))
    after = work.apply(np.full(10, 0.3), state, 1)
    np.testing.assert_allclose(after.parameters, 0.075)


# Noise of a server.


def server_noise(noise: float = 1.5, source: str = "seeded") -> ServerNoise:
    return ServerNoise(noise, 0.2, VALUES, CODEC, source, Randomness(1))


def check_noise_of_the_server(release: ServerNoise) -> None:
    values = np.arange(VALUES)
    drawn = []
    for number in (1, 2):
        total, events = release(seal_plain(values, "<i4"), number)
        assert (total.scheme, total.length, len(total.payload)) == ("plaintext", VALUES, 8 * VALUES)
        (event,) = events
        assert (event.sample_rate, event.steps, event.max_grad_norm) == (1.0, 1, 0.2)
        assert event.noise_multiplier == pytest.approx(1.5, rel=1e-12)
        noise = (unseal_plain(total) - values) * STEP / sensitivity(0.2, VALUES)
        assert noise.std() == pytest.approx(1.5, rel=0.013)
        assert abs(noise.mean()) < 5 * 1.5 / math.sqrt(VALUES)
        drawn.append(noise)
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.018


@pytest.mark.parametrize("source", ["seeded", "secure"])
def test_a_server_adds_the_stated_noise_anew_in_each_round(source):
    check_noise_of_the_server(server_noise(source=source))


def half_in_the_server(size, deviation, source, rng):
    return whole_normal(size, deviation / 2, source, rng)


def same_in_each_round(size, deviation, source, rng):
    return whole_normal(size, deviation, source, Randomness(1))


@pytest.mark.parametrize("fault", [half_in_the_server, same_in_each_round])
def test_noise_of_a_server_that_is_less_than_stated_is_caught(fault, monkeypatch):
    monkeypatch.setattr(shares_module, "whole_normal", fault)
    with pytest.raises(AssertionError):
        check_noise_of_the_server(server_noise())


def test_noise_of_a_server_may_be_larger_than_any_sum():
    release = replace(server_noise(1e6), size=100)
    total, _ = release(seal_plain(np.zeros(100, np.int64), "<i4"), 1)
    assert np.abs(unseal_plain(total)).max() > 2**31


# Whole trainings.


def silent(arm: Arm, clients: int) -> Federation:
    """Return parties whose records have no gradient."""
    return parties(arm, model=Silent(), owned=[blank(8)] * clients)


def heard(parts: Federation) -> tuple[Federation, list[Grid]]:
    """Return the same parties, and what each client sealed, in order."""
    sealed: list[Grid] = []

    class Hears:
        def __init__(self, side) -> None:
            self.side = side

        def __getattr__(self, name):
            return getattr(self.side, name)

        def seal(self, update: Grid, *turn: int) -> Sealed:
            sealed.append(update)
            return self.side.seal(update, *turn)

    return replace(parts, population=replace(parts.population, side=Hears(parts.population.side))), sealed


@pytest.mark.parametrize("clients", [2, 4, 8])
@pytest.mark.parametrize("kind", ["example", "client"])
def test_an_opened_sum_has_the_accounted_noise_beyond_the_share_of_a_client_who_knows_its_own(kind, clients):
    privacy = {**(SHARED if kind == "example" else BY_CLIENT), "noise_by": "shares"}
    arm = federated(privacy, CKKS, {"batch_size": 8}, rounds=1, weighting="uniform")
    parts, sealed = heard(silent(arm, clients))
    course = play(parts)
    (opened,) = course.sums
    assert np.array_equal(opened, np.sum(sealed, axis=0)), "to the grid point"
    unit = sensitivity(0.1 if kind == "example" else 0.2, VALUES) / STEP
    assert opened.std() / unit == pytest.approx(math.sqrt(clients / (clients - 1)), rel=0.013)
    for known in sealed[:2]:
        assert (opened - known).std() / unit == pytest.approx(1.0, rel=0.013)
    for state in course.states:
        (event,) = state.events
        assert event.noise_multiplier == pytest.approx(1.0, rel=1e-9)


def test_the_noise_of_a_server_is_in_what_it_sends_and_in_every_account():
    arm = federated(BY_CLIENT, rounds=2, weighting="uniform")
    parts = silent(arm, 3)
    outcome = trained(parts)
    # Two rounds of noise, divided by three clients.
    moved = vector(outcome.models[0]).numpy().std()
    assert moved == pytest.approx(math.sqrt(2) * sensitivity(0.2, VALUES) / 3, rel=0.013)
    for own in outcome.events:
        assert [(event.sample_rate, event.steps) for event in own] == [(1.0, 2)]
        assert own[0].noise_multiplier == pytest.approx(1.0, rel=1e-9)


def test_what_the_model_moves_is_the_noise_of_all_rounds_over_the_expected_number():
    arm = federated(SHARED, CKKS, {"batch_size": 8, "decay": "constant"}, rounds=2)
    outcome = trained(silent(arm, 3))
    # A step of 0.1 along a sum over the expected batch of 8; three shares of which two count.
    expected = math.sqrt(2) * 0.1 / 8 * math.sqrt(3 / 2) * sensitivity(0.1, VALUES)
    assert vector(outcome.models[0]).numpy().std() == pytest.approx(expected, rel=0.013)


LARGE = {**CKKS, "clip": 64.0, "scale_bits": 42}


def check_each_account_has_every_round(outcome, arm: Arm, sizes: Sequence[int]) -> None:
    for own, plan in zip(outcome.events, plans(arm, sizes), strict=True):
        assert [(event.sample_rate, event.steps) for event in own] == [(plan.sample_rate, plan.steps)]
        assert own[0].noise_multiplier == pytest.approx(1.0, rel=1e-9)


def forgetful(state: ClientState, events: Sequence[MechanismEvent], remember=ClientState.remember) -> None:
    """Keep the events of the last round alone, as a new accountant in each round does."""
    with mock.patch.object(ClientState, "events", ()):
        remember(state, events)


@pytest.mark.parametrize("kind", ["example", "client", "server"])
def test_each_account_has_every_round_and_one_that_starts_anew_is_caught(kind, monkeypatch):
    privacy = SHARED if kind == "example" else {**BY_CLIENT, "noise_by": "shares" if kind == "client" else "server"}
    arm = federated(privacy, LARGE if kind != "server" else None, {"batch_size": 50}, weighting="uniform")
    sizes = [40, 25, 60]
    plan = plans(arm, sizes)[0]
    assert (plan.sample_rate, plan.steps) == ((50 / 125 if kind == "example" else 1.0), 3)
    true = trained(parties(arm))
    check_each_account_has_every_round(true, arm, sizes)
    if kind == "server":
        return
    monkeypatch.setattr(ClientState, "remember", forgetful)
    reset = trained(parties(arm))
    with pytest.raises(AssertionError):
        check_each_account_has_every_round(reset, arm, sizes)
    assert epsilon(reset.events[0], 1e-5, "rdp") < 0.8 * epsilon(true.events[0], 1e-5, "rdp")


def test_a_training_with_shares_is_the_same_bits_in_every_run_and_learns():
    arm = federated({**SHARED, "noise_multiplier": 0.2, "max_grad_norm": 1.0}, LARGE, {"batch_size": 125}, rounds=4)
    first, again = (trained(parties(arm)) for _ in range(2))
    assert torch.equal(vector(first.models[0]), vector(again.models[0]))
    assert first.history[-1].loss < math.log(10)


# Who can read what.


def test_no_contribution_can_be_opened_without_the_key():
    parts, sealed = heard(parties(federated(SHARED, CKKS, {"batch_size": 50}, rounds=1)))
    course = play(parts)
    ups = [
        unpack_update(message.content.array_records[UPDATE])
        for direction, message in course.messages
        if direction == "up" and UPDATE in message.content
    ]
    assert len(ups) == len(sealed) == 3
    side = parts.population.side.side
    for update, own in zip(ups, sealed, strict=True):
        assert np.array_equal(side.unseal(update), own), "who has the key reads the contribution"
        assert not updates_in([update.payload], [own], STEP)
    assert not secret_key_in([update.payload for update in ups], side)
    assert not secret_holders(parts.aggregator)


def test_a_contribution_in_the_clear_is_told_from_one_that_is_sealed():
    own = whole_normal(VALUES, 1e5, "seeded", Randomness(1))
    assert updates_in([PlaintextAggregation(CODEC, 3).seal(own).payload], [own], STEP)


# Too few shares.


def lost(*turns: tuple[int, int]):
    return lambda number, client: (number, client) in turns


def with_dropouts(dropouts: int, *turns: tuple[int, int]) -> Course:
    arm = federated({**SHARED, "dropouts": dropouts}, LARGE, {"batch_size": 50}, rounds=2)
    parts = parties(arm, owned=[some(20, start=20 * client) for client in range(4)])
    return play(replace(parts, fails=lost(*turns)))


def test_no_sum_is_formed_where_more_clients_fail_than_their_shares_are_spared():
    course = with_dropouts(1, (2, 0), (2, 3))
    assert course.added == [4], "the sum of the second round is never formed"
    assert str(course.failure).startswith("round 2: 2 of 4 clients answered as they should, 3 are needed; ")
    assert [end.standing.number for end in course.ends] == [1]


def test_a_sum_is_formed_where_as_many_clients_fail_as_may():
    course = with_dropouts(1, (1, 0), (2, 3))
    assert course.added == [3, 3] and course.failure is None


def test_every_share_is_needed_where_no_client_may_fail():
    course = with_dropouts(0, (1, 2))
    assert course.added == [] and "3 of 4 clients answered as they should, 4 are needed" in str(course.failure)


def test_more_answers_than_the_shares_need_may_be_asked_for():
    arm = federated({**SHARED, "dropouts": 2}, LARGE, {"batch_size": 50}, rounds=2, least_answers=4)
    assert parties(arm, owned=[some(20, start=20 * client) for client in range(4)]).plan.least == 4


# Why rounded shares are the Gaussian mechanism: the claim of the module, where what it neglects can be seen.


def density_of_errors(total: float, deviation: float, clients: int, places: int = 16) -> np.ndarray:
    """Return the density of the rounding errors of all shares but the last, given that the shares add up to ``total``.

    On a lattice in the unit cube; the last error is then known up to whole numbers. Errors are those of normal shares,
    summed over the whole numbers that they were rounded to.
    """
    errors = np.arange(places) / places
    reach = range(-math.ceil(9 * deviation) - 1, math.ceil(9 * deviation) + 2)
    wrapped = errors[:, None] + np.array(list(reach))[None, :]
    axis = wrapped.reshape(-1)
    shares_of = np.meshgrid(*[axis] * (clients - 1), indexing="ij")
    last = total - sum(shares_of)
    exponent = -(sum(share**2 for share in shares_of) + last**2) / (2 * deviation**2)
    summed = np.exp(exponent - exponent.max())
    for place in range(clients - 1):
        shape = summed.shape
        summed = summed.reshape(*shape[:place], places, len(reach), *shape[place + 1 :]).sum(axis=place + 1)
    return summed / summed.mean()


def farthest(clients: int, deviation: float) -> float:
    """Return the size of the largest term by which the errors are not uniform, given the sum of the shares."""
    return math.exp(-2 * math.pi**2 * deviation**2 * (1 - 1 / clients))


@pytest.mark.parametrize("total", [0.0, 0.37, 5.5])
@pytest.mark.parametrize(("clients", "deviation"), [(2, 0.5), (2, 1.0), (2, 1.4), (3, 0.5), (3, 1.0), (3, 1.25)])
def test_given_the_sum_of_the_shares_their_rounding_errors_are_uniform_but_for_a_term(total, clients, deviation):
    density = density_of_errors(total, deviation, clients)
    # The characteristic function at whole frequencies, of which a uniform density has none but the mean.
    terms = np.abs(np.fft.fftn(density)) / density.size
    terms[(0,) * (clients - 1)] = 0.0
    assert terms.max() == pytest.approx(farthest(clients, deviation), rel=1e-3)
    # With its two directions and as many of them as there are clients.
    assert np.abs(density - 1).max() <= 1.1 * 2 * clients * farthest(clients, deviation) + 1e-13
    assert farthest(clients, deviation) <= math.exp(-(math.pi**2) * deviation**2) * (1 + 1e-12)


def test_without_the_argument_the_errors_would_be_far_from_uniform():
    assert np.abs(density_of_errors(0.0, 0.2, 2) - 1).max() > 1.0


@pytest.mark.parametrize("clients", [2, 3, 10, 10**6])
def test_at_the_least_deviation_that_is_allowed_the_term_is_nothing(clients):
    logarithm = -2 * math.pi**2 * LEAST_DEVIATION**2 * (1 - 1 / clients) / math.log(10)
    assert logarithm + math.log10(2 * clients) < -600
