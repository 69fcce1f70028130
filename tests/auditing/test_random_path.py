"""The random draws of an audit: renamed keys and transforms change none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppml.auditing.audited_arm import reduce_arm
from ppml.auditing.canary import AuditTarget, synthetic_examples
from ppml.auditing.random_path import random_path
from ppml.config.arm import Arm
from ppml.contract import DataContract
from ppml.io.canonical_json import digest
from ppml.randomness import Randomness

IMAGES = DataContract(shape=(1, 28, 28), classes=10)
PRIVACY = {"kind": "example", "noise_multiplier": 1.5, "max_grad_norm": 0.1}
FEDERATED = {"kind": "federated", "partition": "iid-4", "rounds": 3, "weighting": "uniform"}
SCATTERING = {"model": "linear", "transforms": [{"kind": "scattering", "components": 29}]}
PINNED: dict[str, tuple[dict[str, Any], str]] = {
    "scattering": ({**SCATTERING, "privacy": PRIVACY}, "3bedbcfb5c94bfd7"),
    "distributed noise": (
        {
            "topology": {**FEDERATED, "server": {"kind": "adam", "tau": 0.01}, "min_clients": 3},
            "privacy": {**PRIVACY, "noise": "distributed"},
            "aggregation": {"kind": "secret_sharing"},
            "training": {"epochs": 1},
        },
        "805cc9d755f045c9",
    ),
    "proximal term": (
        {
            "topology": {**FEDERATED, "correction": {"kind": "proximal", "mu": 0.2}},
            "privacy": {"kind": "client", "noise_multiplier": 1.5, "noise": "central"},
        },
        "7e71303b83a0e34d",
    ),
    "independent": (
        {"topology": {"kind": "independent", "partition": "iid-4"}, "privacy": PRIVACY},
        "6337882b4eac48f9",
    ),
}
"""Arm, and the digest of its path with the names of the first version."""


@pytest.mark.parametrize("name", PINNED)
def test_renamed_key_changes_no_random_path(name: str) -> None:
    arm, expected = PINNED[name]
    assert digest(random_path(Arm.model_validate(arm).technique())) == expected


def labels(keys: dict[str, Any], contract: DataContract, inputs: torch.Tensor | None) -> list[int]:
    """Return the labels of the auditor's examples for an arm."""
    arm = Arm.model_validate({"model": "logistic", **keys, "privacy": PRIVACY, "training": {"batch_size": 20}})
    target = AuditTarget(arm, (1000,), (1.5,), None, (500,), contract, IMAGES.shape, inputs)
    (examples,) = synthetic_examples(reduce_arm(arm, (1000,), 40), target, Randomness(3))
    return examples.labels.tolist()


def test_arm_with_transforms_has_the_labels_of_an_arm_without() -> None:
    assert labels(SCATTERING, IMAGES.features(30), torch.zeros(100, 1, 30)) == labels({}, IMAGES, None)
