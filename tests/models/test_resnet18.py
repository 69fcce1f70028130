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


def made(seed: int = 0, classes: int = 10) -> ResNet18:
    return ResNet18(classes, torch.Generator().manual_seed(seed))


def images(count: int) -> torch.Tensor:
    return digits()[1].images[:count]


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """Return the network as the paper makes it: torchvision's, its first layer replaced, then Opacus' validator."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    fixed: nn.Module = ModuleValidator.fix(model)
    return fixed


def test_it_computes_what_torchvisions_network_computes_after_opacus_validator(theirs: nn.Module) -> None:
    ours = made()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images(5)), theirs(images(5)))


def test_it_has_as_many_parameters_as_stated_and_no_buffer(theirs: nn.Module) -> None:
    model = made()
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_175_370
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not list(model.buffers()), "a buffer would be a statistic of the records that no noise covers"
    assert made(classes=2)(images(3)).shape == (3, 2)


def test_opacus_finds_nothing_that_privacy_forbids_and_nothing_works_in_place() -> None:
    model = made()
    assert ModuleValidator.validate(model, strict=False) == []
    assert not [module for module in model.modules() if getattr(module, "inplace", False)]


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = made(7)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was used"
    torch.manual_seed(2)
    assert torch.equal(vector(first), vector(made(7)))
    assert not torch.equal(vector(first), vector(made(8)))


def test_weights_are_drawn_as_torchvision_draws_them(theirs: nn.Module) -> None:
    fresh = dict(resnet18(num_classes=10).named_parameters())
    for name, ours in made().named_parameters():
        if ours.dim() == 1 and not name.startswith("fc"):
            assert torch.equal(ours, torch.ones_like(ours) if name.endswith("weight") else torch.zeros_like(ours))
        elif ours.numel() > 1000:
            assert ours.std().item() == pytest.approx(fresh[name].std().item(), rel=0.06), name
    assert made().fc.bias.abs().max() <= 512**-0.5


def test_weights_survive_the_file_that_a_run_leaves() -> None:
    model, other = made(0), made(1)
    other.load_state_dict(load(save({name: value.contiguous() for name, value in model.state_dict().items()})))
    assert torch.equal(vector(model), vector(other))


def test_its_gradients_are_clipped_example_by_example() -> None:
    check_sums(made(), images(3))
