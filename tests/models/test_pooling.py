from __future__ import annotations

import pytest
import torch
from torch import nn

from ppml.models.pooling import MaxPool2x2


@pytest.mark.parametrize("shape", [(3, 2, 6, 5), (1, 1, 2, 2), (0, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["planes", "channels last"])
def test_pooling_equals_torch_with_gradients_and_without(shape, layout):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    # Rounding makes equal neighbours, zeros of both signs among them; the sign of a zero is not compared.
    values = values.contiguous(memory_format=layout)
    expected = nn.MaxPool2d(kernel_size=2, stride=1)(values)
    assert torch.equal(MaxPool2x2()(values), expected)
    with torch.no_grad():
        assert torch.equal(MaxPool2x2()(values), expected)


def test_nan_stays_nan():
    values = torch.zeros(1, 1, 3, 3)
    values[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        assert MaxPool2x2()(values).isnan().tolist() == [[[[True, False], [False, False]]]]
