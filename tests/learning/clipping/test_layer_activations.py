"""The sum of clipped gradients against its definition, for many layers, with planted faults."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from opacus.validators import ModuleValidator
from torch import nn

from ppml.learning.clipping import BookKeeping, UnsupportedLayer, layers
from ppml.learning.clipping import convolution as convolutions
from ppml.learning.clipping import gradient_factors as parts
from ppml.learning.clipping import layer_activations as bookkeeping
from ppml.learning.clipping.convolution import GramMatrices, as_convolution

from ..planted import unclipped
from .oracle import FORMS, check_sums, gradients, norms, seeded, squares


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.GroupNorm(3, 6),
        nn.Tanh(),
        nn.Conv2d(6, 4, 2, stride=2, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 9, 5),
    )


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
def test_sum_equals_definition(count, order):
    check_sums(small().to(memory_format=order), seeded(count, 2, 6, 6).to(memory_format=order))


# Planted faults.


def without_a_layer(all_parts, max_grad_norm, *, true=bookkeeping.clipping_factors):
    return true(all_parts[1:], max_grad_norm)


@pytest.mark.parametrize("faulty", [unclipped, without_a_layer])
def test_sum_check_detects_clipping_faults(faulty, monkeypatch):
    monkeypatch.setattr(bookkeeping, "clipping_factors", faulty)
    with pytest.raises(AssertionError):
        check_sums(small(), seeded(7, 2, 6, 6))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Linear, nn.GroupNorm])
def test_sum_check_detects_missing_bias(kind, monkeypatch):
    true = layers.GRADIENTS_BY_LAYER[kind]
    monkeypatch.setitem(layers.GRADIENTS_BY_LAYER, kind, lambda layer, *known: [*true(layer, *known)][:1])
    with pytest.raises(AssertionError):
        check_sums(small(), seeded(7, 2, 6, 6))


# Layers.


@st.composite
def convolution_layers(draw):
    groups = draw(st.integers(1, 3))
    sides = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, dilation = draw(sides), draw(st.sampled_from([1, 2, (1, 2)]))
    padding = draw(st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("same")))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, 3, (1, 2)]))
    layer = nn.Conv2d(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "circular", "replicate", "reflect"])),
    )
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    images = seeded(draw(st.integers(0, 3)), layer.in_channels, *draw(st.tuples(st.integers(1, 8), st.integers(1, 8))))
    try:
        layer(images)
    except RuntimeError:
        assume(False)
    return layer, images


@given(convolution_layers(), st.sampled_from([*FORMS.values(), convolutions.cheapest]), st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_convolutions_of_any_shape_in_any_form(drawn, form, sparse, last):
    layer, images = drawn
    order = torch.channels_last if last else torch.contiguous_format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolutions, "cheapest", form)
        patch.setattr(convolutions, "SPARSE_FRACTION", 2.0 if sparse else 0.0)
        # A gradient of a single value may be close to 0; float64 has enough digits.
        patch.setattr(parts, "CANCELLATION_FLOOR", 0.0)
        check_sums(layer.to(memory_format=order), images.to(memory_format=order))


@given(convolution_layers(), st.sampled_from([FORMS["patches"], FORMS["pixels"], convolutions.cheapest]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_float32_example_stays_within_clipping_norm(drawn, form):
    layer, images = drawn
    with pytest.MonkeyPatch.context() as patch, BookKeeping(layer) as keeping:
        patch.setattr(convolutions, "cheapest", form)
        for example in images.split(1) if len(images) else ():
            (row,) = gradients(layer, example)
            true = torch.cat([one.double().flatten() for one in row]).norm().item()
            for norm in (0.5 * true, 2.0 * true):
                keeping.clipped_gradient_sum(lambda example=example: squares(layer, example), 1, norm)
                clipped = torch.cat([one.grad.double().flatten() for one in layer.parameters()]).norm().item()
                assert clipped <= 1.001 * norm + 1e-6
                assert clipped <= 1.001 * true + 1e-6


def test_sum_check_detects_shifted_slices(monkeypatch):
    layer, images = nn.Conv2d(2, 8, 3, padding=1), seeded(5, 2, 4, 4)
    monkeypatch.setattr(convolutions, "cheapest", FORMS["pixels"])
    check_sums(layer, images)
    true = convolutions.Axis.taps
    monkeypatch.setattr(convolutions.Axis, "taps", lambda self: list(true(self))[1:])
    with pytest.raises(AssertionError):
        check_sums(layer, images)


@pytest.mark.parametrize("between", [(), (1,), (3,), (2, 3), (40,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_with_positions_and_copies(between, bias):
    check_sums(nn.Linear(4, 6, bias=bias), seeded(5, *between, 4))


@given(st.lists(st.integers(1, 4), max_size=2), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_linear_layers_of_any_shape(between, inputs, outputs, count, bias):
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "CANCELLATION_FLOOR", 0.0)
        check_sums(layer, seeded(count, *between, inputs))


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_group_normalisation_of_any_shape(groups, size, places, count):
    # Groups of one value have no deviation.
    assume(size > 1 or any(place > 1 for place in places))
    layer = nn.GroupNorm(groups, groups * size)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    check_sums(layer, seeded(count, groups * size, *places))


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    st.integers(0, 3),
    st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_embeddings_of_any_shape(rows, columns, places, count, data):
    layer = nn.Embedding(rows, columns, padding_idx=data.draw(st.one_of(st.none(), st.integers(0, rows - 1))))
    size = [count, *places]
    indices = torch.randint(rows, size, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "CANCELLATION_FLOOR", 0.0)
        check_sums(layer, indices)


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (4, 2, 3, 6)])
def test_layer_normalisation(shape):
    check_sums(nn.LayerNorm(shape[-1]), seeded(*shape))


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embeddings_with_repeated_rows(padding_idx):
    torch.manual_seed(0)
    check_sums(nn.Embedding(4, 3, padding_idx=padding_idx), torch.tensor([[0, 1, 1], [2, 2, 2], [3, 0, 3]]))


# Cancellation.


def test_example_with_cancelling_terms_is_clipped():
    """Use a constant image and alternating output gradients: float32 has no correct digit of the small norm."""
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    images = torch.full((1, 64, 7, 7), 1e3) + 1e-3 * seeded(1, 64, 7, 7)
    signs = (torch.arange(49) % 2 * 2.0 - 1.0).view(1, 1, 7, 7) * 1e3
    outputs = signs.expand(1, 64, 7, 7).clone()
    outputs[..., 0] = outputs[..., -1] = outputs[..., 0, :] = outputs[..., -1, :] = outputs[..., 3, 3] = 0.0
    (part,) = convolutions.convolution_gradients(layer, images, outputs)
    assert isinstance(part, GramMatrices)
    exact = as_convolution(layer, images.double(), outputs.double()).materialize().squared_norms()
    assert part.squared_norms() >= 0.998 * exact
    scale = images.double().square().sum() * outputs.double().square().sum()
    assert exact < parts.CANCELLATION_FLOOR * scale, "the digits are not lost here"


# Ignored and unsupported layers.


def test_frozen_and_unused_layers_are_supported():
    model = small()
    model[0].requires_grad_(False)
    model[5].bias.requires_grad_(False)
    check_sums(model, seeded(7, 2, 6, 6))
    assert model[0].weight.grad is None
    assert model[5].bias.grad is None
    model.unused = nn.Linear(2, 2)
    check_sums(nn.Sequential(*model[:6]), seeded(7, 2, 6, 6))

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.used(inputs)

    check_sums(Half(), seeded(5, 4))


def test_in_place_activation_changes_nothing():
    torch.manual_seed(0)
    check_sums(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)),
        seeded(5, 1, 6, 6),
    )


def test_shared_gradient_memory_is_scaled_once():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, inputs):
            return self.left(inputs) + self.right(inputs)

    check_sums(Residual(), seeded(6, 4))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.inner(self.inner(inputs))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Scaled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


frozen = nn.BatchNorm2d(4).requires_grad_(False)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.BatchNorm2d(4), r"1 \(BatchNorm2d\) mixes .* GroupNorm"),
        (frozen, r"1 \(BatchNorm2d\) mixes"),
        (nn.BatchNorm2d(4, affine=False), r"1 \(BatchNorm2d\) mixes"),
        (nn.InstanceNorm2d(4, track_running_stats=True), r"1 \(InstanceNorm2d\) keeps statistics"),
        (nn.LSTM(4, 4), r"1 \(LSTM\)"),
        (nn.Conv1d(4, 4, 1), r"1 \(Conv1d\) has parameters .* build it from Conv2d, Linear"),
        (Own(), r"1 \(Own\) has parameters"),
        (Scaled(4, 4), r"1 \(Scaled\) has parameters"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), r"\(ParametrizedLinear\)|\(ParametrizationList\)|1"),
        (Tied(), r"1\.second \(Linear\) shares weight with 1\.first"),
        (nn.Embedding(4, 4, max_norm=1.0), r"1 \(Embedding\) .* max_norm"),
    ],
)
def test_unsupported_layer_is_named(layer, says):
    with pytest.raises(UnsupportedLayer, match=says):
        BookKeeping(nn.Sequential(nn.Linear(4, 4), layer))


def test_model_fixed_by_opacus_is_supported():
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32))
    BookKeeping(ModuleValidator.fix(model))


def test_layer_used_twice_is_refused():
    model = Twice()
    with BookKeeping(model) as keeping, pytest.raises(UnsupportedLayer, match=r"inner \(Linear\) is used twice"):
        keeping.clipped_gradient_sum(lambda: squares(model, seeded(3, 4)), 3, 1.0)


def test_other_batch_dimension_is_refused():
    model = nn.Linear(4, 1)
    with BookKeeping(model) as keeping, pytest.raises(UnsupportedLayer, match="6 inputs for 3 losses"):
        keeping.clipped_gradient_sum(lambda: model(seeded(6, 4)).view(3, 2).sum(1), 3, 1.0)


def test_model_keeps_no_hooks():
    model = small()
    with BookKeeping(model) as keeping:
        keeping.clipped_gradient_sum(lambda: squares(model, seeded(3, 2, 6, 6)), 3, 1.0)
        assert not keeping._activations
    assert not any(module._forward_hooks for module in model.modules())


# Opacus' ghost clipping with these norms.


def test_opacus_uses_convolution_norms():
    model, images = small().double(), seeded(4, 2, 6, 6).double()
    rows, found = gradients(model, images), {}

    def listen(layer, inputs, output):
        output.register_hook(lambda gradient: found.update(layers.norm_sampler(layer, [inputs[0].detach()], gradient)))

    for layer in (model[0], model[3]):
        layer.register_forward_hook(listen)
    squares(model, images).sum().backward()
    for number, parameter in enumerate(model.parameters()):
        if parameter in found:
            assert torch.allclose(found[parameter], norms([[row[number]] for row in rows]), rtol=1e-9)
    assert len(found) == 3
