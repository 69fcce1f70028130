"""The extracted polynomial network equals the trained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ppml.config.models import MODELS, fitting_models
from ppml.encrypted_inference.network import extract_polynomial_network
from ppml.models.registry import build_model
from ppml.models.square_cnn import SquareCnn

from ..learning.digits import CONTRACT
from .networks import known, trained


@pytest.mark.parametrize("name", ["small", "square_cnn", "logistic"])
def test_network_gives_model_logits(name: str) -> None:
    model, images = trained(name)
    network, pixels = known(name)
    with torch.no_grad():
        expected = model.double()(images.double()).numpy()
    model.float()
    assert np.abs(network.logits(pixels) - expected).max() < 1e-9 * np.abs(expected).max()


def test_folding_uses_training_statistics() -> None:
    model, images = trained("small")
    network, pixels = known("small")
    single = [network.logits(one[None])[0] for one in pixels[:5]]
    assert np.allclose(single, network.logits(pixels)[:5], rtol=1e-12)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    extract_polynomial_network(model, images.shape[1:])
    assert all(torch.equal(value, dict(model.named_buffers())[name]) for name, value in statistics.items())


def test_support_depends_on_architecture_only() -> None:
    model = SquareCnn(CONTRACT.shape, len(CONTRACT.classes), torch.Generator().manual_seed(0))
    before = extract_polynomial_network(model, (1, 28, 28))
    nn.init.zeros_(model[1].weight)
    after = extract_polynomial_network(model, (1, 28, 28))
    for one, other in zip(before.layers, after.layers, strict=True):
        assert (one.support == other.support).all()
    taps = before.layers[0].support.sum(axis=1)
    assert set(taps) == {64}
    assert before.layers[0].weights.shape == (245, 784)
    # A border of one pixel is outside the support, so it is not sent.
    inside = np.arange(784).reshape(28, 28)[1:-1, 1:-1]
    assert (before.pixels == inside.ravel()).all()
    assert before.layers[1].support.all() and before.layers[2].weights.shape == (10, 64)


@pytest.mark.parametrize("name", sorted(set(fitting_models(CONTRACT)) - {"resnet18"}))
def test_other_models_are_refused(name: str) -> None:
    model = build_model(name, CONTRACT, torch.Generator())
    if MODELS[name].polynomial:
        assert len(extract_polynomial_network(model, (1, 28, 28)).layers) in (1, 3)
    else:
        with pytest.raises(TypeError, match=r"(Tanh|GroupNorm) is neither affine nor a square"):
            extract_polynomial_network(model, (1, 28, 28))
