import torch
from torch.nn import functional

from ppml.learning.loss import cross_entropies


def test_example_loss_is_cross_entropy():
    outputs, labels = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 4
    assert torch.equal(cross_entropies(outputs, labels), functional.cross_entropy(outputs, labels, reduction="none"))


def test_loss_of_copies_is_mean():
    outputs, labels = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    each = torch.stack([cross_entropies(outputs[:, copy], labels) for copy in range(3)])
    assert torch.allclose(cross_entropies(outputs, labels), each.mean(dim=0))
