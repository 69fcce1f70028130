"""The network that can be evaluated on encrypted images."""

from __future__ import annotations

import torch
from torch import nn

from ppml.models.registry import build_model
from ppml.models.square_cnn import Square

from ..learning.digits import digits


def made(seed: int = 0, classes: int = 10) -> nn.Module:
    return build_model("square_cnn", classes, torch.Generator().manual_seed(seed))


def test_it_has_as_many_parameters_as_stated_and_one_logit_a_class() -> None:
    model = made()
    assert sum(parameter.numel() for parameter in model.parameters()) == 16_857
    assert model(digits()[1].images[:3]).shape == (3, 10)
    assert made(classes=4)(digits()[1].images[:3]).shape == (3, 4)


def test_weights_come_from_the_generator_alone() -> None:
    first, second, other = (dict(made(seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_its_only_function_besides_affine_maps_is_the_square() -> None:
    kinds = {type(module) for module in made().modules()} - {
        nn.Sequential,
        nn.Conv2d,
        nn.Linear,
        nn.Flatten,
        nn.ZeroPad2d,
    }
    assert {kind.__name__ for kind in kinds} == {"SquareCnn", "Square", "BatchNorm1d", "BatchNorm2d"}
    values = torch.tensor([-3.0, 0.5])
    assert torch.equal(Square()(values), torch.tensor([9.0, 0.25]))
