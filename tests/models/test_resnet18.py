"""The ResNet18 against torchvision's and Opacus' validator."""

from __future__ import annotations

import pytest
import torch
from opacus.validators import ModuleValidator
from torch import nn
from torchvision.models import resnet18

from ppml.models.resnet18 import ResNet18

from ..learning.clipping.oracle import check_sums
from ..learning.digits import digits


def make() -> ResNet18:
    return ResNet18((1, 28, 28), 10, torch.Generator().manual_seed(0))


def images(count: int) -> torch.Tensor:
    return digits()[1].inputs[:count]


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """Return torchvision's network with the first layer of the paper, after Opacus' validator."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    fixed: nn.Module = ModuleValidator.fix(model)
    return fixed


def test_model_equals_torchvision_after_opacus_validator(reference: nn.Module) -> None:
    ours = make()
    reference.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images(5)), reference(images(5)))


def test_opacus_validator_accepts_model_without_inplace_layers() -> None:
    model = make()
    assert ModuleValidator.validate(model, strict=False) == []
    assert not [module for module in model.modules() if getattr(module, "inplace", False)]


def test_weights_have_distribution_of_torchvision(reference: nn.Module) -> None:
    fresh = dict(resnet18(num_classes=10).named_parameters())
    for name, ours in make().named_parameters():
        if ours.dim() == 1 and not name.startswith("fc"):
            assert torch.equal(ours, torch.ones_like(ours) if name.endswith("weight") else torch.zeros_like(ours))
        elif ours.numel() > 1000:
            assert ours.std().item() == pytest.approx(fresh[name].std().item(), rel=0.06), name
    assert make().fc.bias.abs().max() <= 512**-0.5


def test_gradients_are_clipped_per_example() -> None:
    check_sums(make(), images(3))
