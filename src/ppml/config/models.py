"""The models by name, and the data that each of them fits; :mod:`ppml.models.registry` has their classes."""

from __future__ import annotations

from dataclasses import dataclass

from ppml.contract import NOUNS, DataContract


@dataclass(frozen=True)
class ModelInfo:
    """The properties of a model that are known before it is imported."""

    kinds: tuple[str, ...] = ("image",)
    """The kinds of examples that it takes."""
    smallest: int = 1
    """The smallest height and width of an image."""
    is_reference: bool = False
    """Whether a library trains it by its own rule, without privacy: a number to compare with, not a network."""
    polynomial: bool = False
    """Whether it only adds and multiplies, so that it can predict encrypted images."""
    batch_norm: bool = False
    """Whether it normalises batches. Such a model mixes examples, and its statistics are in no update: it is for one
    owner, without differential privacy."""

    def misfit(self, contract: DataContract) -> str:
        """Return the reason why the model does not fit the data, empty if it fits."""
        if contract.kind not in self.kinds:
            return f"it takes {' or '.join(NOUNS[kind] for kind in self.kinds)}"
        if contract.kind == "image" and min(contract.shape[1:]) < self.smallest:
            return f"it takes images of at least {self.smallest}x{self.smallest} pixels"
        return ""


MODELS = {
    "tanh_cnn": ModelInfo(smallest=8),
    "resnet18": ModelInfo(smallest=8),
    "linear": ModelInfo(kinds=("features", "table")),
    "logistic": ModelInfo(kinds=("image", "table"), polynomial=True),
    "mlp": ModelInfo(kinds=("image", "table")),
    "square_cnn": ModelInfo(smallest=8, polynomial=True, batch_norm=True),
    "hist_gradient_boosting": ModelInfo(kinds=("table",), is_reference=True),
    "random_forest": ModelInfo(kinds=("table",), is_reference=True),
}
"""Name in the configuration -> model."""


def fitting_models(contract: DataContract) -> list[str]:
    """Return the names of the models that fit the data."""
    return [name for name, info in MODELS.items() if not info.misfit(contract)]
