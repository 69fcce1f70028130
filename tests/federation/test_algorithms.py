"""Server optimizers, the proximal term and control variates, against their formulas and Flower's strategies."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import nn
from torch.nn import functional

from ppml.data.examples import Examples
from ppml.federation import algorithms
from ppml.federation.algorithms import ScaffoldAlgorithm
from ppml.federation.factory import build_correction, build_server_optimizer, cumulative_learning_rate
from ppml.federation.global_state import GlobalState
from ppml.federation.server_optimizer import FedAdam, FedAvgM
from ppml.federation.simulation_grid import InProcessGrid
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.gradient_correction import NO_CORRECTION, ConstantOffset, Proximal
from ppml.learning.learner import Settings
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow, cumulative_step
from ppml.randomness import Randomness

from ..learning.digits import Silent, blank, some, vector
from .parties import (
    CODEC,
    ROUNDS,
    Course,
    by_hand,
    changes_by_hand,
    federated,
    logistic,
    owners,
    parties,
    play,
    same_bits,
    trained,
    with_learner,
)
from .sum_noise import round_context

# The global step.

STEPS = 8
SIZE = 500
FIRST = np.random.default_rng(3).normal(0.0, 1.0, SIZE).astype(np.float32)
MEANS = np.random.default_rng(4).normal(0.0, 0.1, (STEPS, SIZE))


def run_steps(step, rate: float = 1.0) -> list[np.ndarray]:
    """Return the weights after each step along ``MEANS``."""
    state, found = GlobalState(FIRST, step.initial_memory(SIZE)), []
    for mean in MEANS:
        state = step.step(state, mean, rate)
        found.append(state.parameters)
    return found


def adam_by_hand(rate: float, beta1: float, beta2: float, tau: float) -> list[np.ndarray]:
    """Return algorithm 2 of arXiv 2003.00295, whose second moment starts at tau squared."""
    weights, first, second, found = FIRST.astype(float), 0.0, tau**2, []
    for mean in MEANS:
        first = beta1 * first + (1 - beta1) * mean
        second = beta2 * second + (1 - beta2) * mean**2
        weights = weights + rate * first / (np.sqrt(second) + tau)
        found.append(weights)
    return found


def test_step_without_momentum_is_the_mean():
    state = FedAvgM().step(GlobalState(FIRST, FedAvgM().initial_memory(SIZE)), MEANS[0])
    assert same_bits(state.parameters, (FIRST.astype(np.float64) + MEANS[0]).astype(np.float32))


@pytest.mark.parametrize("settings", [(0.01, 0.9, 0.99, 1e-3), (0.1, 0.0, 0.9, 1e-2), (1.0, 0.5, 0.0, 0.1)])
def test_adaptive_step_matches_the_formula(settings):
    np.testing.assert_allclose(run_steps(FedAdam(*settings)), adam_by_hand(*settings), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [FedAvgM(0.5, 0.5), FedAdam(0.1, 0.9, 0.99, 1e-2)], ids=["momentum", "adam"])
def test_rate_multiplies_the_step(step):
    (half, *_), (whole, *_) = run_steps(step, 0.5), run_steps(step)
    np.testing.assert_allclose(half - FIRST, (whole - FIRST) / 2, atol=1e-6)


class Node:
    """The part of a grid that a strategy of Flower uses."""

    def get_node_ids(self) -> list[int]:
        return [2]


def run_flower_steps(strategy, number_of=lambda number: number) -> list[np.ndarray]:
    """Return the weights after each step of a Flower strategy whose single client moves along ``MEANS``."""
    InProcessGrid(lambda message, context: message, 1)  # messages need a sender
    weights, found = FIRST.astype(np.float64), []
    for number, mean in enumerate(MEANS, start=1):
        (message,) = strategy.configure_train(number, ArrayRecord({"w": Array(weights)}), ConfigRecord(), Node())
        content = RecordDict(
            {"arrays": ArrayRecord({"w": Array(weights + mean)}), "metrics": MetricRecord({"num-examples": 1})}
        )
        arrays, _ = strategy.aggregate_train(number_of(number), [Message(content, reply_to=message)])
        weights = arrays["w"].numpy()
        found.append(weights)
    return found


ONE = {"min_train_nodes": 1, "min_available_nodes": 1}


@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.0), (1.0, 0.9), (0.3, 0.5)])
def test_momentum_step_matches_flower(rate, momentum):
    expected = run_flower_steps(flower.FedAvgM(server_learning_rate=rate, server_momentum=momentum, **ONE))
    np.testing.assert_allclose(run_steps(FedAvgM(rate, momentum)), expected, rtol=1e-5, atol=1e-5)


def flower_adam() -> list[np.ndarray]:
    strategy = flower.FedAdam(eta=0.01, beta_1=0.9, beta_2=0.99, tau=1e-3, **ONE)
    # Unlike the paper, Flower starts the second moment at 0 and corrects the bias of both moments. Late in a training
    # the correction is 1.
    strategy.v_t = {"w": np.full(SIZE, 1e-6)}
    return run_flower_steps(strategy, lambda number: number + 10**6)


def test_adaptive_step_matches_flower_late_in_the_training():
    np.testing.assert_allclose(run_steps(FedAdam(0.01, 0.9, 0.99, 1e-3)), flower_adam(), rtol=1e-4, atol=1e-5)


def test_configuration_selects_the_server_optimizer():
    arms = [federated(server={"kind": "adam", "beta1": 0.8}), federated(server={"kind": "sgd", "momentum": 0.5})]
    assert [build_server_optimizer(arm.topology.server) for arm in arms] == [
        FedAdam(0.01, 0.8, 0.99, 1e-3),
        FedAvgM(1.0, 0.5),
    ]


def test_rounds_with_adam_match_the_formula():
    parts = parties(federated(server={"kind": "adam", "learning_rate": 0.02}))
    course = play(parts)
    weights = [member.weight for member in parts.pool.clients.values()]
    weights_now, first, second = parts.settings.initial_weights.astype(np.float64), 0.0, 1e-6
    for number in range(1, ROUNDS + 1):
        changes = changes_by_hand(parts, weights_now.astype(np.float32), number, range(3))
        mean = sum(weight * change for weight, change in zip(weights, changes, strict=True)) / sum(weights)
        first, second = 0.9 * first + 0.1 * mean, 0.99 * second + 0.01 * mean**2
        weights_now = weights_now + 0.02 * first / (np.sqrt(second) + 1e-3)
    (last,) = (state.global_state.parameters for state in course.states if state.applied == ROUNDS)
    # A step of the grid is 10^-6, and the adaptive step may enlarge it a hundredfold if the moments are small.
    assert np.abs(last - weights_now).max() < 1e-3
    assert np.median(np.abs(last - weights_now)) < 1e-5
    assert np.abs(last).max() > 0.02


# The proximal term.


def test_proximal_correction_is_the_gradient_of_the_term():
    model, examples = logistic(), some(30)
    nn.init.normal_(model[1].weight, generator=torch.Generator().manual_seed(1))
    anchor = [torch.randn(one.shape, generator=torch.Generator().manual_seed(2)) for one in model.parameters()]

    def loss() -> torch.Tensor:
        return functional.cross_entropy(model(examples.inputs), examples.labels)

    distance = sum(((one - start) ** 2).sum() for one, start in zip(model.parameters(), anchor, strict=True))
    expected = torch.autograd.grad(loss() + 0.7 / 2 * distance, list(model.parameters()))
    loss().backward()
    before = [one.detach().clone() for one in model.parameters()]
    Proximal(0.7, anchor).add_to_gradients(list(model.parameters()))
    for parameter, value, gradient in zip(model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
        assert torch.equal(parameter, value), "the correction must not change weights"


def test_private_client_is_corrected_after_the_noise():
    # Its examples have no gradient, so that it releases only noise.
    released: list[torch.Tensor] = []
    model = Silent()
    learner = DpSgdLearner(
        Settings(1, 10, 0.5, momentum=0.0, learning_rate_schedule="constant"),
        noise_multiplier=1.0,
        max_grad_norm=0.1,
        on_release=lambda gradients: released.append(gradients[0].clone()),
    )
    anchor = torch.full_like(model[1].weight, 0.1)
    correction = Proximal(0.4, [anchor])
    learner.fit(model, blank(30), window=TrainingWindow(), rng=Randomness(1), correction=correction)
    expected = torch.zeros_like(anchor)
    for noise in released:
        expected = expected - 0.5 * (noise + 0.4 * (expected - anchor))
    assert len(released) == 3
    torch.testing.assert_close(model[1].weight.detach(), expected)


def distances(strength: float | None) -> np.ndarray:
    """Return the distance of each client from the global model after the first round."""
    correction = {"kind": "proximal", "mu": strength} if strength else {"kind": "none"}
    training = {
        "epochs": 20,
        "batch_size": "all",
        "learning_rate": 0.002,
        "momentum": 0.0,
        "learning_rate_schedule": "constant",
    }
    parts = parties(federated(training=training, correction=correction, rounds=1, weighting="uniform"))
    pool, found = parts.pool, []
    for client, member in pool.clients.items():
        turn = round_context(client, rounds=1)
        found.append(np.linalg.norm(pool.algorithm.compute_update(pool.model, member, turn).values[:-1]))
    return np.array(found)


def test_stronger_proximal_term_reduces_client_drift():
    free, weak, middle, strong = (distances(strength) for strength in (None, 1e-3, 30.0, 400.0))
    np.testing.assert_allclose(weak, free, rtol=1e-3)
    assert (middle < 0.8 * free).all() and (strong < 0.1 * free).all() and (strong > 0.01 * free).all()


def test_configuration_selects_the_correction():
    strong = federated(correction={"kind": "proximal", "mu": 0.5}).topology.correction
    model = logistic()
    correction = build_correction(strong)(model)
    nn.init.ones_(model[1].weight)
    model[1].weight.grad = torch.zeros_like(model[1].weight)
    correction.add_to_gradients([model[1].weight, model[1].bias])
    assert (model[1].weight.grad == 0.5).all() and model[1].bias.grad is None, "the anchor is a copy"
    assert build_correction(federated().topology.correction)(model) is NO_CORRECTION


# The cumulative step of a constant gradient.


def moved(rates, momentum: float) -> float:
    """Return the distance by which PyTorch's SGD moves a weight of constant gradient 1."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return -weight.item()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("rates", [[0.1], [0.1] * 7, [0.3, 0.2, 0.1, 0.0], []])
