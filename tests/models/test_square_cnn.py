"""The network for encrypted images."""

from __future__ import annotations

import torch
from torch import nn

from ppml.contract import DataContract
from ppml.models.registry import build_model
from ppml.models.square_cnn import Square

from ..learning.digits import CONTRACT, digits


def make(seed: int = 0, classes: int = 10) -> nn.Module:
    return build_model(
        "square_cnn", DataContract(shape=CONTRACT.shape, classes=classes), torch.Generator().manual_seed(seed)
    )


def test_model_has_stated_parameters_and_one_logit_per_class() -> None:
    model = make()
    assert sum(parameter.numel() for parameter in model.parameters()) == 16_857
    assert model(digits()[1].inputs[:3]).shape == (3, 10)
    assert make(classes=4)(digits()[1].inputs[:3]).shape == (3, 4)


def test_weights_depend_on_generator_only() -> None:
    first, second, other = (dict(make(seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_square_is_only_nonlinear_function() -> None:
    kinds = {type(module) for module in make().modules()} - {
        nn.Sequential,
        nn.Conv2d,
        nn.Linear,
        nn.Flatten,
        nn.ZeroPad2d,
    }
    assert {kind.__name__ for kind in kinds} == {"SquareCnn", "Square", "BatchNorm1d", "BatchNorm2d"}
    values = torch.tensor([-3.0, 0.5])
    assert torch.equal(Square()(values), torch.tensor([9.0, 0.25]))
