"""Groups of slow imports that stages declare. Only third-party modules: each job imports `ppml` itself."""

from __future__ import annotations

SETTINGS = ("pydantic.main", "pydantic.fields", "pydantic.type_adapter", "pydantic.types", "yaml")
TORCH = ("torch", "safetensors.torch")
# The optimisers of torch import its compiler at their first step.
PRIVATE = ("torch._dynamo", "opacus", "opacus.optimizers")
# Flower's settings come before its modules. The networks import torch's compiler, as a training does anyway.
TRAINING = (
    *(*SETTINGS, *TORCH, *PRIVATE, "tenseal", "ppml.federation.flower_env"),
    *("flwr.app", "flwr.clientapp", "flwr.serverapp", "torchvision.models.resnet"),
)
ACCOUNTING = (*SETTINGS, "torch", "opacus.accountants", "scipy.stats", "dp_accounting.pld.privacy_loss_distribution")
TABLES = (*SETTINGS, "pandas", "scipy.stats")
FIGURES = (*TABLES, "seaborn", "matplotlib.backends.backend_svg")
