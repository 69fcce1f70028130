from __future__ import annotations

import pytest
import torch
from torch import nn

from ppml.models.pooling import MaxOfFour


@pytest.mark.parametrize("shape", [(3, 2, 6, 5), (1, 1, 2, 2), (0, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels last"])
def test_gives_what_torch_gives_with_gradients_and_without(shape, layout):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    # Rounding makes equal neighbours, zeros of both signs among them; which zero is given is not said.
    values = values.contiguous(memory_format=layout)
    expected = nn.MaxPool2d(kernel_size=2, stride=1)(values)
    assert torch.equal(MaxOfFour()(values), expected)
    with torch.no_grad():
        assert torch.equal(MaxOfFour()(values), expected)


def test_what_is_not_a_number_stays_none():
    values = torch.zeros(1, 1, 3, 3)
    values[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        assert MaxOfFour()(values).isnan().tolist() == [[[[True, False], [False, False]]]]
