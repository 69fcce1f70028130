"""Small private arms of every topology, and their audits."""

from __future__ import annotations

from typing import Any

from ppml.accounting.schedule import mechanism_schedules
from ppml.auditing.canary import AuditTarget, Measurement, audit
from ppml.auditing.verdict import AuditVerdict, evaluate_audit
from ppml.config.arm import Arm
from ppml.contract import DataContract
from ppml.randomness import Randomness

CONTRACT = DataContract(shape=(1, 28, 28), classes=10)
SIGMA, CLIP, DELTA = 1.3, 0.1, 1e-5
OWNED = {"kind": "example", "noise_multiplier": SIGMA, "max_grad_norm": CLIP}
TRAINING = {"epochs": 3, "batch_size": 100, "learning_rate": 1.0}
FEDERATED = {"kind": "federated", "partition": "p", "rounds": 6, "server": {"kind": "sgd", "momentum": 0.5}}
ONE_EPOCH = {**TRAINING, "epochs": 1}

ARMS: dict[str, dict[str, Any]] = {
    "one": {"privacy": OWNED, "training": TRAINING},
    "full batch": {"privacy": OWNED, "training": {**TRAINING, "batch_size": "all"}},
    "budget": {"privacy": {**OWNED, "budget": 3.0}, "training": TRAINING},
    "local": {"privacy": OWNED, "training": TRAINING, "topology": {"kind": "independent", "partition": "p"}},
    "federated": {"privacy": OWNED, "training": ONE_EPOCH, "topology": FEDERATED},
    "shares": {
        "privacy": {**OWNED, "noise": "distributed"},
        "training": ONE_EPOCH,
        "topology": FEDERATED,
        "aggregation": {"kind": "ckks", "clip": 64.0},
    },
    "server": {
        "privacy": {"kind": "client", "noise_multiplier": SIGMA, "max_update_norm": CLIP},
        "training": {**ONE_EPOCH, "epochs": 2},
        "topology": {**FEDERATED, "weighting": "uniform"},
    },
    "client shares": {
        "privacy": {"kind": "client", "noise_multiplier": SIGMA, "max_update_norm": CLIP, "noise": "distributed"},
        "training": {**ONE_EPOCH, "epochs": 2},
        "topology": {**FEDERATED, "weighting": "uniform"},
        "aggregation": {"kind": "ckks", "clip": 64.0},
    },
}
"""One arm of each mechanism, on a logistic regression."""


def arm_of(name: str, **privacy: Any) -> Arm:
    """Return an arm of :data:`ARMS` with changed keys of its privacy."""
    keys = ARMS[name]
    return Arm.model_validate({"model": "logistic", **keys, "privacy": {**keys["privacy"], **privacy}})


def measure(arm: Arm, *, sizes: tuple[int, ...] = (), releases: int = 40, seed: int = 0) -> Measurement:
    """Return the measurement of ``arm``, for owners with ``sizes`` examples."""
    owners = sizes or (1000,) * (1 if arm.topology.kind == "centralized" else 4)
    planned = tuple(schedule.steps for schedule in mechanism_schedules(arm, owners))
    affordable_steps = tuple(steps * 2 // 3 for steps in planned) if getattr(arm.privacy, "budget", None) else None
    target = AuditTarget(arm, owners, (SIGMA,) * len(owners), affordable_steps, planned, CONTRACT, CONTRACT.shape)
    return audit(target, releases=releases, rng=Randomness(seed).child("audit"))


def evaluate(measurement: Measurement, *, confidence: float = 0.99, family: int = 30) -> AuditVerdict:
    """Return the verdict on a measurement."""
    return evaluate_audit(measurement.to_json(), confidence=confidence, family=family)
