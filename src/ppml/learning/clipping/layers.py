"""The layers that per-example clipping supports."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from opacus.grad_sample import register_norm_sampler
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ppml.errors import UserError
from ppml.learning.clipping.convolution import convolution_gradients
from ppml.learning.clipping.gradient_factors import PerExampleGradient
from ppml.learning.clipping.linear import embedding_gradients, linear_gradients
from ppml.learning.clipping.normalisation import group_norm_gradients, layer_norm_gradients

GRADIENTS_BY_LAYER: dict[type[nn.Module], Callable[..., Iterator[PerExampleGradient]]] = {
    nn.Conv2d: convolution_gradients,
    nn.Linear: linear_gradients,
    nn.GroupNorm: group_norm_gradients,
    nn.LayerNorm: layer_norm_gradients,
    nn.Embedding: embedding_gradients,
}
"""Gradient functions by exact layer type; a subclass may compute something else, so it is not supported."""


class UnsupportedLayer(UserError):
    """A layer without per-example clipping; the message names it and its replacement."""


def trainable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of ``model`` with trainable parameters, by path.

    Raises
    ------
    UnsupportedLayer
        A layer mixes examples, keeps statistics of them, shares a parameter, or has parameters and is not in
        ``GRADIENTS_BY_LAYER``.
    """
    found: dict[str, nn.Module] = {}
    owners: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        _check_statistics(path, module)
        trained = {name: one for name, one in module.named_parameters(recurse=False) if one.requires_grad}
        if not trained:
            continue
        _check_support(path, module, trained)
        for name, parameter in trained.items():
            if parameter in owners:
                raise UnsupportedLayer(
                    f"{_describe(path, module)} shares {name} with {owners[parameter]}; give each its own parameter"
                )
            owners[parameter] = path
        found[path] = module
    return found


def _describe(path: str, module: nn.Module) -> str:
    return f"layer {path or 'of the model itself'} ({type(module).__name__})"


def _check_statistics(path: str, module: nn.Module) -> None:
    # Opacus checks only layers with trainable parameters; these layers leak statistics without any.
    if isinstance(module, _BatchNorm):
        raise UnsupportedLayer(
            f"{_describe(path, module)} mixes the examples of a batch; replace it by GroupNorm, "
            "as opacus.validators.ModuleValidator.fix(model) does"
        )
    if isinstance(module, _NormBase) and module.track_running_stats:
        raise UnsupportedLayer(
            f"{_describe(path, module)} keeps statistics of examples without noise; "
            "set track_running_stats=False or replace it by GroupNorm"
        )


def _check_support(path: str, module: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    described = _describe(path, module)
    for error in ModuleValidator.VALIDATORS.get(type(module), lambda module: [])(module):
        raise UnsupportedLayer(f"{described}: {error}")
    if type(module) not in GRADIENTS_BY_LAYER or not set(trained) <= {"weight", "bias"}:
        allowed = ", ".join(kind.__name__ for kind in GRADIENTS_BY_LAYER)
        raise UnsupportedLayer(
            f"{described} has parameters without per-example clipping; "
            f"build it from {allowed}, or freeze it with requires_grad_(False)"
        )
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        raise UnsupportedLayer(
            f"{described} has a gradient that depends on other examples or is sparse; "
            "use the defaults of max_norm, scale_grad_by_freq and sparse"
        )


def norm_sampler(
    layer: nn.Module, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[torch.Tensor, torch.Tensor]:
    """Return the norms of each example's gradients, shape ``(n,)``, by parameter, in Opacus' interface."""
    gradients = GRADIENTS_BY_LAYER[type(layer)](layer, activations[0], backprops)
    return {gradient.parameter: gradient.squared_norms().sqrt() for gradient in gradients}


def register_norm_samplers() -> None:
    """Register these norms for convolutions in Opacus' ghost clipping, which has none."""
    register_norm_sampler(nn.Conv2d)(norm_sampler)
