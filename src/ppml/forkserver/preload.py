"""Which libraries each stage imports that take long to import. Only other people's code: a job reads ours anew."""

from __future__ import annotations

_MODELS = ("pydantic.main", "pydantic.fields", "pydantic.type_adapter", "pydantic.types", "yaml")
_TORCH = ("torch", "safetensors.torch")
# Flower's settings come first, as everywhere. The optimisers of torch import its compiler at their first step.
_FLOWER = ("ppml.federation.flower_env", "flwr.app", "flwr.clientapp", "flwr.serverapp")
_PRIVATE = ("torch._dynamo", "opacus", "opacus.optimizers")
_TRAINING = (*_PRIVATE, "tenseal", *_FLOWER)
# Imports torch's compiler, which a training imports anyway.
_NETWORKS = ("torchvision.models.resnet",)
_ACCOUNTING = (*_MODELS, "torch", "opacus.accountants", "scipy.stats", "dp_accounting.pld.privacy_loss_distribution")

NEEDS: dict[str, tuple[str, ...]] = {
    "fetch": ("torchvision.datasets",),
    "subset": (*_TORCH, "torchvision.datasets"),
    "features": (*_MODELS, *_TORCH),
    "partition": (*_MODELS, "safetensors.numpy"),
    "calibrate": _ACCOUNTING,
    "train": (*_MODELS, *_TORCH, *_TRAINING, *_NETWORKS),
    "predict": _TORCH,
    "infer": (*_MODELS, *_TORCH, "tenseal"),
    "audit": (*_MODELS, *_TORCH, *_PRIVATE, "scipy.stats"),
    "account": _ACCOUNTING,
    "collect": (*_MODELS, "pandas", "scipy.stats", "safetensors.numpy"),
    "table": (*_MODELS, "pandas", "scipy.stats"),
    "figure": (*_MODELS, "pandas", "scipy.stats", "seaborn", "matplotlib.backends.backend_svg"),
    "overview": ("jinja2",),
}
"""Stage -> modules."""
