"""Build a model by its name.

A model is a class; an instance maps inputs ``(n, *contract.shape)`` to logits ``(n, classes)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ppml.config.models import MODELS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ppml.contract import DataContract


def build_model(name: str, contract: DataContract, generator: torch.Generator) -> nn.Module:
    """Return a new model for the data of ``contract``, with weights drawn from ``generator``.

    Raises
    ------
    ValueError
        The model does not fit the data.
    """
    info = MODELS[name]
    if reason := info.misfit(contract):
        raise ValueError(f"model {name!r} does not fit {contract}: {reason}")
    module, _, attribute = info.path.partition(":")
    model: nn.Module = getattr(importlib.import_module(module), attribute)(
        contract.shape, len(contract.classes), generator
    )
    return model
