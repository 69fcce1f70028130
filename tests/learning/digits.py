"""Real handwritten digits from scikit-learn, and helpers for tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import nn

from ppml.config.datasets import DATASETS, DIGITS
from ppml.data.examples import Examples
from ppml.data.loading import load_splits
from ppml.data.raw_examples import RawExamples
from ppml.data.transforms.deformation import Deformation
from ppml.models.registry import build_model
from ppml.randomness import Randomness

CONTRACT = DATASETS[DIGITS].contract
FAR = Deformation(rotation=10.0, shear=0.1, scale=0.1, shift=1.5)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Use one thread, as the stages do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def digits() -> tuple[Examples, Examples]:
    """Return the 1,437 training images and the 360 test images."""
    train, test = load_splits(DATASETS[DIGITS], {})
    return _normalised(train), _normalised(test)


def _normalised(split: RawExamples) -> Examples:
    pixels = torch.from_numpy(split.inputs.copy()).float() / 255.0
    return Examples((pixels - CONTRACT.mean[0]) / CONTRACT.deviation[0], torch.from_numpy(split.labels.copy()))


def some(count: int, start: int = 0) -> Examples:
    """Return ``count`` training images from position ``start``."""
    return digits()[0].select(torch.arange(start, start + count))


def cnn(seed: int = 0) -> nn.Module:
    """Return the project's network with its initial weights."""
    return build_model("tanh_cnn", CONTRACT, Randomness(seed, ("weights",)).torch())


def vector(model: nn.Module) -> torch.Tensor:
    """Return a copy of all weights, shape ``(parameters,)``."""
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in model.parameters()])


class Silent(nn.Sequential):
    """A network with zero gradients on images of zeros: only noise changes its 78,400 weights."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 100, bias=False))
        nn.init.zeros_(self[1].weight)


def blank(count: int) -> Examples:
    """Return ``count`` images of zeros."""
    return Examples(torch.zeros(count, 1, 28, 28), torch.zeros(count, dtype=torch.int64))


def with_duplicates(count: int) -> Examples:
    """Return real examples; a third of them equal another one, some with a different label."""
    examples = some(min(count, 700)).select(torch.arange(count) % max(1, 2 * count // 3))
    labels = examples.labels.clone()
    labels[::7] = (labels[::7] + 1) % 10
    return Examples(examples.inputs, labels)
