"""The check that a model treats the examples of a batch apart, whatever its forward function does.

A clipped gradient bounds the influence of one example only if no other example's gradient depends on it. The kinds of
the layers do not tell that: a forward function may subtract the mean of the batch, sort it, or number its rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ppml.learning.clipping import UnsupportedLayer
from ppml.learning.clipping.layers import trained_layers
from ppml.learning.loss import losses_of

COUNT = 4
"""Made-up examples."""

TOLERANCE = 1e-3
"""Relative difference of two losses of one example that float32 explains in batches of different examples."""

REMEDY = "compute the output of each example from that example alone, as GroupNorm and LayerNorm do"

_passed: WeakKeyDictionary[nn.Module, set[tuple[int, ...]]] = WeakKeyDictionary()
"""Models that were found to treat examples apart, with the shapes of these."""


def refuse_mixing(model: nn.Module, images: torch.Tensor) -> None:
    """Check a model before it is trained with clipped gradients, once for each shape of an example.

    The check is made on a copy of the model, on a few made-up examples: ``images`` lends shape, type and device, and no
    value is read. The gradient of an example's loss at another example must be exactly 0. The loss must be the same in
    a second pass, with other examples beside it, and with fewer. A forward function that mixes examples only at certain
    values may pass.

    Parameters
    ----------
    model : nn.Module
        Neither its weights, buffers and gradients nor torch's global generators change.
    images : torch.Tensor
        What it is trained on, shape ``(n, ...)``.

    Raises
    ------
    UnsupportedLayer
        A layer cannot be clipped for each example, or the model mixes examples; the message says how that shows.
    """
    shape = tuple(images.shape[1:])
    if shape in _passed.get(model, ()):
        return
    trained_layers(model)
    with _generators_untouched(images.device):
        found = _mixing(copy.deepcopy(model).train(), _made_up(images))
    if found:
        raise UnsupportedLayer(f"model {type(model).__name__} {found}; {REMEDY}")
    _passed.setdefault(model, set()).add(shape)


def _made_up(images: torch.Tensor) -> torch.Tensor:
    """Return examples of the shape and type of ``images`` with values in [0, 1), which are indices, too."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand((2 * COUNT, *images.shape[1:]), generator=generator)
    return drawn.to(images.device, images.dtype)


def _mixing(model: nn.Module, made_up: torch.Tensor) -> str | None:
    """Return in which way the loss of an example is that of others, too; None where it is its own."""
    examples, others = made_up.split(COUNT)
    with torch.no_grad():
        classes = model(examples).shape[-1]
    labels = torch.arange(COUNT, device=examples.device) % classes
    examples.requires_grad_(examples.is_floating_point())
    losses = losses_of(model, examples, labels)
    for own in range(COUNT if losses.requires_grad and examples.requires_grad else 0):
        (gradient,) = torch.autograd.grad(losses[own], examples, retain_graph=True, allow_unused=True)
        if gradient is not None and any(gradient[other].any() for other in range(COUNT) if other != own):
            return "mixes the examples of a batch: the loss of one has a gradient at another"
    losses, examples = losses.detach(), examples.detach()
    with torch.no_grad():
        if not _close(losses_of(model, examples, labels), losses):
            return "gives an example another loss in a second pass: its forward function draws or remembers values"
        for own in range(COUNT):
            beside = torch.cat([others[:own], examples[own : own + 1], others[own + 1 :]])
            if not _close(losses_of(model, beside, labels)[own], losses[own]):
                return "mixes the examples of a batch: the loss of one differs with the others"
            alone = losses_of(model, examples[own : own + 1], labels[own : own + 1])[0]
            if not _close(alone, losses[own]):
                return "mixes the examples of a batch: the loss of one differs with their number or its place"
    return None


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


@contextmanager
def _generators_untouched(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
