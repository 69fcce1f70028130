"""Privacy-preserving machine learning: trained models with their privacy statements, and parts of the techniques.

Only the names in ``ppml.__all__`` are public; every module of the package is private and may change. The public names
are imported when they are used, so that ``import ppml`` takes milliseconds.

Examples
--------
>>> import ppml
>>> print(ppml.account(sample_rate=1.0, noise_multiplier=10.0, steps=30, delta=1e-5))
epsilon 2.21 at delta 1e-05 for one example (zero_out_one; accountant gdp)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppml.api.accounting import account
    from ppml.api.aggregation import AggregatedSum, aggregate
    from ppml.api.clipping import clip
    from ppml.api.privacy_statement import PrivacyStatement
    from ppml.api.trained_model import Predictions, TrainedModel, load
    from ppml.errors import UserError

__version__ = "1.1.0"
__all__ = [
    "load",
    "account",
    "clip",
    "aggregate",
    "TrainedModel",
    "Predictions",
    "PrivacyStatement",
    "AggregatedSum",
    "UserError",
]

_MODULES = {
    "load": "ppml.api.trained_model",
    "account": "ppml.api.accounting",
    "clip": "ppml.api.clipping",
    "aggregate": "ppml.api.aggregation",
    "TrainedModel": "ppml.api.trained_model",
    "Predictions": "ppml.api.trained_model",
    "PrivacyStatement": "ppml.api.privacy_statement",
    "AggregatedSum": "ppml.api.aggregation",
    "UserError": "ppml.errors",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