def test_cumulative_step_matches_torch(rates, momentum):
    assert cumulative_step(rates, momentum) == pytest.approx(moved(rates, momentum), rel=1e-12)


@pytest.mark.parametrize("private", [False, True], ids=["sgd", "dpsgd"])
@pytest.mark.parametrize("batch_size", [10, "all"])
@pytest.mark.parametrize("decay", ["linear", "constant"])
def test_cumulative_learning_rate_matches_the_learner(private, batch_size, decay):
    training = {
        "epochs": 2,
        "batch_size": batch_size,
        "momentum": 0.9,
        "learning_rate_schedule": decay,
        "learning_rate": 0.1,
    }
    privacy = {"kind": "example", "noise_multiplier": 1.0} if private else None
    arm = federated(privacy, training=training)
    settings = Settings(2, batch_size, 0.1, momentum=0.9, learning_rate_schedule=decay)
    learner = DpSgdLearner(settings, noise_multiplier=0.0, max_grad_norm=1.0) if private else SgdLearner(settings)
    model, window = Silent(), TrainingWindow(1 / 3, 2 / 3)
    learner.fit(
        model,
        blank(25),
        window=window,
        rng=Randomness(1),
        correction=ConstantOffset([torch.full_like(model[1].weight, 2.0)]),
    )
    assert model[1].weight.unique().item() == pytest.approx(-2.0 * cumulative_learning_rate(arm)(25, window), rel=1e-5)


