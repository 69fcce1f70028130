"""The models: shapes, initial weights, and no mixture of examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppml.config.models import MODELS, fitting_models
from ppml.contract import DataContract
from ppml.models.cnn import TanhCnn, initialise
from ppml.models.registry import CLASSES, build_model

from ..learning.digits import CONTRACT, digits, vector


def make(seed: int = 0, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    return TanhCnn(shape, classes, torch.Generator().manual_seed(seed))


def images(count: int) -> torch.Tensor:
    return digits()[1].inputs[:count]


@pytest.mark.parametrize(("classes", "parameters"), [(10, 26_106), (2, 26_106 - 8 * 33)])
def test_model_has_stated_parameters_and_one_logit_per_class(classes, parameters):
    model = make(classes=classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(images(3)).shape == (3, classes)


def test_all_parameters_are_trained():
    assert all(parameter.requires_grad for parameter in make().parameters())
    assert not list(make().buffers()), "a buffer is a statistic of the examples without noise"


def check_no_layer_mixes_examples(model: nn.Module) -> None:
    model.train()
    first = model(images(1))
    for others in (images(8)[1:], 1000 * images(8)[1:], torch.zeros_like(images(8)[1:])):
        logits = model(torch.cat([images(1), others]))[:1]
        assert torch.allclose(logits, first, atol=1e-5)


def test_no_layer_mixes_examples():
    check_no_layer_mixes_examples(make())


def test_batch_normalisation_is_caught():
    layers = list(make())
    layers[1] = nn.BatchNorm2d(16)
    with pytest.raises(AssertionError):
        check_no_layer_mixes_examples(nn.Sequential(*layers))


def test_gradient_of_example_does_not_depend_on_others():
    model, pixels = make(), images(4).clone().requires_grad_()
    model(pixels)[0].sum().backward()
    assert pixels.grad[0].abs().sum() > 0
    assert pixels.grad[1:].abs().sum() == 0


def check_weights_depend_on_seed_only(make) -> None:
    torch.manual_seed(1)
    first = vector(make(7))
    torch.manual_seed(2)
    assert torch.equal(first, vector(make(7)))
    assert not torch.equal(first, vector(make(8)))


def test_initial_weights_depend_on_generator_only():
    check_weights_depend_on_seed_only(make)


def test_weights_from_the_global_generator_are_caught():
    with pytest.raises(AssertionError):
        check_weights_depend_on_seed_only(lambda seed: nn.Linear(5, 5))


def test_two_models_of_one_generator_differ():
    generator = torch.Generator().manual_seed(3)
    first, second = (TanhCnn((1, 28, 28), 10, generator) for _ in range(2))
    assert not torch.equal(vector(first), vector(second))


def test_initial_weights_are_xavier_and_biases_zero():
    for module in make().modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            field = module.weight[0][0].numel() if module.weight.dim() > 2 else 1
            bound = (6 / (field * (module.weight.shape[0] + module.weight.shape[1]))) ** 0.5
            assert 0.9 * bound < module.weight.abs().max().item() <= bound
            assert module.bias.abs().sum() == 0


def test_layer_without_bias_is_initialised():
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    initialise(model, torch.Generator().manual_seed(1))
    assert torch.equal(
        model[0].weight, nn.init.xavier_uniform_(torch.empty(3, 3), generator=torch.Generator().manual_seed(1))
    )


def test_configuration_and_registry_name_the_same_models():
    assert MODELS.keys() == CLASSES.keys()


CONTRACTS = [
    CONTRACT,
    DataContract(shape=(1, 28, 28), classes=2),
    DataContract(shape=(3, 32, 32), classes=26),
    DataContract(shape=(1, 14, 20), classes=3),
    DataContract(kind="table", shape=(40,), classes=2),
    CONTRACT.features(21),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_every_fitting_model_maps_inputs_to_logits(contract):
    assert fitting_models(contract)
    for name in fitting_models(contract):
        model = build_model(name, contract, torch.Generator().manual_seed(0))
        assert model(torch.zeros(2, *contract.shape)).shape == (2, len(contract.classes)), name


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_misfit_is_refused(contract):
    for name in MODELS.keys() - set(fitting_models(contract)):
        with pytest.raises(ValueError, match=f"model '{name}' does not fit"):
            build_model(name, contract, torch.Generator())


@pytest.mark.parametrize(("name", "side"), [("tanh_cnn", 14), ("square_cnn", 10)])
def test_smallest_image_is_the_smallest_that_a_model_can_take(name, side):
    fits, too_small = (DataContract(shape=(1, size, size), classes=2) for size in (side, side - 1))
    assert build_model(name, fits, torch.Generator())(torch.zeros(2, *fits.shape)).shape == (2, 2)
    assert name not in fitting_models(too_small)


def test_logistic_regression_starts_at_zero_and_is_linear_in_pixels():
    model = build_model("logistic", CONTRACT, torch.Generator())
    assert sum(parameter.numel() for parameter in model.parameters()) == 7850
    assert model(images(3)).abs().sum() == 0
    with torch.no_grad():
        model[1].weight += 0.01
    assert torch.allclose(model(2 * images(3)), 2 * model(images(3)))


def test_mlp_draws_weights_from_its_generator_only():
    state = torch.get_rng_state()
    check_weights_depend_on_seed_only(lambda seed: build_model("mlp", CONTRACT, torch.Generator().manual_seed(seed)))
    model = build_model("mlp", CONTRACT, torch.Generator())
    assert sum(parameter.numel() for parameter in model.parameters()) == 50_890
    torch.set_rng_state(state)


def test_unknown_model_is_an_error():
    with pytest.raises(KeyError):
        build_model("no_such_model", CONTRACT, torch.Generator())
