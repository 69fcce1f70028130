"""The style and the name of a technique."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from ppml.config.arm import Arm
from ppml.config.load import load_config
from ppml.config.models import MODELS
from ppml.config.technique import Aggregation, ClientLevel, ExampleLevel, Topology
from ppml.reporting.literature import load_published
from ppml.reporting.technique_style import (
    AGGREGATION_MARKERS,
    COLOURS,
    INDEPENDENT_MARKER,
    MODEL_MARKERS,
    PAPER_MARKERS,
    published_style,
    style_of,
    technique_name,
)

CONFIG = Path(__file__).parents[2] / "config"
SHIPPED = ("default", "adult", "best", "cifar", "clients", "fashion", "inference", "smoke", "federation", "full")


def kinds(union) -> list[str]:
    """Return the names of the members of a union of the configuration."""
    return [get_args(member.model_fields["kind"].annotation)[0] for member in get_args(get_args(union)[0])]


def row(arm: Arm, data_kind: str = "image") -> dict[str, str]:
    """Return the columns of records.csv that decide about style and name of an arm."""
    federated = arm.topology.kind == "federated"
    unit = arm.privacy.kind
    return {
        "topology": arm.topology.kind,
        "privacy_unit": unit,
        "noise": "none" if unit == "none" else arm.privacy.noise,
        "aggregation": arm.aggregation.kind if federated else "none",
        "model": arm.model,
        "transforms": "+".join(transform.kind for transform in arm.transforms),
        "data_kind": data_kind,
    }


def techniques() -> list[dict[str, str]]:
    """Return every technique of the configuration, with the two families of models."""
    privacy = [("none", "none")]
    privacy += [("example", noise) for noise in get_args(ExampleLevel.model_fields["noise"].annotation)]
    privacy += [("client", noise) for noise in get_args(ClientLevel.model_fields["noise"].annotation)]
    found = []
    for topology, (unit, noise), model in product(kinds(Topology), privacy, ("tanh_cnn", "linear")):
        if topology != "federated" and noise not in ("none", "local"):
            continue
        for aggregation in kinds(Aggregation) if topology == "federated" else ["none"]:
            values = {"topology": topology, "privacy_unit": unit, "noise": noise, "aggregation": aggregation}
            found.append({**values, "model": model})
            if topology == "centralized" and model == "linear":
                found.append({**values, "model": model, "transforms": "patches"})
    return found


def test_every_technique_of_the_configuration_has_its_own_style():
    looks = {}
    for one in techniques():
        looks.setdefault(style_of(one), set()).add(technique_name(one))
    assert len(looks) > 40
    assert {style: names for style, names in looks.items() if len(names) > 1} == {}


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_has_a_style(model):
    plain = {"topology": "centralized", "privacy_unit": "none", "noise": "none", "aggregation": "none"}
    assert style_of(plain | {"model": model}).colour in COLOURS["centralized", "none"]


def test_published_numbers_have_markers_of_their_own():
    papers = {one.paper for one in load_published(CONFIG / "published.yaml").values()}
    markers = [published_style(paper).marker for paper in papers]
    assert len(set(markers)) == len(papers)
    ours = {*AGGREGATION_MARKERS.values(), *MODEL_MARKERS.values(), INDEPENDENT_MARKER}
    assert not ours & {*PAPER_MARKERS.values(), published_style("another").marker}


def test_techniques_have_different_styles():
    styles = {}
    for arm in load_config(CONFIG / "default.yaml").arms.values():
        row = {
            **{"topology": arm.topology.kind, "privacy_unit": arm.privacy.kind, "model": arm.model},
            "noise": getattr(arm.privacy, "noise", "none"),
            "aggregation": arm.aggregation.kind if arm.topology.kind == "federated" else "none",
        }
        if arm.model in ("tanh_cnn", "linear"):
            styles[technique_name(row)] = style_of(row)
    assert len(styles) > 10 and len(set(styles.values())) == len(styles)


@pytest.mark.parametrize("name", SHIPPED)
def test_label_begins_with_the_name_of_the_technique(name):
    config = load_config(CONFIG / f"{name}.yaml")
    wrong = {}
    for arm, spec in config.arms.items():
        name = technique_name(row(spec, config.dataset(config.dataset_of(arm)).contract.kind))
        if spec.label and not f"{spec.label},".startswith(f"{name},"):
            wrong[arm] = spec.label
    assert wrong == {}
