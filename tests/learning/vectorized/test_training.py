"""Vectorized training: each replica equals sequential training, and its bits are independent of other replicas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ppml.data.examples import Examples
from ppml.learning.learner import Settings, TrainingDiverged
from ppml.learning.parameters import flatten
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.learning.vectorized.network import StackedNetwork
from ppml.learning.vectorized.training import Replica, can_vectorize, train_vectorized
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from ..digits import CONTRACT, FAR, some

WINDOW = TrainingWindow(0.25, 0.5)
SIZES = (60, 35, 7)


def model_of(name: str, features: int = 0) -> nn.Module:
    contract = CONTRACT.features(features) if features else CONTRACT
    return build_model(name, contract, torch.Generator().manual_seed(0))


def replicas() -> list[Replica]:
    owned = [some(size, start=100 * place) for place, size in enumerate(SIZES)]
    return [Replica(examples, Randomness(1, ("client", place))) for place, examples in enumerate(owned)]


def settings(**changes: object) -> Settings:
    return Settings(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.05, **changes})  # type: ignore[arg-type]


def by_itself(model: nn.Module, replica: Replica, how: Settings) -> np.ndarray:
    mine = copy.deepcopy(model)
    SgdLearner(how).fit(mine, replica.examples, window=WINDOW, rng=replica.rng)
    return flatten(mine)


@pytest.mark.parametrize("name", ["mlp", "logistic", "tanh_cnn"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shift": 1, "deformation": FAR},
        {"batch_size": "all"},
        {"momentum": 0.0, "learning_rate_schedule": "constant"},
    ],
    ids=str,
)
def test_replica_equals_sequential_training(name, changes):
    model, how = model_of(name), settings(**changes)
    assert can_vectorize(model)
    for replica, found in zip(replicas(), train_vectorized(model, replicas(), how, WINDOW), strict=True):
        alone = by_itself(model, replica, how)
        assert np.abs(alone - flatten(model)).max() > 1e-3
        # Rounding, which differs from processor to processor, may let another pixel be the largest of a pool: then the
        # gradients of some weights move to its neighbour.
        difference, moved = np.abs(found - alone), 0.002 if name == "tanh_cnn" else 0.0
        assert difference.max() < 5e-4 and (difference > 5e-6).mean() <= moved


def test_copies_of_example_are_separate_rows():
    images = torch.randn(20, 3, 12, generator=torch.Generator().manual_seed(1))
    replica = Replica(Examples(images, torch.arange(20) % 10), Randomness(1, ("client", 0)))
    model = model_of("linear", features=12)
    (found,) = train_vectorized(model, [replica], settings(), WINDOW)
    assert np.allclose(found, by_itself(model, replica, settings()), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "limits", [{"CACHE_BYTES": 1}, {"MAX_IMAGES": 1}, {"CACHE_BYTES": 2**30, "MAX_IMAGES": 2**30}], ids=str
)
@pytest.mark.parametrize("name", ["mlp", "tanh_cnn"])
def test_replica_bits_are_independent_of_others(name, limits, monkeypatch):
    model = model_of(name)
    alone = [train_vectorized(model, [replica], settings(), WINDOW)[0] for replica in replicas()]
    for limit, value in limits.items():
        monkeypatch.setattr(f"ppml.learning.vectorized.network.{limit}", value)
    together = train_vectorized(model, replicas(), settings(), WINDOW)
    assert [one.tobytes() for one in together] == [one.tobytes() for one in alone]
    # The order of the replicas, and so their memory location, has no effect.
    reordered = train_vectorized(model, replicas()[::-1], settings(), WINDOW)[::-1]
    assert [one.tobytes() for one in reordered] == [one.tobytes() for one in alone]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 30], ids=str)
def test_padding_has_no_effect(batch_size):
    model, how = model_of("tanh_cnn"), settings(batch_size=batch_size, learning_rate=0.002)
    for replica, found in zip(replicas(), train_vectorized(model, replicas(), how, WINDOW), strict=True):
        assert np.allclose(found, by_itself(model, replica, how), rtol=0, atol=1e-4)


def test_finished_replicas_are_dropped(monkeypatch):
    """The network shrinks as replicas finish."""
    kept, truncate = [], StackedNetwork.truncate
    monkeypatch.setattr(
        StackedNetwork, "truncate", lambda network, count: kept.append(count) or truncate(network, count)
    )
    train_vectorized(model_of("tanh_cnn"), replicas(), settings(), WINDOW)
    assert kept == [2, 1]


def test_callback_gets_loss_and_weights_of_each_epoch():
    calls: dict[int, list[tuple[int, float, np.ndarray]]] = {}

    def record(place, epoch, loss, weights):
        calls.setdefault(place, []).append((epoch, loss, weights()))

    model, how = model_of("tanh_cnn"), settings(epochs=3)
    found = train_vectorized(model, replicas(), how, WINDOW, record)
    for place, replica in enumerate(replicas()):
        epochs, losses, weights = zip(*calls[place], strict=True)
        assert epochs == (1, 2, 3) and np.array_equal(weights[-1], found[place])
        alone: list[float] = []
        mine = copy.deepcopy(model)
        SgdLearner(how).fit(
            mine,
            replica.examples,
            window=WINDOW,
            rng=replica.rng,
            after_epoch=lambda epoch, loss, alone=alone: alone.append(loss),
        )
        assert losses == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("name", ["mlp", "tanh_cnn"])
def test_diverged_replica_does_not_affect_others(name):
    spoiled = replicas()
    spoiled[1].examples.inputs.fill_(float("nan"))
    found = train_vectorized(model_of(name), spoiled, settings(), WINDOW)
    assert isinstance(found[1], TrainingDiverged) and found[1].step == 1
    kept = train_vectorized(model_of(name), [spoiled[0], spoiled[2]], settings(), WINDOW)
    assert [one.tobytes() for one in (found[0], found[2])] == [one.tobytes() for one in kept]


def test_initial_model_is_not_changed():
    model = model_of("mlp")
    before = flatten(model).copy()
    train_vectorized(model, replicas(), settings(), WINDOW)
    assert np.array_equal(flatten(model), before)


def convolution(**changes: object) -> nn.Module:
    return nn.Conv2d(1, 2, kernel_size=4, **changes)  # type: ignore[arg-type]


NOT_STACKED = {
    "squashed inputs": nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(4, 2)),
    "squashed images": nn.Sequential(nn.Tanh(), convolution(), nn.Flatten(), nn.Linear(1250, 10)),
    "no linear layer": nn.Sequential(convolution(), nn.Flatten()),
    "mirrors": nn.Sequential(convolution(padding_mode="reflect"), nn.Flatten(), nn.Linear(1250, 10)),
    "draws": nn.Sequential(convolution(), nn.Dropout(), nn.Flatten(), nn.Linear(1250, 10)),
    "another function": nn.Sequential(convolution(), nn.Flatten(), nn.ReLU(), nn.Linear(1250, 10)),
    "statistics": model_of("square_cnn"),
    "no sequence of layers": model_of("resnet18"),
    "no layer": nn.Sequential(nn.Flatten()),
    "no sequence": nn.Linear(4, 2),
    "not on a cpu": model_of("tanh_cnn").to("meta"),
}


@pytest.mark.parametrize("model", NOT_STACKED.values(), ids=NOT_STACKED)
def test_other_models_are_not_vectorized(model):
    assert not can_vectorize(model)


STACKED = {
    "no bias": [convolution(bias=False), nn.Tanh()],
    "no scale": [convolution(padding="same", dilation=2), nn.GroupNorm(1, 2, affine=False)],
    "groups of its own": [convolution(stride=(1, 2)), nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(3, 2, padding=1)],
    "squashed when flat": [convolution(), nn.Flatten(), nn.Tanh(), nn.LazyLinear(5), nn.Tanh()],
}


@pytest.mark.parametrize("layers", STACKED.values(), ids=STACKED)
@pytest.mark.parametrize("batch_size", [16, 10])
def test_stacked_convolutions_equal_sequential_training(layers, batch_size):
    layers, how = copy.deepcopy(layers), settings(batch_size=batch_size, learning_rate=0.005)
    flat = [] if any(isinstance(layer, nn.Flatten) for layer in layers) else [nn.Flatten()]
    model = nn.Sequential(*layers, *flat, nn.LazyLinear(10))
    model(some(2).inputs)
    assert can_vectorize(model)
    together = train_vectorized(model, replicas(), how, WINDOW)
    for replica, found in zip(replicas(), together, strict=True):
        assert np.allclose(found, by_itself(model, replica, how), rtol=0, atol=1e-4)
        assert found.tobytes() == train_vectorized(model, [replica], how, WINDOW)[0].tobytes()


@pytest.mark.parametrize("batch_size", [1, 2, 10, 32, 125], ids=str)
def test_many_replicas_keep_their_bits(batch_size):
    model, how = model_of("tanh_cnn"), settings(epochs=1, batch_size=batch_size, shift=1, deformation=FAR)
    many = [Replica(some(40, start=40 * place), Randomness(1, ("client", place))) for place in range(17)]
    together = train_vectorized(model, many, how, WINDOW)
    for place in (0, 8, 16):
        assert together[place].tobytes() == train_vectorized(model, [many[place]], how, WINDOW)[0].tobytes()
