"""The linear model on features."""

import torch

from ppml.models.registry import build_model

from ..learning.digits import CONTRACT


def test_linear_model_maps_features_of_copies_to_logits_and_starts_at_zero():
    state = torch.get_rng_state()
    model = build_model("linear", CONTRACT.features(21), torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    (weight,) = model.parameters()
    assert weight.shape == (10, 21) and not weight.any()
    assert model(torch.ones(4, 3, 21)).shape == (4, 3, 10) and model(torch.ones(4, 21)).shape == (4, 10)