# Control variates.


def halves(*labels: int, count: int = 150) -> Examples:
    """Return digits of ``labels`` with standardized inputs of two by two values; the class is odd or even."""
    examples = some(1437)
    values = functional.adaptive_avg_pool2d(examples.inputs, 2)
    values = (values - values.mean(dim=0)) / values.std(dim=0)
    chosen = torch.isin(examples.labels, torch.tensor(labels)).nonzero()[:count, 0]
    return Examples(values[chosen], examples.labels[chosen] % 2)


class Plane(nn.Sequential):
    """A linear model of four inputs and two classes, whose loss is convex."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 2))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


def joint_loss(model: nn.Module) -> torch.Tensor:
    """Return the loss over the examples of both clients, which have the same number."""
    losses = [functional.cross_entropy(model(one.inputs), one.labels) for one in different()]
    return sum(losses) / len(losses)


def different() -> list[Examples]:
    """Return the examples of two clients, one with digits below 5 and one with the others."""
    return [halves(0, 1, 2, 3, 4), halves(5, 6, 7, 8, 9)]


@cache
def least_joint_loss() -> float:
    model = Plane()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = joint_loss(model)
        loss.backward()
        return loss

    optimizer.step(closure)
    return joint_loss(model).item()


LOCAL = {"epochs": 20, "batch_size": "all", "learning_rate": 0.5, "momentum": 0.0, "learning_rate_schedule": "constant"}


@cache
def corrected(kind: str) -> Course:
    """Return the course of a training of the two clients, with many steps per round."""
    arm = federated(training=LOCAL, rounds=20, weighting="uniform", correction={"kind": kind})
    return play(parties(arm, model=Plane(), owned=different(), test=different()[0]))


def excess(course: Course) -> float:
    """Return the difference between the joint loss and its minimum."""
    model = Plane()
    (last,) = (state.global_state.parameters for state in course.states if state.applied == 20)
    nn.utils.vector_to_parameters(torch.from_numpy(last.copy()), model.parameters())
    return joint_loss(model).item() - least_joint_loss()


def test_control_variates_reduce_client_drift():
    drifted = excess(corrected("none"))
    assert drifted > 0.01, "clients drift without control variates"
    assert -1e-6 < excess(corrected("scaffold")) < drifted / 20


def test_missing_control_variates_are_detected(monkeypatch):
    monkeypatch.setattr(algorithms, "ConstantOffset", lambda values: NO_CORRECTION)
    assert excess(corrected.__wrapped__("scaffold")) > excess(corrected("none")) / 20


@pytest.mark.parametrize("participation", [1.0, 0.67])
def test_global_control_variate_is_the_mean(participation):
    parts = parties(federated(correction={"kind": "scaffold"}, participation=participation, rounds=5))
    course = play(parts)
    control = [state.private.get("control", np.zeros(7850, np.float32)) for state in course.states]
    (expected,) = (state.global_state.memory["control"] for state in course.states if state.applied == 5)
    assert np.abs(expected).max() > 1e-3
    # Rounding of 15 differences to the grid.
    np.testing.assert_allclose(np.mean(control, axis=0), expected, atol=15 * CODEC.step)


class RecordingLearner:
    """A learner that records its gradients before the correction."""

    def __init__(self, learner: SgdLearner, heard: list[list[torch.Tensor]]) -> None:
        self._learner, self._heard = learner, heard

    def fit(self, model, examples, *, correction, **others):
        class RecordingCorrection:
            def add_to_gradients(_, parameters):
                self._heard.append([parameter.grad.clone() for parameter in parameters])
                correction.add_to_gradients(parameters)

        return self._learner.fit(model, examples, correction=RecordingCorrection(), **others)


def test_control_variate_is_the_mean_gradient():
    heard: list[list[torch.Tensor]] = []
    training = {"momentum": 0.0, "learning_rate_schedule": "constant", "epochs": 2}
    parts = parties(federated(training=training, correction={"kind": "scaffold"}))
    course = play(with_learner(parts, 0, lambda learner: RecordingLearner(learner, heard)))
    # Two epochs of two steps in each of three rounds: the last round has the last four.
    assert len(heard) == 12
    met = torch.stack([torch.cat([one.flatten() for one in gradients]) for gradients in heard[-4:]]).mean(dim=0)
    np.testing.assert_allclose(course.states[0].private["control"], met.numpy(), atol=1e-5)
    assert met.abs().max() > 1e-2


def test_control_variate_weighs_gradients_by_schedule_and_momentum():
    heard: list[list[torch.Tensor]] = []
    parts = parties(federated(training={"momentum": 0.9, "epochs": 2}, correction={"kind": "scaffold"}, rounds=1))
    course = play(with_learner(parts, 0, lambda learner: RecordingLearner(learner, heard)))
    rates = [0.1, 0.075, 0.05, 0.025]
    # Effect of each gradient: its own step, and the later steps by momentum.
    effects = [
        sum(rate * 0.9 ** (later - step) for later, rate in enumerate(rates) if later >= step) for step in range(4)
    ]
    met = sum(
        effect * torch.cat([one.flatten() for one in gradients])
        for effect, gradients in zip(effects, heard, strict=True)
    ) / sum(effects)
    np.testing.assert_allclose(course.states[0].private["control"], met.numpy(), atol=1e-5)


def test_first_scaffold_round_is_federated_averaging():
    parts = parties(federated(correction={"kind": "scaffold"}, rounds=1))
    assert isinstance(parts.pool.algorithm, ScaffoldAlgorithm)
    plain = parties(federated(rounds=1))
    (model,) = trained(parts).models
    expected = by_hand(plain, lambda number: range(3)).parameters[-1]
    # Corrected clients do not train vectorized, so that the last bits may differ.
    np.testing.assert_allclose(vector(model).numpy(), expected, atol=2 * CODEC.step)
    assert np.abs(expected).max() > 1000 * CODEC.step


def test_single_client_is_not_corrected():
    # Its control variate equals the global one: each round is federated averaging, up to the grid.
    found = [
        trained(parties(federated(correction={"kind": kind}), owned=owners()[:1])).models[0]
        for kind in ("none", "scaffold")
    ]
    torch.testing.assert_close(*map(vector, found), atol=1e-4, rtol=0)


ADAPTIVE = partial(federated, server={"kind": "adam", "learning_rate": 0.02})


def test_server_optimizer_and_control_variates_combine():
    parts = parties(ADAPTIVE(correction={"kind": "scaffold"}, rounds=4))
    course = play(parts)
    (last,) = (state.global_state for state in course.states if state.applied == 4)
    assert set(last.memory) == {"first", "second", "control"}
    assert course.failure is None and course.notices == []
