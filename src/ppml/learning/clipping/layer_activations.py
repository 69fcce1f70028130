"""One pass over a model that computes the sum of clipped gradients."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ppml.learning.clipping.gradient_factors import PerExampleGradient
from ppml.learning.clipping.layers import GRADIENTS_BY_LAYER, UnsupportedLayer, trainable_layers
from ppml.learning.clipping.normalisation import Moments

VALUES_PER_PASS = 1 << 20
"""Layer inputs per pass: these and their intermediate results stay in the cache of a core."""

MIN_EXAMPLES_PER_PASS = 128
"""Lower limit of examples per pass, also for large models, since each pass reads and writes the weights."""

MAX_EXAMPLES_PER_PASS = 1024
"""Upper limit of examples per pass: the error of a float32 sum of so many stays within the clipping margin."""


class LayerActivation(NamedTuple):
    """The input of a layer, the version of that tensor, and the graph edge of the output's gradient.

    ``moments`` are intermediate results of the forward pass that the gradients need again.
    """

    inputs: torch.Tensor
    version: int
    output: GradientEdge
    moments: tuple[Moments, ...]


class BookKeeping:
    """A context that computes sums of clipped per-example gradients of a model.

    It does not wrap the model, and of the parameters it changes only ``grad``. Frozen parameters keep theirs. A forward
    pass may use a layer once; an unused layer has a gradient of zero.

    Parameters
    ----------
    model : nn.Module
        Its layers must compute each example independently, with examples along the first dimension.

    Raises
    ------
    UnsupportedLayer
        A layer, named in the message, has no per-example clipping.

    Examples
    --------
    >>> model, images = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    >>> with BookKeeping(model) as bookkeeping:
    ...     losses = bookkeeping.clipped_gradient_sum(lambda: model(images)[:, 0], len(images), max_grad_norm=1.0)
    >>> model.weight.grad
    tensor([[0.6000, 1.3000]])
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = trainable_layers(model)
        self._parameters = [one for one in model.parameters() if one.requires_grad]
        self._activations: dict[str, LayerActivation] = {}
        self.examples_per_pass = MIN_EXAMPLES_PER_PASS
        """Recommended examples per pass; updated after the first pass, and a function of shapes only."""
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BookKeeping:
        """Register forward hooks on the layers."""
        for path, layer in self._layers.items():
            self._hooks.append(layer.register_forward_hook(self._hook(path)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks and the stored activations."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._activations.clear()

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def store_activation(layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            if not output.requires_grad:
                return
            if path in self._activations:
                raise UnsupportedLayer(
                    f"layer {path} ({type(layer).__name__}) is used twice in one forward pass; use two layers"
                )
            # Store the edge instead of the tensor, which a later layer may change in place.
            edge = get_gradient_edge(output)
            self._activations[path] = LayerActivation(inputs[0].detach(), inputs[0]._version, edge, saved_moments(edge))

        return store_activation

    def clipped_gradient_sum(
        self, losses: Callable[[], torch.Tensor], count: int, max_grad_norm: float
    ) -> torch.Tensor:
        """Set ``grad`` of each parameter to the sum of the examples' gradients, each clipped to ``max_grad_norm``.

        Parameters
        ----------
        losses : callable
            Does the forward pass and returns the loss of each example, shape ``(count,)``; not called for ``count`` 0.
        count : int
            Number of examples; 0 gives sums of zero.
        max_grad_norm : float
            An example's gradient, over all layers, is multiplied by ``min(1, max_grad_norm / (norm + 1e-6))``. In
            float32 its norm exceeds ``max_grad_norm`` by at most .1 %, if the terms of a Gram matrix cancel
            (:data:`~ppml.learning.clipping.gradient_factors.CANCELLATION_FLOOR`). An example whose loss or gradient
            norm is not finite contributes 0, without a message.

        Returns
        -------
        torch.Tensor
            The losses, detached.
        """
        self._activations.clear()
        value = losses() if count else torch.zeros(0)
        self._set_gradients(self._gradients(value) if count else [], value.detach(), max_grad_norm)
        return value.detach()

    @torch.no_grad()
    def _set_gradients(self, gradients: list[PerExampleGradient], losses: torch.Tensor, max_grad_norm: float) -> None:
        factors = clipping_factors(gradients, max_grad_norm) if gradients else torch.zeros(0)
        kept = (factors > 0) & losses.isfinite() if gradients else torch.ones(0, dtype=torch.bool)
        if not kept.all():
            factors = torch.where(kept, factors, 0.0)
            gradients = [gradient.zero_except(kept) for gradient in gradients]
        sums = {}
        while gradients:
            # Release each factored form after its sum, to limit memory.
            gradient = gradients.pop()
            sums[gradient.parameter] = gradient.weighted_sum(factors)
        for parameter in self._parameters:
            # A parameter without an effect on the losses has a gradient of zero.
            parameter.grad = match_strides(
                parameter, sums.pop(parameter) if parameter in sums else torch.zeros_like(parameter)
            )

    def _gradients(self, losses: torch.Tensor) -> list[PerExampleGradient]:
        """Return the per-example gradients of all parameters, and delete the stored activations."""
        activations, self._activations = self._activations, {}
        edges = [activation.output for activation in activations.values()]
        output_gradients = torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ()
        values = sum(activation.inputs[0].numel() for activation in activations.values())
        self.examples_per_pass = min(
            MAX_EXAMPLES_PER_PASS, max(MIN_EXAMPLES_PER_PASS, VALUES_PER_PASS // max(1, values))
        )
        gradients: list[PerExampleGradient] = []
        with torch.no_grad():
            for (path, activation), gradient in zip(activations.items(), output_gradients, strict=True):
                if gradient is None:
                    continue
                layer = self._layers[path]
                described = f"layer {path} ({type(layer).__name__})"
                if activation.inputs._version != activation.version:
                    raise UnsupportedLayer(f"the input of {described} was changed in place; set inplace=False after it")
                if len(activation.inputs) != len(losses):
                    raise UnsupportedLayer(f"{described} has {len(activation.inputs)} inputs for {len(losses)} losses")
                gradients.extend(
                    GRADIENTS_BY_LAYER[type(layer)](layer, activation.inputs, gradient, *activation.moments)
                )
        return gradients


def saved_moments(output: GradientEdge) -> tuple[Moments, ...]:
    """Return the moments that group normalisation stores for its backward pass; nothing for other layers."""
    node: Any = output.node
    return ((node._saved_result1, node._saved_result2),) if node.name() == "NativeGroupNormBackward0" else ()


def match_strides(parameter: nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
    """Return ``gradient`` with the strides of ``parameter``."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def clipping_factors(gradients: list[PerExampleGradient], max_grad_norm: float) -> torch.Tensor:
    """Return the clipping factor of each example, shape ``(n,)``, as Opacus does.

    A gradient whose norm is not finite has the factor 0 or NaN.
    """
    norms = torch.stack([gradient.squared_norms() for gradient in gradients]).sum(0).sqrt()
    return (max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
