"""Tidy tables of made-up arms, with realistic numbers."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from ppml.auditing.verdict import audit_row, evaluate_audit
from ppml.jobs.job import Job
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.literature import PublishedRow
from ppml.reporting.registry import Kind, figures, tables
from ppml.reporting.table import Table
from ppml.results.joint import JOINT_COLUMNS, joint_key


@dataclass(frozen=True)
class MadeUpArm:
    """The properties of an arm that determine its numbers."""

    label: str
    accuracy: float
    topology: str = "centralized"
    epsilon: float | None = None
    aggregation: str = "none"
    clients: int | None = None
    partition: str | None = None
    seconds: float = 20.0
    upload: int = 0
    delta: float = 1e-5
    dataset: str = "mnist"
    data_kind: str = "image"
    duplicates: int = 0
    largest_unit: int = 1
    transforms: str | None = None
    model: str = "tanh_cnn"
    max_grad_norm: float = 0.1
    budget: float | None = None
    unit: str = "example"
    noise: str = "local"
    """Place of the noise of a private arm."""
    noise_source: str = "seeded"
    sizes: tuple[int, ...] | None = None
    """Training examples of each client; None: the same number for all."""


@dataclass
class Collected:
    """The tidy tables and the view of an experiment with all arms."""

    view: ExperimentView
    records: pd.DataFrame
    costs: pd.DataFrame
    history: pd.DataFrame
    clients: pd.DataFrame
    classes: pd.DataFrame
    confusion: pd.DataFrame
    pictures: pd.DataFrame
    epsilons: pd.DataFrame
    audits: pd.DataFrame
    inferences: pd.DataFrame
    joint: pd.DataFrame

    def job(self, kind: Kind, folder: Path, outputs: Iterable[str], published: Mapping[str, PublishedRow]) -> Job:
        """Write the tables that a kind reads, and return the job that makes a table or figure of them."""
        inputs = {name: folder / f"{name}.csv" for name in kind.reads}
        for name, path in inputs.items():
            getattr(self, name).to_csv(path, index=False)
        rows = {key: row.to_json() for key, row in published.items()}
        spec = {"kind": kind.name, "view": self.view.to_json(), "published": rows}
        return Job(spec, inputs, {suffix: folder / f"out.{suffix}" for suffix in outputs})

    def table(self, name: str, published: Mapping[str, PublishedRow] = MappingProxyType({})) -> Table:
        """Return the table of a kind."""
        found: Table = self._build(tables()[name], published)
        return found

    def figure(self, name: str, published: Mapping[str, PublishedRow] = MappingProxyType({})) -> Figure:
        """Return the figure of a kind."""
        found: Figure = self._build(figures()[name], published)
        return found

    def _build(self, kind: Kind, published: Mapping[str, PublishedRow]) -> Any:
        shown = {"published": published} if kind.published else {}
        return kind.builder()(self.view, **{name: getattr(self, name) for name in kind.reads}, **shown)


TECHNIQUES = {
    "centralized": MadeUpArm("Centralized", 0.987),
    "dp": MadeUpArm("Centralized + DP", 0.952, epsilon=2.9, seconds=48),
    "local": MadeUpArm("Local, 8 clients", 0.931, "independent", clients=8, partition="iid-8", seconds=19),
    "fl": MadeUpArm("FL", 0.982, "federated", None, "plaintext", 8, "iid-8", 62, 105_000),
    "fl_dp": MadeUpArm("FL + DP", 0.907, "federated", 2.9, "plaintext", 8, "iid-8", 140, 105_000),
    "fl_he": MadeUpArm("FL + HE", 0.982, "federated", None, "ckks", 8, "iid-8", 75, 1_130_000),
    "fl_dp_he": MadeUpArm("FL + DP + HE", 0.907, "federated", 2.9, "ckks", 8, "iid-8", 158, 1_130_000),
}

COMPARE = [
    {"published": "private-ai/1/ml-only", "arm": "centralized"},
    {"published": "private-ai/1/ml-dp", "arm": "dp"},
    {"published": "private-ai/1/ml-he", "arm": None},
    {"published": "private-ai/3/iid-8-without-fl", "arm": "local"},
    {"published": "private-ai/3/iid-8-with-fl", "arm": "fl"},
    {"published": "private-ai/4/fl-dp", "arm": "fl_dp"},
    {"published": "private-ai/5/fl-he", "arm": "fl_he"},
    {"published": "private-ai/proposal", "arm": "fl_dp_he"},
]


def collect(
    arms: dict[str, MadeUpArm],
    *,
    title: str = "Techniques",
    seeds: int = 3,
    compare: list[dict[str, str | None]] | None = None,
    n_train: int = 10_000,
    n_test: int = 2_000,
    n_test_all: int = 10_000,
    classes: int = 10,
    fallback: bool = False,
    metric: str = "accuracy",
) -> Collected:
    """Return tables of ``seeds`` runs of each arm, the same on every call."""
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("records", "costs", "history", "clients", "classes", "confusion", "pictures", "epsilons")
    }
    for place, (name, arm) in enumerate(arms.items()):
        # The same arm in plaintext and encrypted has the same accuracy, bit for bit.
        stream = round(1e6 * arm.accuracy) + sum(map(ord, arm.topology))
        for seed in range(seeds):
            rng = np.random.default_rng([stream, seed])
            accuracy = arm.accuracy + 0.002 * rng.standard_normal()
            record = _record(name, arm, seed, accuracy, n_train, n_test, n_test_all)
            rows["records"].append(record)
            rows["costs"].append(_cost(name, arm, seed, np.random.default_rng([place, seed])))
            rows["history"] += _history(name, arm, seed, accuracy, rng)
            rows["epsilons"] += _epsilons(record)
            rows["clients"] += _clients(arm, record, classes) if arm.clients else []
            rows["classes"] += _classes(record, classes)
            rows["confusion"] += _confusion(record, classes)
        rows["pictures"] += _pictures(name, classes)
    labels = {name: arm.label for name, arm in arms.items()}
    content = {"title": title, "arms": labels, "compare": compare or [], "fallback": fallback, "metric": metric}
    view = ExperimentView.model_validate_json(json.dumps(content))
    rows["audits"] = [_audit(name, arm) for name, arm in arms.items() if arm.epsilon is not None]
    rows["inferences"] = [_inference(name, seed) for name in list(arms)[:1] for seed in range(seeds)]
    joint = _joints(pd.DataFrame(rows["records"]))
    return Collected(view, joint=joint, **{name: pd.DataFrame(one) for name, one in rows.items()})


def _joints(records: pd.DataFrame) -> pd.DataFrame:
    """Return the joint epsilon, made up as a sum, of each group of private arms."""
    private = records[records["epsilon"].notna()]
    arms = list(dict.fromkeys(private["arm"]))
    sizes = range(1, len(arms) + 1) if len(arms) <= 5 else (1, len(arms))
    groups = [group for size in sizes for group in combinations(arms, size)]
    return pd.DataFrame([_joint(private[private["arm"].isin(group)]) for group in groups], columns=list(JOINT_COLUMNS))


def _joint(rows: pd.DataFrame) -> dict[str, Any]:
    unit = "client" if (rows["privacy_unit"] == "client").all() else "example"
    spent = {"epsilon": float(rows["epsilon"].sum()), "delta": rows["delta"].max(), "accountant": "tightest"}
    counts = {"releases": len(rows), "deltas": rows["delta"].nunique()}
    return {"arms": joint_key(rows["arm"]), "unit": unit, **counts, **spent}


def _audit(name: str, arm: MadeUpArm) -> dict[str, Any]:
    assert arm.epsilon is not None
    claimed = 1 + 3 / max(arm.epsilon, 0.03) if math.isfinite(arm.epsilon) else 0.1
    measured = {"noise_multiplier": claimed, "max_grad_norm": arm.max_grad_norm, "estimate": 1.03 * claimed}
    measured |= {"releases": 70, "measurements": 2_518, "parameters": 26_106, "accounted": [], "deviation": 1e-6}
    measured |= {"canary_norm": 310 * arm.max_grad_norm, "contribution": arm.max_grad_norm}
    measured |= {"drawn": 140, "coins": 1_400, "p_values": {"coins": 0.5}}
    level = {"confidence": 0.99, "family": 3}
    verdict = replace(evaluate_audit(measured, **level), epsilon=arm.epsilon, epsilon_low=0.9 * arm.epsilon)
    return audit_row(name, 0, measured, verdict, **level)


def _inference(name: str, seed: int) -> dict[str, Any]:
    """Return the row of predictions on encrypted images."""
    values = {"images": 4096, "right": 4050 + seed, "plain_right": 4051 + seed, "sure": 4090, "bound": 2e-3}
    values |= {"single_images": 10, "degree": 8192, "modulus_bits": 218, "differ": 1, "error": 4e-4 + 1e-5 * seed}
    values |= {"error_share": 0.3 + 0.01 * seed}
    values |= {"one_client": 0.04, "one_server": 0.16, "one_up": 914_000, "one_down": 82_000}
    values |= {"slots": 4096, "batch_client": 8.0, "batch_server": 24.0, "batch_up": 179_000_000}
    values |= {"batch_down": 820_000, "keys": 24_400_000, "keys_client": 1.0}
    return {"arm": name, "seed": seed, **values}


def _epsilons(record: dict[str, Any]) -> list[dict[str, Any]]:
    if record["epsilon"] is None:
        return []
    shared = {name: record[name] for name in ("arm", "seed", "accountant")}
    share = np.arange(1, 31) / 30
    steps = np.round(share * record["steps"]).astype(int)
    return [
        {**shared, "step": step, "epoch": step * record["sample_rate"], "epsilon": record["epsilon"] * part}
        for step, part in zip(steps.tolist(), np.sqrt(share).tolist(), strict=True)
    ]


def _rounds(arm: MadeUpArm) -> int | None:
    return 20 if arm.topology == "federated" else None


def _record(
    name: str, arm: MadeUpArm, seed: int, accuracy: float, n_train: int, n_test: int, n_test_all: int
) -> dict[str, Any]:
    private, federated = arm.epsilon is not None, arm.topology == "federated"
    spent = arm.epsilon or 0.0
    guarantee = {
        "noise_source": arm.noise_source,
        "sampling_source": arm.noise_source,
        "sampler": "poisson",
        "epsilon": max(0.0, spent - 0.001 * seed),
        "epsilon_rdp": 1.09 * spent,
        "epsilon_prv": spent,
        "epsilon_pld": max(0.0, spent - 0.01),
        "epsilon_replace_one": 2.2 * spent,
        "delta": arm.delta,
        "accountant": "prv",
        "neighbouring": "zero_out_one",
        "noise_multiplier": 1.1,
        "max_grad_norm": arm.max_grad_norm,
        "sample_rate": 0.0256,
        "steps": 400,
        "steps_planned": 640 if arm.budget else 400,
    }
    return {
        "arm": name,
        "dataset": arm.dataset,
        "data_kind": arm.data_kind,
        "transforms": arm.transforms,
        "model": arm.model,
        "parameters": 26_010,
        "topology": arm.topology,
        "privacy_unit": arm.unit if private else "none",
        "noise": arm.noise if private else "none",
        **(guarantee if private else dict.fromkeys(guarantee)),
        "epsilon_gdp": None,
        "epsilon_if_opened": None,
        "budget": arm.budget,
        "aggregation": arm.aggregation,
        "update_opened_by": "the server" if federated else None,
        "sum_seen_by": "all clients" if federated else None,
        "clients": arm.clients or 1,
        "partition": arm.partition,
        "division": arm.partition.split("-")[0] if arm.partition else None,
        "rounds": _rounds(arm),
        "epochs": 10,
        "seed": seed,
        "n_train": n_train,
        "n_test": n_test,
        "n_test_all": n_test_all,
        "evaluated_on": "test",
        "duplicates_across_split": arm.duplicates,
        "largest_unit": arm.largest_unit,
        "accuracy": round((accuracy - 0.008) * n_test) / n_test,
        "accuracy_all": round(accuracy * n_test_all) / n_test_all,
        **_metrics(accuracy),
        "loss": 0.1,
        "device": "cpu",
        "config_digest": f"{sum(map(ord, name)):016x}",
        "data_digest": "00000000deadbeef",
    }


def _metrics(accuracy: float) -> dict[str, float]:
    """Return metrics below the accuracy, with intervals."""
    found: dict[str, float] = {}
    for place, metric in enumerate(("balanced_accuracy", "macro_f1", "worst_class_recall", "auc")):
        value = accuracy - 0.01 * (place + 1)
        found |= {metric: value, f"{metric}_low": value - 0.005, f"{metric}_high": value + 0.005}
    return found


def _cost(name: str, arm: MadeUpArm, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    seconds = arm.seconds * (1 + 0.04 * rng.standard_normal())
    rounds = _rounds(arm)
    sent = arm.upload * (rounds or 0) * (arm.clients or 0)
    return {
        "arm": name,
        "seed": seed,
        "seconds": seconds,
        "cpu_seconds": 0.98 * seconds,
        "training_memory_mb": 420 + 2 * arm.seconds + 6 * rng.standard_normal(),
        "rounds": rounds,
        "clients": arm.clients or 1,
        "bytes_up": sent,
        "bytes_down": sent,
        "expansion": arm.upload / 104_040 if arm.upload else None,
    }


def _history(name: str, arm: MadeUpArm, seed: int, accuracy: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    unit, steps = ("round", 20) if arm.topology == "federated" else ("epoch", 10)
    rows = []
    for step in range(steps + 1):
        climbed = 1 - math.exp(-step * 7 / steps)
        value = 0.1 + (accuracy - 0.1) * climbed + 0.004 * rng.standard_normal() * (step < steps)
        rows.append(
            {"arm": name, "seed": seed, "unit": unit, "step": step, "train_loss": 1.0, "loss": 1.0, "accuracy": value}
        )
    return rows


def _classes(record: dict[str, Any], classes: int) -> list[dict[str, Any]]:
    """Return the recall of each class; the last class is the hardest."""
    shared = {"arm": record["arm"], "seed": record["seed"]}
    size = record["n_test_all"] // classes
    return [
        {**shared, "class": f"class {label}", "examples": size}
        | dict.fromkeys(("recall", "precision", "f1"), record["accuracy_all"] * (1 - 0.01 * label))
        for label in range(classes)
    ]


def _confusion(record: dict[str, Any], classes: int) -> list[dict[str, Any]]:
    """Return the examples of each class: most of them right, the others in the next class."""
    size, rows = record["n_test_all"] // classes, []
    for label in range(classes):
        right = round(size * record["accuracy_all"])
        for other, count in ((label, right), ((label + 1) % classes, size - right)):
            names = {"true": f"class {label}", "predicted": f"class {other}"}
            rows.append({"arm": record["arm"], "seed": record["seed"], **names, "examples": count})
    return rows


def _pictures(name: str, classes: int) -> list[dict[str, Any]]:
    """Return two images, of which the second is predicted wrongly."""
    rows = []
    for number in range(2):
        content = io.BytesIO()
        Image.fromarray(np.full((8, 8), 100 * number, dtype=np.uint8)).save(content, format="PNG")
        found = {"label": "class 0", "predicted": f"class {number}", "example": number}
        rows.append({"arm": name, "seed": 0, **found, "png": base64.b64encode(content.getvalue()).decode()})
    return rows


def _clients(arm: MadeUpArm, record: dict[str, Any], classes: int) -> list[dict[str, Any]]:
    assert arm.clients is not None and arm.partition is not None
    rng = np.random.default_rng([sum(map(ord, arm.partition)), record["seed"]])
    sizes = arm.sizes or (record["n_train"] // arm.clients,) * arm.clients
    rows = []
    for client, number in enumerate(sizes):
        even = arm.partition.startswith("iid")
        fractions = np.full(classes, 1 / classes) if even else rng.dirichlet(np.full(classes, 0.3))
        counts = rng.multinomial(number, fractions)
        # The client with the fewest examples has the largest epsilon.
        spent = None if arm.epsilon is None else record["epsilon"] * math.sqrt(min(sizes) / number)
        rows.append(
            {"arm": record["arm"], "seed": record["seed"], "partition": arm.partition, "client": client, "name": None}
            | {"records": number, **{f"label_{label}": count for label, count in enumerate(counts.tolist())}}
            | {"accuracy": arm.accuracy, "epsilon": spent}
        )
    return rows
