"""Build a model by its name.

A model is a class; an instance maps inputs ``(n, *contract.shape)`` to logits ``(n, classes)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ppml.config.models import MODELS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ppml.contract import DataContract
    from ppml.models.reference import ReferenceModel


# This table is here, and not in the configuration, so that the code digest of a job counts the module of its model.
CLASSES = {
    "tanh_cnn": "ppml.models.cnn:TanhCnn",
    "resnet18": "ppml.models.resnet18:ResNet18",
    "linear": "ppml.models.linear:Linear",
    "logistic": "ppml.models.logistic:Logistic",
    "mlp": "ppml.models.mlp:Mlp",
    "square_cnn": "ppml.models.square_cnn:SquareCnn",
    "hist_gradient_boosting": "ppml.models.reference:HistGradientBoosting",
    "random_forest": "ppml.models.reference:RandomForest",
}
"""Name in the configuration -> ``module:class``, which is imported when it is built."""


def build_model(name: str, contract: DataContract, generator: torch.Generator) -> nn.Module:
    """Return a new model for the data of ``contract``, with weights drawn from ``generator``.

    Raises
    ------
    ValueError
        The model does not fit the data.
    """
    if reason := MODELS[name].misfit(contract):
        raise ValueError(f"model {name!r} does not fit {contract}: {reason}")
    model: nn.Module = _class_of(name)(contract.shape, len(contract.classes), generator)
    return model


def build_reference(name: str, seed: int) -> ReferenceModel:
    """Return a new reference model, which a library trains."""
    model: ReferenceModel = _class_of(name)(seed)
    return model


def _class_of(name: str) -> Any:
    module, _, attribute = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
