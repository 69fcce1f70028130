"""A check that a model computes each example of a batch independently.

A clipped gradient bounds the influence of one example only if no other example's gradient depends on it. Layer types do
not prove this: a forward function may subtract the mean of the batch, sort it, or use row numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ppml.learning.clipping import UnsupportedLayer
from ppml.learning.clipping.layers import trainable_layers
from ppml.learning.loss import per_example_losses

COUNT = 4
"""Number of synthetic examples."""

TOLERANCE = 1e-3
"""Largest relative float32 difference between two losses of one example in different batches."""

REMEDY = "compute the output of each example from that example alone, as GroupNorm and LayerNorm do"

_passed: WeakKeyDictionary[nn.Module, set[tuple[int, ...]]] = WeakKeyDictionary()
"""Checked models, with the shapes of their examples."""


def check_batch_independence(model: nn.Module, images: torch.Tensor) -> None:
    """Check a model before training with clipped gradients, once per example shape.

    The check uses a copy of the model and a few synthetic examples. ``images`` gives shape, type and device; its values
    are not read. The gradient of an example's loss at another example must be exactly 0. The loss must stay the same in
    a second pass, with other examples in the batch, and with fewer. The check misses a forward function that mixes
    examples only at certain values.

    Parameters
    ----------
    model : nn.Module
        Its weights, buffers and gradients do not change, nor do torch's global generators.
    images : torch.Tensor
        Training data, shape ``(n, ...)``.

    Raises
    ------
    UnsupportedLayer
        A layer has no per-example clipping, or the model mixes examples; the message names the failed check.
    """
    shape = tuple(images.shape[1:])
    if shape in _passed.get(model, ()):
        return
    trainable_layers(model)
    with _preserved_generators(images.device):
        found = _find_mixing(copy.deepcopy(model).train(), _synthetic_examples(images))
    if found:
        raise UnsupportedLayer(f"model {type(model).__name__} {found}; {REMEDY}")
    _passed.setdefault(model, set()).add(shape)


def _synthetic_examples(images: torch.Tensor) -> torch.Tensor:
    """Return examples of the shape and type of ``images`` with values in [0, 1), which are also valid indices."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand((2 * COUNT, *images.shape[1:]), generator=generator)
    return drawn.to(images.device, images.dtype)


def _find_mixing(model: nn.Module, synthetic: torch.Tensor) -> str | None:
    """Return a description of the dependence between examples; None if there is none."""
    examples, others = synthetic.split(COUNT)
    with torch.no_grad():
        classes = model(examples).shape[-1]
    labels = torch.arange(COUNT, device=examples.device) % classes
    examples.requires_grad_(examples.is_floating_point())
    losses = per_example_losses(model, examples, labels)
    for own in range(COUNT if losses.requires_grad and examples.requires_grad else 0):
        (gradient,) = torch.autograd.grad(losses[own], examples, retain_graph=True, allow_unused=True)
        if gradient is not None and any(gradient[other].any() for other in range(COUNT) if other != own):
            return "mixes the examples of a batch: the loss of one has a gradient at another"
    losses, examples = losses.detach(), examples.detach()
    with torch.no_grad():
        if not _close(per_example_losses(model, examples, labels), losses):
            return "gives an example another loss in a second pass: its forward function is random or has a state"
        for own in range(COUNT):
            beside = torch.cat([others[:own], examples[own : own + 1], others[own + 1 :]])
            if not _close(per_example_losses(model, beside, labels)[own], losses[own]):
                return "mixes the examples of a batch: the loss of one differs with the others"
            single = per_example_losses(model, examples[own : own + 1], labels[own : own + 1])[0]
            if not _close(single, losses[own]):
                return "mixes the examples of a batch: the loss of one differs with their number or its position"
    return None


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


@contextmanager
def _preserved_generators(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
