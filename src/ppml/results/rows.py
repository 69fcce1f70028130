"""The result rows of one run in the tidy tables, the source of all reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.aggregation.visibility import Visibility, visibility_of
from ppml.aggregation_parameters import clients_per_round
from ppml.config.arm import Arm
from ppml.config.technique import Federated
from ppml.config.transforms import Transform
from ppml.io.canonical_json import digest
from ppml.results.class_metrics import Metric, area_under_curve, class_metrics, confusion_matrix

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Run:
    """The results of one arm and seed.

    Parameters
    ----------
    arm : str
        The arm's name.
    config, privacy, cost : dict
        Contents of config.json, privacy.json and cost.json.
    history : list of dict
        Rows of history.csv.
    predicted : unsigned integer array, shape ``(models, n_test_all)``
        The predicted class of each test image; the first ``n_test`` are the paper's test images.
    true_log_probabilities : float32 array, shape ``(models, n_test)``
        The log-probability of the true class of the paper's test images.
    labels : unsigned integer array, shape ``(n_test_all,)``
        The true classes.
    scores : float32 array, shape ``(models, n_test_all)``, or None
        Of two classes: larger for examples that look more like the second one.
    parameters : int or None
        Number of weights of one model; None for a reference model, whose library has its own format.
    partition : dict or None
        Content of the partition's file; None with a single owner.
    """

    arm: str
    config: dict[str, Any]
    privacy: dict[str, Any]
    cost: dict[str, Any]
    history: list[dict[str, Any]]
    predicted: NDArray[np.unsignedinteger]
    true_log_probabilities: NDArray[np.float32]
    labels: NDArray[np.unsignedinteger]
    scores: NDArray[np.float32] | None
    parameters: int | None
    partition: dict[str, Any] | None

    @property
    def clients(self) -> int:
        """Number of owners of examples."""
        return len(self.partition["clients"]) if self.partition else 1

    @property
    def n_train(self) -> int:
        """Number of training images that have an owner."""
        if self.partition is None:
            return int(self.config["data"]["n_train"])
        return sum(map(sum, self.partition["labels"]))

    @property
    def rounds(self) -> int | None:
        """Number of rounds, None without a federation."""
        rounds: int | None = self.config["arm"]["topology"].get("rounds")
        return rounds

    @cached_property
    def technique(self) -> Arm:
        """The arm of the run, without label and seeds."""
        return Arm.model_validate(self.config["arm"])

    @property
    def visibility(self) -> Visibility | None:
        """The visibility of updates and sums, None without a federation."""
        topology = self.technique.topology
        if not isinstance(topology, Federated):
            return None
        return visibility_of(self.technique.aggregation, clients_per_round(topology.participation, self.clients))

    def accuracies(self) -> NDArray[np.float64]:
        """Return each model's accuracy on the paper's test images and on all, shape ``(models, 2)``."""
        right = self.predicted == self.labels
        return np.stack([right[:, : self.config["data"]["n_test"]].mean(axis=1), right.mean(axis=1)], axis=1)

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, by label."""
        names: Sequence[str] = self.config["data"]["contract"]["classes"]
        return names

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """The confusion matrix of each model on all test examples, shape ``(models, classes, classes)``."""
        count = len(self.classes)
        return np.stack([confusion_matrix(self.labels, predicted, count) for predicted in self.predicted])

    def area(self) -> Metric:
        """Return the area under the ROC curve on all test examples, the mean over models; nan unless two classes."""
        if self.scores is None:
            return Metric(np.nan, np.nan, np.nan)
        each = [area_under_curve(self.labels, scores) for scores in self.scores]
        return Metric(*(float(np.mean([getattr(one, part) for one in each])) for part in ("value", "low", "high")))

    def loss(self) -> float:
        """Return the mean cross-entropy (nats) on the paper's test images, over all models."""
        # The last digit depends on the order of the sum: image by image, as in all published results.
        return float(-self.true_log_probabilities.astype(np.float64, order="F").mean())


