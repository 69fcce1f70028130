"""Small networks with a short training on real digits, and test images."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from ppml.encrypted_inference.network import PolynomialNetwork, Values, extract_polynomial_network
from ppml.learning.learner import Settings
from ppml.learning.sgd import SgdLearner
from ppml.learning.training_window import TrainingWindow
from ppml.models.registry import build_model
from ppml.models.square_cnn import Square
from ppml.randomness import Randomness

from ..learning.digits import CONTRACT, digits

SIDE = 12


def small() -> nn.Sequential:
    """Return a network of three maps for images of 12 x 12: few enough pixels to encrypt in a test."""
    return nn.Sequential(
        nn.Conv2d(1, 2, kernel_size=4, stride=4),
        nn.BatchNorm2d(2),
        Square(),
        nn.Flatten(),
        nn.Linear(18, 7),
        nn.BatchNorm1d(7),
        Square(),
        nn.Linear(7, 10),
    )


@cache
def trained(name: str) -> tuple[nn.Sequential, torch.Tensor]:
    """Return a trained model and test images."""
    train, test = digits()
    images = test.inputs[:64]
    if name == "small":
        torch.manual_seed(0)
        model, crop = small(), slice(4, 28, 2)
        train = type(train)(train.inputs[:, :, crop, crop].contiguous(), train.labels)
        images = images[:, :, crop, crop].contiguous()
    else:
        model = build_model(name, CONTRACT, torch.Generator().manual_seed(0))
    settings = Settings(epochs=3, batch_size=32, learning_rate=0.02)
    SgdLearner(settings).fit(model, train, window=TrainingWindow(), rng=Randomness(0))
    assert isinstance(model, nn.Sequential)
    return model.eval(), images


@cache
def known(name: str) -> tuple[PolynomialNetwork, Values]:
    """Return the maps of a trained model, and images as rows of pixels."""
    model, images = trained(name)
    return extract_polynomial_network(model, images.shape[1:]), images.flatten(1).double().numpy()
