"""Real handwritten digits from inside scikit-learn, and what the tests of training do with them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from ppml.data.catalogue import DIGITS_INFO
from torch import nn

from ppml.data.examples import Examples
from ppml.data.loading import Split, load_splits
from ppml.models.registry import build_model
from ppml.randomness import Randomness


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Train as the stages do: bits and speed are those of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def digits() -> tuple[Examples, Examples]:
    """Return the 1,437 images that train and the 360 that test."""
    train, test = load_splits("digits", [])
    return _normalised(train), _normalised(test)


def _normalised(split: Split) -> Examples:
    pixels = torch.from_numpy(split.inputs.copy())[:, None].float() / 255.0
    return Examples((pixels - DIGITS_INFO.mean) / DIGITS_INFO.deviation, torch.from_numpy(split.labels.copy()))


def some(count: int, start: int = 0) -> Examples:
    """Return ``count`` training images from position ``start``."""
    return digits()[0].select(torch.arange(start, start + count))


def cnn(seed: int = 0) -> nn.Module:
    """Return the project's network with its initial weights."""
    return build_model("tanh_cnn", 10, Randomness(seed, ("weights",)).torch())


def vector(model: nn.Module) -> torch.Tensor:
    """Return a copy of all weights, shape ``(parameters,)``."""
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in model.parameters()])


class Silent(nn.Sequential):
    """A network whose gradient is zero on images of zeros: what moves its 78,400 weights is noise."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 100, bias=False))
        nn.init.zeros_(self[1].weight)


def blank(count: int) -> Examples:
    """Return ``count`` images of zeros."""
    return Examples(torch.zeros(count, 1, 28, 28), torch.zeros(count, dtype=torch.int64))
