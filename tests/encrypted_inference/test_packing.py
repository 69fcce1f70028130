"""Slots: the server's operations for a single image, applied to arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from ppml.encrypted_inference.ckks_noise import CkksNoise
from ppml.encrypted_inference.ckks_parameters import Ring
from ppml.encrypted_inference.network import Affine, PolynomialNetwork, Values
from ppml.encrypted_inference.packing import ColumnPacking, InputPacking, Layout, RowPacking, tile
from ppml.encrypted_inference.slot_error import predict_slots

SLOTS = 512


def dense(outputs: int, inputs: int, rng: np.random.Generator, support: float = 1.0) -> Affine:
    mask = rng.random((outputs, inputs)) < support
    mask[:, 0] = True
    return Affine(rng.normal(size=(outputs, inputs)) * mask, rng.normal(size=outputs), mask)


def network(*sizes: int, support: float = 1.0) -> PolynomialNetwork:
    rng = np.random.default_rng(sum(sizes))
    layers = [dense(sizes[1], sizes[0], rng, support)]
    layers += [dense(after, before, rng) for before, after in pairwise(sizes[1:])]
    return PolynomialNetwork(tuple(layers))


@dataclass(frozen=True)
class SmallRing(Ring):
    """A ring with few slots, without encryption."""

    @property
    def degree(self) -> int:
        return 2 * SLOTS


def predict(network: PolynomialNetwork, image: Values) -> tuple[Values, Layout]:
    """Return all final slots, and the layout."""
    layout = Layout.of(network, SLOTS)
    return predict_slots(network, layout, CkksNoise(SmallRing(len(network.layers))), image).values, layout


@pytest.mark.parametrize(
    "sizes",
    [(20, 10), (64, 40, 20, 10), (30, 100, 17, 9), (9, 5, 3, 4), (50, 64, 33, 8), (9, 8, 8, 8, 8, 3)],
)
@pytest.mark.parametrize("support", [1.0, 0.3])
def test_final_slots_are_logits(sizes: tuple[int, ...], support: float) -> None:
    net = network(*sizes, support=support)
    image = np.random.default_rng(1).normal(size=sizes[0])
    slots, _ = predict(net, image)
    assert np.allclose(slots[: sizes[-1]], net.logits(image[None])[0])


@pytest.mark.parametrize("sizes", [(20, 10), (64, 40, 20, 10)])
def test_other_slots_are_logits_or_0(sizes: tuple[int, ...]) -> None:
    net = network(*sizes)
    image = np.random.default_rng(1).normal(size=sizes[0])
    slots, layout = predict(net, image)
    period = layout.input_packing.period
    if layout.maps:
        assert isinstance(layout.maps[-1], ColumnPacking)
        period = layout.maps[-1].width
    assert np.allclose(slots, tile(net.logits(image[None])[0], period, SLOTS))


def test_square_cnn_uses_four_ciphertexts_and_few_rotations() -> None:
    from .networks import known

    layout = Layout.of(known("square_cnn")[0], 4096)
    assert layout.input_packing.index.shape == (4, 4096) and layout.input_packing.period == 256
    rows, columns = layout.maps
    assert isinstance(rows, RowPacking) and rows.rotations() == [0, 64, 128, 192]
    assert isinstance(columns, ColumnPacking) and columns.width == 64
    assert list(layout.required_rotations()) == [-1, 1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 512, 1024, 2048]


def test_packing_contains_each_input_of_an_output_once() -> None:
    support = network(30, 6, support=0.4).layers[0].support
    input_packing = InputPacking.of(support, 64)
    for output, row in enumerate(support):
        pixels = input_packing.index[:, output :: input_packing.period].ravel()
        assert sorted(pixels[pixels >= 0]) == list(np.flatnonzero(row))
    assert (input_packing.index[:, len(support) :: input_packing.period] == -1).all()


def test_even_number_of_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="2 maps: an odd number is needed"):
        Layout.of(network(64, 16, 10), SLOTS)


def test_too_wide_map_is_refused() -> None:
    with pytest.raises(ValueError, match="map 3 has 128 outputs, and a row 8 slots"):
        Layout.of(network(9, 64, 64, 100), SLOTS)