def record_row(run: Run) -> dict[str, Any]:
    """Return the row of records.csv."""
    arm, data, privacy = run.config["arm"], run.config["data"], run.privacy
    topology, visibility = arm["topology"], run.visibility
    accuracy, accuracy_all = run.accuracies().mean(axis=0)
    identity = {key: run.config[key] for key in ("arm", "dataset", "root_seed", "device")}
    return {
        "arm": run.arm,
        "dataset": run.config["dataset"],
        "data_kind": data.get("raw", data["contract"])["kind"],
        "transforms": _transforms_text(run.technique.transforms),
        "model": arm["model"],
        "parameters": run.parameters,
        "topology": topology["kind"],
        "privacy_unit": privacy["unit"],
        "noise": arm["privacy"].get("noise", "none"),
        "noise_source": privacy.get("noise_source"),
        "sampling_source": privacy.get("sampling_source"),
        "sampler": privacy.get("sampler"),
        "aggregation": arm["aggregation"]["kind"] if topology["kind"] == "federated" else "none",
        "update_opened_by": visibility.update if visibility else None,
        "sum_seen_by": visibility.sum if visibility else None,
        "clients": run.clients,
        "partition": topology.get("partition"),
        # Plan.technique writes the content of the partition here, which begins with its kind.
        "division": topology["partition"].split("-")[0] if "partition" in topology else None,
        "rounds": run.rounds,
        "epochs": arm["training"]["epochs"],
        "seed": run.config["seed"],
        "n_train": run.n_train,
        "n_test": data["n_test"],
        "n_test_all": data["n_test_all"],
        "evaluated_on": data["evaluate_on"],
        "duplicates_across_split": data.get("duplicates_across_split", 0),
        "largest_unit": data.get("largest_unit", 1),
        "accuracy": accuracy,
        "accuracy_all": accuracy_all,
        **_metric_columns({**class_metrics(run.confusion), "auc": run.area()}),
        "loss": run.loss(),
        "epsilon": privacy["epsilon"],
        **{f"epsilon_{name}": privacy.get(f"epsilon_{name}") for name in ("rdp", "prv", "pld", "gdp")},
        "epsilon_replace_one": privacy.get("epsilon_replace_one"),
        "epsilon_if_opened": privacy.get("epsilon_if_opened"),
        "budget": privacy.get("budget"),
        "delta": privacy.get("delta"),
        "accountant": privacy.get("accountant"),
        "neighbouring": privacy.get("neighbouring"),
        "mechanism": privacy.get("mechanism"),
        "noise_multiplier": privacy.get("noise_multiplier"),
        "max_grad_norm": privacy.get("max_grad_norm"),
        "sample_rate": privacy.get("sample_rate"),
        "steps": privacy.get("steps"),
        "steps_planned": privacy.get("steps_planned"),
        "device": run.config["device"],
        "config_digest": digest(identity),
        "data_digest": data["digest"],
    }


def _transforms_text(transforms: Sequence[Transform]) -> str:
    """Return the kinds of transforms in their order, each with its settings other than the defaults."""
    found = []
    for one in transforms:
        changed = [f"{key}={value}" for key, value in sorted(one.model_dump(exclude_defaults=True).items())]
        found.append(one.kind + (f"({' '.join(changed)})" if changed else ""))
    return "+".join(found)


def _metric_columns(metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """Return value, low and high of each metric; None where it is not defined."""
    columns: dict[str, float | None] = {}
    for name, metric in metrics.items():
        values = {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
        columns |= {key: None if np.isnan(value) else value for key, value in values.items()}
    return columns


def cost_row(run: Run) -> dict[str, Any]:
    """Return the row of costs.csv; ``expansion`` is the ratio of uploaded bytes to the updates in float32."""
    updates = run.clients * (run.rounds or 0)
    plain = updates * (run.parameters or 0) * FLOAT32_BYTES
    return {
        "arm": run.arm,
        "seed": run.config["seed"],
        "clients": run.clients,
        "rounds": run.rounds,
        "seconds": run.cost["seconds"],
        "cpu_seconds": run.cost["cpu_seconds"],
        "training_memory_mb": run.cost["training_memory_mb"],
        "bytes_up": run.cost["bytes_up"],
        "bytes_down": run.cost["bytes_down"],
        "expansion": run.cost["bytes_up"] / plain if plain else None,
    }


def history_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of history.csv."""
    unit = "round" if run.rounds else "epoch"
    return [{"arm": run.arm, "seed": run.config["seed"], "unit": unit, **row} for row in run.history]


def epsilon_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of epsilons.csv: step, passes over the examples, and the epsilon after the step.

    The rows describe the owner with the largest epsilon; a run without privacy has none.
    """
    return [
        {"arm": run.arm, "seed": run.config["seed"], "accountant": run.privacy["accountant"], **point}
        for point in run.privacy.get("curve", ())
    ]


def client_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of clients.csv: each owner's numbers of examples and labels, accuracy, and epsilon."""
    if run.partition is None:
        return []
    accuracies: Sequence[float] = run.accuracies()[:, 0].tolist()
    epsilons = run.privacy.get("epsilons", [None] * run.clients)
    names = run.partition.get("names", [None] * run.clients)
    return [
        {
            "arm": run.arm,
            "seed": run.config["seed"],
            "partition": run.config["arm"]["topology"]["partition"],
            "client": client,
            # Natural clients have the names of their groups.
            "name": names[client],
            "records": sum(counts),
            **{f"label_{label}": count for label, count in enumerate(counts)},
            # All clients of a federation have the same model.
            "accuracy": accuracies[client if len(accuracies) > 1 else 0],
            "epsilon": epsilons[client],
        }
        for client, counts in enumerate(run.partition["labels"])
    ]
