"""Name, colour, marker and line of a technique, by its parts: the same in every figure, legend and report.

A new kind of topology, noise or aggregation needs an entry in each table of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppml.config.models import MODELS
from ppml.reporting.formatting import AGGREGATIONS, model_name

if TYPE_CHECKING:
    import pandas as pd

ALARM = "#B00000"
GREY = "#555555"
"""The colour of published numbers, and of text beside the data."""

COLOURS = {
    ("centralized", "none"): ("#000000", "#6E6E6E"),
    ("centralized", "local"): ("#0072B2", "#56B4E9"),
    ("centralized", "client"): ("#0072B2", "#56B4E9"),
    ("independent", "none"): ("#8C6D31", "#C7A76C"),
    ("independent", "local"): ("#5C4813", "#A38A4E"),
    ("federated", "none"): ("#009E73", "#5CC4A4"),
    ("federated", "local"): ("#D55E00", "#E69F00"),
    ("federated", "distributed"): ("#882255", "#CC79A7"),
    ("federated", "client"): ("#332288", "#8F83C9"),
}
"""Topology and privacy -> hexadecimal colour of models on inputs, and of models on features. Most are the colours of
Okabe and Ito for colour-blind readers; two colours of one row differ in lightness, so that print keeps them apart."""

MODEL_MARKERS = {"linear": "s", "patches": "D", "resnet18": "^"}
"""Markers of centralized training by model, or by the kind of its features; other models have a circle."""
AGGREGATION_MARKERS = {"none": "o", "plaintext": "D", "ckks": "v", "bfv": "<", "secret_sharing": ">", "masking": "d"}
INDEPENDENT_MARKER = "X"

LINES: dict[str, tuple[float, ...]] = {
    "none": (),
    "plaintext": (),
    "ckks": (4.5, 1.8),
    "bfv": (1.4, 1.4),
    "secret_sharing": (5.0, 1.5, 1.2, 1.5),
    "masking": (8.0, 2.0),
}
"""Dashes by aggregation: a dashed line leaves an equal line below it visible."""

PAPER_MARKERS = {
    "PRIVATE-AI": "*",
    "Dataset Anonymizer": "8",
    "Tramèr & Boneh 2021": "P",
    "Papernot et al. 2021": "p",
    "Opacus": "x",
    "Fu et al. 2024": "+",
    "Tang et al. 2023": "1",
}
"""Markers of published numbers; no technique has one of them."""
OTHER_PAPER = "h"

TOPOLOGIES = {"centralized": "ML", "independent": "Independent clients", "federated": "FL"}
PRIVACY = {"none": "", "local": "DP", "distributed": "distributed DP", "client": "client-level DP"}
PROTECTIONS = {
    **dict.fromkeys(("none", "plaintext"), ""),
    "ckks": "HE",
    "bfv": "HE (BFV)",
    **{name: AGGREGATIONS[name] for name in ("secret_sharing", "masking")},
}
PREFIXES = {
    "tanh_cnn": "",
    "linear": "Scattering",
    "patches": "Patches",
    "resnet18": "ResNet18",
    "logistic": "Logistic",
    "mlp": "MLP",
}
"""First word of the name by model, or by the kind of its features; the small CNN of most arms has none."""


@dataclass(frozen=True)
class Style:
    """The look of a technique, or of a paper."""

    colour: str
    """Hexadecimal."""
    marker: str
    """A marker of matplotlib. A technique fills it; a published number leaves it open."""
    line: tuple[float, ...]
    """Lengths of dashes and gaps in points, empty for a solid line."""


def style_of(row: Mapping[str, Any] | pd.Series) -> Style:
    """Return the style of an arm's technique.

    Parameters
    ----------
    row : mapping
        A row of records.csv, of which ``topology``, ``privacy_unit``, ``noise``, ``aggregation``, ``model`` and
        ``transforms`` count.

    Examples
    --------
    >>> row = {"topology": "federated", "privacy_unit": "none", "noise": "none", "aggregation": "ckks"}
    >>> style_of(row | {"model": "mlp"})
    Style(colour='#009E73', marker='v', line=(4.5, 1.8))
    """
    topology, aggregation = row["topology"], row["aggregation"]
    colour = COLOURS[topology, _privacy(row)][on_features(row["model"])]
    if topology == "independent":
        return Style(colour, INDEPENDENT_MARKER, LINES[aggregation])
    markers = AGGREGATION_MARKERS if topology == "federated" else MODEL_MARKERS
    return Style(colour, markers.get(aggregation if topology == "federated" else _model(row), "o"), LINES[aggregation])


def styles_of(records: pd.DataFrame) -> dict[str, Style]:
    """Return the style of each arm in records.csv."""
    return {str(row["arm"]): style_of(row) for _, row in records.drop_duplicates("arm").iterrows()}


def published_style(paper: str) -> Style:
    """Return the style of a paper's numbers, by its short name."""
    return Style(GREY, PAPER_MARKERS.get(paper, OTHER_PAPER), (1.0, 1.6))


def technique_name(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the name of an arm's technique, with which every label of the arm begins.

    Examples
    --------
    >>> row = {"topology": "federated", "privacy_unit": "example", "noise": "distributed", "aggregation": "ckks"}
    >>> technique_name(row | {"model": "linear"})
    'Scattering + FL + distributed DP + HE'
    """
    parts = (
        _prefix(row),
        TOPOLOGIES[row["topology"]],
        PRIVACY[_privacy(row)],
        PROTECTIONS[row["aggregation"]],
    )
    return " + ".join(filter(None, parts))


def _prefix(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the first word of the name: the model, and the inputs of a linear model on images."""
    if row["model"] == "linear" and row.get("data_kind") == "table":
        return "Linear"
    return PREFIXES.get(_model(row), _capital(model_name(row["model"])))


def _model(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the model, or ``patches`` for a model on features of this kind."""
    last = str(row.get("transforms") or "").rpartition("+")[2]
    return "patches" if last.partition("(")[0] == "patches" else str(row["model"])


def on_features(model: str) -> bool:
    """Return whether a model predicts from features that a fixed rule computes."""
    return "features" in MODELS[model].kinds


def _privacy(row: Mapping[str, Any] | pd.Series) -> str:
    """Return the key of :data:`PRIVACY`: the place of the noise, or ``client`` for the privacy of a client."""
    return "client" if row["privacy_unit"] == "client" else str(row["noise"])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
