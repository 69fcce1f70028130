"""The families of an experiment: arms with one technique and one recipe, which differ in epsilon only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ppml.reporting.formatting import dataset_name
from ppml.reporting.summaries import ArmResult
from ppml.reporting.technique_style import Style, style_of, technique_name

EPSILON = re.compile(r", ε [0-9.]+")
TECHNIQUE = ("topology", "privacy_unit", "noise", "aggregation", "model")
RECIPE: dict[str, Callable[[Any], str]] = {
    "transforms": str,
    "partition": str,
    "max_grad_norm": "clipping norm {:g}".format,
    "dataset": dataset_name,
    "budget": str,
}
"""Columns of records.csv in which two families of one technique can differ, and their texts."""


@dataclass(frozen=True)
class Family:
    """Arms that differ in epsilon only."""

    name: str
    style: Style
    members: list[ArmResult]
    """By epsilon, the most private first."""


def families(arms: Iterable[ArmResult]) -> list[Family]:
    """Return the families of ``arms``, in the order of their first arms."""
    groups: dict[tuple[Any, ...], list[ArmResult]] = {}
    for one in arms:
        # Missing values do not equal each other.
        key = tuple(None if pd.isna(one.first[name]) else one.first[name] for name in (*TECHNIQUE, *RECIPE))
        groups.setdefault(key, []).append(one)
    names = [_name(members) for members in groups.values()]
    found = []
    for key, name, members in zip(groups, names, groups.values(), strict=True):
        if names.count(name) > 1:
            twins = [other for other, its in zip(groups, names, strict=True) if its == name]
            name = ", ".join([name, *_differences(key, twins)])
        found.append(Family(name, style_of(members[0].first), sorted(members, key=lambda one: one.epsilon)))
    return found


def without_epsilon(label: str) -> str:
    """Return the label of an arm without its epsilon.

    Examples
    --------
    >>> without_epsilon("FL + DP, ε 2.9, 4 clients")
    'FL + DP, 4 clients'
    """
    return EPSILON.sub("", label)


def _name(members: list[ArmResult]) -> str:
    """Return the common label without epsilon, or the name of the technique if the labels differ."""
    names = {without_epsilon(one.label) for one in members}
    return names.pop() if len(names) == 1 else technique_name(members[0].first)


def _differences(key: tuple[Any, ...], twins: list[tuple[Any, ...]]) -> list[str]:
    """Return the texts of the recipe in which a family differs from others with its name."""
    start = len(TECHNIQUE)
    return [
        text(key[place])
        for place, text in enumerate(RECIPE.values(), start=start)
        if key[place] is not None and len({twin[place] for twin in twins}) > 1
    ]
