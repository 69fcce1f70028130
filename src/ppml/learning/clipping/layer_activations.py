"""The pass over a model that gives the sum of clipped gradients."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ppml.learning.clipping.gradient_factors import Part
from ppml.learning.clipping.layers import PARTS, UnsupportedLayer, trained_layers
from ppml.learning.clipping.normalisation import Moments

VALUES_AT_ONCE = 1 << 20
"""Inputs of layers that are worked on together: with what is made of them they stay in the cache of a core."""

LEAST_AT_ONCE = 128
"""Examples that are worked on together however large the model is, since each pass reads and writes its weights."""

MOST_AT_ONCE = 1024
"""Examples that are worked on together at most: a float32 sum of so many stays within the margin of the noise."""


class Record(NamedTuple):
    """What a layer took in, that tensor's version, and where the gradient of what it gave out will be.

    ``known`` is what the layer computed on the way and its gradients need again.
    """

    inputs: torch.Tensor
    version: int
    output: GradientEdge
    known: tuple[Moments, ...]


class BookKeeping:
    """Sums of clipped per-example gradients of a model, while entered as a context.

    The model is not wrapped and its parameters are not touched except for ``grad``. Parameters that need no gradient
    are left alone. A layer may be used once in a forward pass; one that is not used has a gradient of zero.

    Parameters
    ----------
    model : nn.Module
        Its layers must treat the examples of a batch apart, and have them along the first dimension.

    Raises
    ------
    UnsupportedLayer
        Of a layer, the message says which, no gradient can be clipped for each example.

    Examples
    --------
    >>> model, images = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    >>> with BookKeeping(model) as keeping:
    ...     losses = keeping.sum_clipped(lambda: model(images)[:, 0], len(images), max_grad_norm=1.0)
    >>> model.weight.grad
    tensor([[0.6000, 1.3000]])
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = trained_layers(model)
        self._parameters = [one for one in model.parameters() if one.requires_grad]
        self._records: dict[str, Record] = {}
        self.examples_at_once = LEAST_AT_ONCE
        """How many examples one pass should have; known better after the first, and by shapes alone."""
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BookKeeping:
        """Start to listen to the layers."""
        for path, layer in self._layers.items():
            self._hooks.append(layer.register_forward_hook(self._listener(path)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to listen, and forget what was heard."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._records.clear()

    def _listener(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def listen(layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            if not output.requires_grad:
                return
            if path in self._records:
                raise UnsupportedLayer(
                    f"layer {path} ({type(layer).__name__}) is used twice in one forward pass; use two layers"
                )
            # The edge and not the tensor, which a later layer may change in place.
            edge = get_gradient_edge(output)
            self._records[path] = Record(inputs[0].detach(), inputs[0]._version, edge, saved_moments(edge))

        return listen

    def sum_clipped(self, losses: Callable[[], torch.Tensor], count: int, max_grad_norm: float) -> torch.Tensor:
        """Set ``grad`` of each parameter to the sum of the examples' gradients, each clipped to ``max_grad_norm``.

        Parameters
        ----------
        losses : callable
            Does the forward pass and returns the loss of each example, shape ``(count,)``; called if there are any.
        count : int
            Number of examples; 0 gives sums of zero.
        max_grad_norm : float
            An example's gradient, of all layers together, is multiplied by ``min(1, max_grad_norm / (norm + 1e-6))``.
            In float32 its norm is then at most ``max_grad_norm`` but for rounding: by .1 % at worst, where the terms of
            a Gram matrix cancel (:data:`~ppml.learning.clipping.gradient_factors.LEAST_SHARE`).
            An example whose loss, or the norm
            of whose gradient, is not finite contributes 0: nothing tells that there was one.

        Returns
        -------
        torch.Tensor
            The losses, detached.
        """
        self._records.clear()
        value = losses() if count else torch.zeros(0)
        self._set_gradients(self._parts(value) if count else [], value.detach(), max_grad_norm)
        return value.detach()

    @torch.no_grad()
    def _set_gradients(self, parts: list[Part], losses: torch.Tensor, max_grad_norm: float) -> None:
        factors = clipping_factors(parts, max_grad_norm) if parts else torch.zeros(0)
        kept = (factors > 0) & losses.isfinite() if parts else torch.ones(0, dtype=torch.bool)
        if not kept.all():
            factors = torch.where(kept, factors, 0.0)
            parts = [part.only(kept) for part in parts]
        sums = {}
        while parts:
            # One after the other is forgotten, so that memory falls while gradients come.
            part = parts.pop()
            sums[part.parameter] = part.weighted_sum(factors)
        for parameter in self._parameters:
            # What no loss depends on has a gradient of zero.
            parameter.grad = in_order_of(
                parameter, sums.pop(parameter) if parameter in sums else torch.zeros_like(parameter)
            )

    def _parts(self, losses: torch.Tensor) -> list[Part]:
        """Return the gradients of all parameters, in whatever form, and forget what the layers said."""
        records, self._records = self._records, {}
        edges = [record.output for record in records.values()]
        gradients = torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ()
        values = sum(record.inputs[0].numel() for record in records.values())
        self.examples_at_once = min(MOST_AT_ONCE, max(LEAST_AT_ONCE, VALUES_AT_ONCE // max(1, values)))
        parts: list[Part] = []
        with torch.no_grad():
            for (path, record), gradient in zip(records.items(), gradients, strict=True):
                if gradient is None:
                    continue
                layer = self._layers[path]
                described = f"layer {path} ({type(layer).__name__})"
                if record.inputs._version != record.version:
                    raise UnsupportedLayer(f"what {described} took in was changed in place; set inplace=False after it")
                if len(record.inputs) != len(losses):
                    raise UnsupportedLayer(
                        f"{described} took in {len(record.inputs)} examples, and there are {len(losses)} losses"
                    )
                parts.extend(PARTS[type(layer)](layer, record.inputs, gradient, *record.known))
        return parts


def saved_moments(output: GradientEdge) -> tuple[Moments, ...]:
    """Return the moments that group normalisation has kept for its backward pass; nothing of other layers."""
    node: Any = output.node
    return ((node._saved_result1, node._saved_result2),) if node.name() == "NativeGroupNormBackward0" else ()


def in_order_of(parameter: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
    """Return ``gradient`` with the strides of ``parameter``."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def clipping_factors(parts: list[Part], max_grad_norm: float) -> torch.Tensor:
    """Return what each example's gradient is multiplied by, shape ``(n,)``, as Opacus does.

    The factor of a gradient whose norm is not finite is 0 or not a number.
    """
    norms = torch.stack([part.squared_norms() for part in parts]).sum(0).sqrt()
    return (max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
