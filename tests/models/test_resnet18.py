"""The ResNet18 against torchvision's and Opacus' validator."""

from __future__ import annotations

import pytest
import torch
from opacus.validators import ModuleValidator
from safetensors.torch import load, save
from torch import nn
from torchvision.models import resnet18

from ppml.models.resnet18 import ResNet18

from ..learning.clipping.oracle import check_sums
from ..learning.digits import digits, vector


def make(seed: int = 0, classes: int = 10) -> ResNet18:
    return ResNet18((1, 28, 28), classes, torch.Generator().manual_seed(seed))


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


def test_model_has_stated_parameters_and_no_buffer(reference: nn.Module) -> None:
    model = make()
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_175_370
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not list(model.buffers()), "a buffer is a statistic of the examples without noise"
    assert make(classes=2)(images(3)).shape == (3, 2)


def test_opacus_validator_accepts_model_without_inplace_layers() -> None:
    model = make()
    assert ModuleValidator.validate(model, strict=False) == []
    assert not [module for module in model.modules() if getattr(module, "inplace", False)]


def test_weights_depend_on_generator_only() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = make(7)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is used"
    torch.manual_seed(2)
    assert torch.equal(vector(first), vector(make(7)))
    assert not torch.equal(vector(first), vector(make(8)))


def test_weights_have_distribution_of_torchvision(reference: nn.Module) -> None:
    fresh = dict(resnet18(num_classes=10).named_parameters())
    for name, ours in make().named_parameters():
        if ours.dim() == 1 and not name.startswith("fc"):
            assert torch.equal(ours, torch.ones_like(ours) if name.endswith("weight") else torch.zeros_like(ours))
        elif ours.numel() > 1000:
            assert ours.std().item() == pytest.approx(fresh[name].std().item(), rel=0.06), name
    assert make().fc.bias.abs().max() <= 512**-0.5


def test_weights_survive_file_of_run() -> None:
    model, other = make(0), make(1)
    other.load_state_dict(load(save({name: value.contiguous() for name, value in model.state_dict().items()})))
    assert torch.equal(vector(model), vector(other))


def test_gradients_are_clipped_per_example() -> None:
    check_sums(make(), images(3))
