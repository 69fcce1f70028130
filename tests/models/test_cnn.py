"""The models: shapes and initial weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ppml.config.models import MODELS, fitting_models
from ppml.contract import DataContract
from ppml.models.cnn import TanhCnn, initialise
from ppml.models.registry import CLASSES, build_model, build_reference
from ppml.models.square_cnn import Square

from ..learning.digits import CONTRACT, digits, vector


def make(seed: int = 0) -> nn.Module:
    return TanhCnn((1, 28, 28), 10, torch.Generator().manual_seed(seed))


def images(count: int) -> torch.Tensor:
    return digits()[1].inputs[:count]


PARAMETERS = {
    ("tanh_cnn", 10): 26_106,
    ("tanh_cnn", 2): 26_106 - 8 * 33,
    ("square_cnn", 10): 16_857,
    ("resnet18", 10): 11_175_370,
    ("logistic", 10): 7_850,
    ("mlp", 10): 50_890,
}


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_model_has_stated_parameters(name, classes):
    model = build_model(name, DataContract(shape=(1, 28, 28), classes=classes), torch.Generator())
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name, classes]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not list(model.buffers()) or MODELS[name].batch_norm, "a buffer is a statistic of the examples without noise"


def check_weights_depend_on_generator_only(make: Callable[[torch.Generator], nn.Module]) -> None:
    weights = []
    for seed, global_seed in ((7, 1), (7, 2), (8, 2)):
        torch.manual_seed(global_seed)
        weights.append(vector(make(torch.Generator().manual_seed(seed))))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", ["tanh_cnn", "mlp", "square_cnn", "resnet18"])
def test_initial_weights_depend_on_generator_only(name):
    check_weights_depend_on_generator_only(lambda generator: build_model(name, CONTRACT, generator))


def test_weights_from_the_global_generator_are_caught():
    with pytest.raises(AssertionError):
        check_weights_depend_on_generator_only(lambda generator: nn.Linear(5, 5))


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_large_model_draws_nothing_from_global_generator(name):
    state = torch.get_rng_state()
    build_model(name, CONTRACT, torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


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
    DataContract(shape=(1, 13, 13), classes=3),
    DataContract(shape=(1, 10, 9), classes=3),
    DataContract(shape=(3, 8, 8), classes=3),
    DataContract(kind="table", shape=(40,), classes=2),
    CONTRACT.features(21),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_every_fitting_model_maps_inputs_to_logits(contract):
    networks = [name for name in fitting_models(contract) if not MODELS[name].is_reference]
    assert networks
    for name in networks:
        model = build_model(name, contract, torch.Generator().manual_seed(0))
        assert model(torch.zeros(2, *contract.shape)).shape == (2, len(contract.classes)), name


@pytest.mark.parametrize("name", [name for name, info in MODELS.items() if info.is_reference])
def test_reference_model_has_log_probabilities_and_depends_on_its_seed_only(name):
    rng = np.random.default_rng(0)
    # The second of three classes is not in training.
    labels = rng.permutation(np.repeat([0, 2], 50))
    inputs = (rng.normal(size=(100, 4)) + labels[:, None]).astype(np.float32)
    found = []
    for seed in (1, 1, 2):
        model = build_reference(name, seed)
        model.fit(inputs, labels)
        found.append(model.log_probabilities(inputs, 3))
    assert found[0].shape == (100, 3) and found[0].dtype == np.float32
    np.testing.assert_allclose(np.exp(found[0]).sum(axis=1), 1.0, rtol=1e-6)
    assert (found[0].argmax(axis=1) == labels).mean() > 0.9 and np.exp(found[0][:, 1]).max() < 1e-30
    assert np.array_equal(found[0], found[1])
    # Boosted trees of few rows draw nothing.
    assert np.array_equal(found[0], found[2]) == (name == "hist_gradient_boosting")


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_misfit_is_refused(contract):
    for name in MODELS.keys() - set(fitting_models(contract)):
        with pytest.raises(ValueError, match=f"model '{name}' does not fit"):
            build_model(name, contract, torch.Generator())


@pytest.mark.parametrize(("name", "side"), [("tanh_cnn", 8), ("square_cnn", 8), ("resnet18", 8)])
def test_smallest_image_is_the_smallest_that_a_model_can_take(name, side):
    fits, too_small = (DataContract(shape=(1, size, size), classes=2) for size in (side, side - 1))
    assert build_model(name, fits, torch.Generator())(torch.zeros(2, *fits.shape)).shape == (2, 2)
    assert name not in fitting_models(too_small)


def test_logistic_regression_starts_at_zero_and_is_linear_in_pixels():
    model = build_model("logistic", CONTRACT, torch.Generator())
    assert model(images(3)).abs().sum() == 0
    with torch.no_grad():
        model[1].weight += 0.01
    assert torch.allclose(model(2 * images(3)), 2 * model(images(3)))


def test_linear_model_maps_features_of_copies_to_logits_and_starts_at_zero():
    state = torch.get_rng_state()
    model = build_model("linear", CONTRACT.features(21), torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    (weight,) = model.parameters()
    assert weight.shape == (10, 21) and not weight.any()
    assert model(torch.ones(4, 3, 21)).shape == (4, 3, 10) and model(torch.ones(4, 21)).shape == (4, 10)


def test_square_is_only_nonlinear_function_of_square_cnn():
    layers = build_model("square_cnn", CONTRACT, torch.Generator()).children()
    kinds = {type(module) for module in layers} - {nn.Conv2d, nn.Linear, nn.Flatten, nn.ZeroPad2d}
    assert kinds == {Square, nn.BatchNorm1d, nn.BatchNorm2d}
    assert torch.equal(Square()(torch.tensor([-3.0, 0.5])), torch.tensor([9.0, 0.25]))


def test_unknown_model_is_an_error():
    with pytest.raises(KeyError):
        build_model("no_such_model", CONTRACT, torch.Generator())
