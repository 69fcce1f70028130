"""Which models there are. A model is a class whose instance maps ``(n, 1, 28, 28)`` to logits ``(n, classes)``.

Those of ``ON_FEATURES`` map ``(n, ..., features)`` to ``(n, ..., classes)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

MODELS = {
    "tanh_cnn": "ppml.models.cnn:TanhCnn",
    "resnet18": "ppml.models.resnet18:ResNet18",
    "linear": "ppml.models.linear:Linear",
    "logistic": "ppml.models.logistic:Logistic",
    "mlp": "ppml.models.mlp:Mlp",
    "square_cnn": "ppml.models.square_cnn:SquareCnn",
}
"""Name in the configuration -> ``module:class``, imported when it is built."""

ON_FEATURES = frozenset({"linear"})
"""Models that are trained on features, of any number, instead of images."""

POLYNOMIAL = frozenset({"logistic", "square_cnn"})
"""Models that only add and multiply, so that they can be evaluated on encrypted images."""

WITH_STATISTICS = frozenset({"square_cnn"})
"""Models that keep statistics of batches, which mix examples and are in no update: for one owner, without DP."""


def build_model(name: str, classes: int, generator: torch.Generator, features: int = 0) -> nn.Module:
    """Return a new model with weights drawn from ``generator``; ``features`` is how many a model on features takes."""
    module, _, attribute = MODELS[name].partition(":")
    size = (features,) if name in ON_FEATURES else ()
    model: nn.Module = getattr(importlib.import_module(module), attribute)(*size, classes, generator)
    return model
