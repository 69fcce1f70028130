"""Which layers a model may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from opacus.grad_sample import register_norm_sampler
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ppml.errors import UserError
from ppml.learning.clipping.convolution import convolution_parts
from ppml.learning.clipping.gradient_factors import Part
from ppml.learning.clipping.linear import embedding_parts, linear_parts
from ppml.learning.clipping.normalisation import group_norm_parts, layer_norm_parts

PARTS: dict[type[nn.Module], Callable[..., Iterator[Part]]] = {
    nn.Conv2d: convolution_parts,
    nn.Linear: linear_parts,
    nn.GroupNorm: group_norm_parts,
    nn.LayerNorm: layer_norm_parts,
    nn.Embedding: embedding_parts,
}
"""What each layer that may be trained says of its gradients. A subclass may compute something else: it is not found."""


class UnsupportedLayer(UserError):
    """A layer whose gradients cannot be clipped for each example; the message names it and what replaces it."""


def trained_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of ``model`` that have parameters to train, by their path.

    Raises
    ------
    UnsupportedLayer
        A layer mixes examples, keeps statistics of them, shares a parameter, or has parameters and is not in ``PARTS``.
    """
    found: dict[str, nn.Module] = {}
    owners: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        _refuse_statistics(path, module)
        trained = {name: one for name, one in module.named_parameters(recurse=False) if one.requires_grad}
        if not trained:
            continue
        _refuse_unknown(path, module, trained)
        for name, parameter in trained.items():
            if parameter in owners:
                raise UnsupportedLayer(
                    f"{_described(path, module)} shares {name} with {owners[parameter]}; give each its own parameter"
                )
            owners[parameter] = path
        found[path] = module
    return found


def _described(path: str, module: nn.Module) -> str:
    return f"layer {path or 'of the model itself'} ({type(module).__name__})"


def _refuse_statistics(path: str, module: nn.Module) -> None:
    # Opacus looks at layers with parameters to train only; these tell of other examples without any.
    if isinstance(module, _BatchNorm):
        raise UnsupportedLayer(
            f"{_described(path, module)} mixes the examples of a batch; replace it by GroupNorm, "
            "as opacus.validators.ModuleValidator.fix(model) does"
        )
    if isinstance(module, _NormBase) and module.track_running_stats:
        raise UnsupportedLayer(
            f"{_described(path, module)} keeps statistics of examples without noise; "
            "set track_running_stats=False or replace it by GroupNorm"
        )


def _refuse_unknown(path: str, module: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    described = _described(path, module)
    for error in ModuleValidator.VALIDATORS.get(type(module), lambda module: [])(module):
        raise UnsupportedLayer(f"{described}: {error}")
    if type(module) not in PARTS or not set(trained) <= {"weight", "bias"}:
        allowed = ", ".join(kind.__name__ for kind in PARTS)
        raise UnsupportedLayer(
            f"{described} has parameters whose gradients cannot be clipped for each example; "
            f"build it from {allowed}, or freeze it with requires_grad_(False)"
        )
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        raise UnsupportedLayer(
            f"{described} has a gradient that depends on other examples or is sparse; "
            "leave max_norm, scale_grad_by_freq and sparse as they are by default"
        )


def norm_sampler(
    layer: nn.Module, activations: list[torch.Tensor], backprops: torch.Tensor
) -> dict[torch.Tensor, torch.Tensor]:
    """Return the norms of each example's gradients, shape ``(n,)``, by parameter, as Opacus asks for them."""
    parts = PARTS[type(layer)](layer, activations[0], backprops)
    return {part.parameter: part.squared_norms().sqrt() for part in parts}


def register_norm_samplers() -> None:
    """Let Opacus' own ghost clipping use these norms for convolutions, for which it has none."""
    register_norm_sampler(nn.Conv2d)(norm_sampler)
