"""Which models there are. A model is a class whose instance maps ``(n, 1, 28, 28)`` to logits ``(n, classes)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

MODELS = {
    "tanh_cnn": "ppml.models.cnn:TanhCnn",
    "resnet18": "ppml.models.resnet18:ResNet18",
}
"""Name in the configuration -> ``module:class``, imported when it is built."""


def build_model(name: str, classes: int, generator: torch.Generator) -> nn.Module:
    """Return a new model with weights drawn from ``generator``."""
    module, _, attribute = MODELS[name].partition(":")
    model: nn.Module = getattr(importlib.import_module(module), attribute)(classes, generator)
    return model
