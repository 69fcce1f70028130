from __future__ import annotations

import pytest
import torch
from torch import nn

from ppml.models.cnn import TanhCnn, initialise
from ppml.models.registry import MODELS, ON_FEATURES, build_model

from ..learning.digits import digits, vector


def made(seed: int = 0, classes: int = 10) -> nn.Module:
    return TanhCnn(classes, torch.Generator().manual_seed(seed))


def images(count: int) -> torch.Tensor:
    return digits()[1].images[:count]


@pytest.mark.parametrize(("classes", "parameters"), [(10, 26_106), (2, 26_106 - 8 * 33)])
def test_it_has_as_many_parameters_as_stated_and_one_logit_a_class(classes, parameters):
    model = made(classes=classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(images(3)).shape == (3, classes)


def test_every_parameter_is_trained():
    assert all(parameter.requires_grad for parameter in made().parameters())
    assert not list(made().buffers()), "a buffer would be a statistic of the records that no noise covers"


def check_no_layer_mixes_examples(model: nn.Module) -> None:
    model.train()
    first = model(images(1))
    for others in (images(8)[1:], 1000 * images(8)[1:], torch.zeros_like(images(8)[1:])):
        beside = model(torch.cat([images(1), others]))[:1]
        assert torch.allclose(beside, first, atol=1e-5)


def test_no_layer_mixes_examples():
    check_no_layer_mixes_examples(made())


def test_batch_normalisation_is_caught():
    layers = list(made())
    layers[1] = nn.BatchNorm2d(16)
    with pytest.raises(AssertionError):
        check_no_layer_mixes_examples(nn.Sequential(*layers))


def test_the_gradient_of_an_example_does_not_depend_on_the_others():
    model, pixels = made(), images(4).clone().requires_grad_()
    model(pixels)[0].sum().backward()
    assert pixels.grad[0].abs().sum() > 0
    assert pixels.grad[1:].abs().sum() == 0


def check_weights_come_from_the_generator_alone(make) -> None:
    torch.manual_seed(1)
    first = vector(make(7))
    torch.manual_seed(2)
    assert torch.equal(first, vector(make(7)))
    assert not torch.equal(first, vector(make(8)))


def test_initial_weights_come_from_the_generator_alone():
    check_weights_come_from_the_generator_alone(made)


def test_weights_from_the_global_generator_are_caught():
    with pytest.raises(AssertionError):
        check_weights_come_from_the_generator_alone(lambda seed: nn.Linear(5, 5))


def test_making_a_model_leaves_a_generator_where_its_draws_end_whatever_was_drawn_before():
    generator = torch.Generator().manual_seed(3)
    first, second = TanhCnn(10, generator), TanhCnn(10, generator)
    assert not torch.equal(vector(first), vector(second))


def test_initial_weights_are_those_of_xavier_and_biases_are_zero():
    for module in made().modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            field = module.weight[0][0].numel() if module.weight.dim() > 2 else 1
            bound = (6 / (field * (module.weight.shape[0] + module.weight.shape[1]))) ** 0.5
            assert 0.9 * bound < module.weight.abs().max().item() <= bound
            assert module.bias.abs().sum() == 0


def test_layers_without_bias_are_initialised_too():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    initialise(model, torch.Generator().manual_seed(1))
    assert torch.equal(
        model[0].weight, nn.init.xavier_uniform_(torch.empty(3, 3), generator=torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("name", sorted(MODELS.keys() - ON_FEATURES))
def test_every_registered_model_maps_images_to_logits(name):
    model = build_model(name, 10, torch.Generator().manual_seed(0))
    assert model(images(2)).shape == (2, 10)


def test_logistic_regression_starts_at_chance_and_is_linear_in_the_pixels():
    model = build_model("logistic", 10, torch.Generator())
    assert sum(parameter.numel() for parameter in model.parameters()) == 7850
    assert model(images(3)).abs().sum() == 0
    with torch.no_grad():
        model[1].weight += 0.01
    assert torch.allclose(model(2 * images(3)), 2 * model(images(3)))


def test_an_unknown_model_is_an_error():
    with pytest.raises(KeyError):
        build_model("no_such_model", 10, torch.Generator())
