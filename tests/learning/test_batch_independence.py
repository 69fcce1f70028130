"""A model that mixes the examples of a batch is refused before training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ppml.config.models import MODELS
from ppml.data.examples import Examples
from ppml.learning import clipped_sum as sums
from ppml.learning import dpsgd
from ppml.learning.batch_independence import check_batch_independence
from ppml.learning.clipped_sum import clipped_sum
from ppml.learning.clipping import UnsupportedLayer
from ppml.learning.dpsgd import DpSgdLearner
from ppml.learning.learner import Settings
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.randomness import Randomness

from .digits import CONTRACT, cnn, some, vector


class Mixer(nn.Module):
    """A digit model that transforms the rows of a batch first."""

    def __init__(self, mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.last = mix, nn.Linear(784, 10)

    def forward(self, images):
        return self.last(self.mix(images.flatten(1)))


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(784))

    def forward(self, rows):
        self.seen += rows.detach().mean(0)
        return rows + self.seen


GRADIENT, OTHERS = "has a gradient at another", "differs with the others"
NUMBER, SECOND = "differs with their number or its position", "another loss in a second pass"
MIXING = {
    "mean": (lambda rows: rows - rows.mean(0), GRADIENT),
    "faint mean": (lambda rows: rows + 1e-12 * rows.mean(0), GRADIENT),
    "sorted": (lambda rows: rows.sort(dim=0).values, GRADIENT),
    "cumulative": (lambda rows: rows.cumsum(0), GRADIENT),
    "reversed": (lambda rows: rows.flip(0), GRADIENT),
    "detached mean": (lambda rows: rows - rows.mean(0).detach(), OTHERS),
    "detached first": (lambda rows: rows * rows[:1].detach(), OTHERS),
    "divided by the number": (lambda rows: rows / len(rows), NUMBER),
    "numbered": (lambda rows: rows * (1.0 + torch.arange(len(rows))[:, None]), NUMBER),
    "dropout": (nn.Dropout(0.5), SECOND),
    "remembers": (Remembers(), SECOND),
}
LEARNER = DpSgdLearner(Settings(1, 10, 0.1), noise_multiplier=1.0, max_grad_norm=0.1)


@pytest.mark.parametrize(("mix", "message"), MIXING.values(), ids=MIXING)
def test_model_that_mixes_examples_is_refused_before_training(mix, message):
    for train in (
        lambda model: LEARNER.fit(model, some(30), window=TrainingWindow(), rng=Randomness(1)),
        lambda model: clipped_sum(model, some(30), torch.arange(30), 0.1),
    ):
        model = Mixer(mix)
        before = vector(model)
        with pytest.raises(UnsupportedLayer, match=rf"^model Mixer .*{message}.*; .* GroupNorm .*$") as raised:
            train(model)
        assert "\n" not in str(raised.value)
        assert torch.equal(vector(model), before)


def test_model_without_mixing_is_trained():
    LEARNER.fit(Mixer(nn.Identity()), some(30), window=TrainingWindow(), rng=Randomness(1))


@pytest.mark.parametrize("module", [dpsgd, sums])
def test_learner_without_check_is_detected(module, monkeypatch):
    monkeypatch.setattr(module, "check_batch_independence", lambda model, images: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_model_that_mixes_examples_is_refused_before_training(*MIXING["mean"])


@pytest.mark.parametrize(
    "name", sorted(name for name, info in MODELS.items() if not (info.batch_norm or info.is_reference))
)
def test_every_private_model_is_batch_independent(name):
    takes_features = "features" in MODELS[name].kinds
    for shape in [(50,), (4, 50)] if takes_features else [(1, 28, 28)]:
        contract = CONTRACT.features(50) if takes_features else CONTRACT
        model = build_model(name, contract, Randomness(0).torch())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=Randomness(1).torch()))
        check_batch_independence(model, torch.zeros(3, *shape))


def test_embedding_of_indices_is_batch_independent():
    model = nn.Sequential(nn.Embedding(2, 3), nn.Flatten(), nn.Linear(12, 5))
    check_batch_independence(model, torch.zeros(7, 4, dtype=torch.int64))


def test_layer_that_mixes_examples_is_named():
    with pytest.raises(UnsupportedLayer, match=r"^layer 1 \(BatchNorm1d\) mixes the examples"):
        check_batch_independence(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784)), some(3).inputs)


def test_check_reads_no_example_and_changes_no_state():
    model, images = cnn().train(), torch.full((5, 1, 28, 28), float("nan"))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    check_batch_independence(model, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_check_of_dropout_preserves_global_generator():
    model = Mixer(nn.Dropout(0.5))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with pytest.raises(UnsupportedLayer):
        check_batch_independence(model, some(3).inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_model_is_checked_once_per_example_shape():
    passes = []

    def counted(rows):
        passes.append(len(rows))
        return rows

    model = Mixer(counted)
    check_batch_independence(model, some(3).inputs)
    first = len(passes)
    check_batch_independence(model, some(9).inputs)
    assert len(passes) == first > 0
    check_batch_independence(model, some(3).inputs.view(3, 1, 14, 56))
    assert len(passes) == 2 * first
    empty = Examples(some(3).inputs[:0], some(3).labels[:0])
    assert not clipped_sum(model, empty, torch.arange(0), 0.1).any()
