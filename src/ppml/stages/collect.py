"""Stage collect: all runs as tidy tables, and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open
from safetensors.numpy import load_file

from ppml.accounting.joint import joint_epsilon
from ppml.auditing.verdict import audit_row, evaluate_audit
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json, write_text
from ppml.jobs.job import Job
from ppml.results.class_metrics import METRICS
from ppml.results.class_rows import class_rows, confusion_rows
from ppml.results.joint import joint_rows, parse_release
from ppml.results.picture_rows import picture_rows
from ppml.results.rows import Run, client_rows, cost_row, epsilon_rows, history_rows, record_row
from ppml.results.tidy_files import TIDY_FILES

STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "log_probabilities")
"""Entries of a model's file that are no parameters: statistics of batch normalization, answers of a reference."""


def run(job: Job) -> None:
    """Write record.json beside every run, the tidy files, and the metrics of each arm.

    The specification holds runs, each with arm, seed, folder, partition and audit (files, or null) and inference
    (files), the file of each arm's metrics, the confidence of the audits, the arms of each table, and the arms whose
    confusion matrices are shown.

    Raises
    ------
    UserError
        An audit contradicts the claim of an arm. Then no tidy file is written, so that no table or figure shows its
        epsilon.
    """
    rows = collect_rows(dict(job.spec))
    for name, tidy in TIDY_FILES.items():
        write_text(job.outputs[name], to_csv(rows[name], tidy.columns))
    for arm, metrics in summarise(pd.DataFrame(rows["records"])).items():
        write_json(job.spec["metrics"][arm], metrics)


def collect_rows(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each tidy file, and write record.json beside every run."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TIDY_FILES}
    rows["audits"] = judge_audits(spec)
    releases = []
    for entry in spec["runs"]:
        one = read_run(entry["arm"], Path(entry["folder"]), entry["partition"])
        row = record_row(one)
        write_json(Path(entry["folder"]) / "record.json", row)
        rows["records"].append(row)
        rows["costs"].append(cost_row(one))
        rows["history"] += history_rows(one)
        rows["clients"] += client_rows(one)
        rows["classes"] += class_rows(one)
        rows["pictures"] += picture_rows(one, Path(entry["pictures"])) if entry["pictures"] else []
        rows["confusion"] += confusion_rows(one) if one.arm in spec["confusion"] else []
        rows["epsilons"] += epsilon_rows(one)
        rows["inferences"] += [inference_row(entry)] if entry["inference"] else []
        releases += [found] if (found := parse_release(one.arm, one.config["seed"], one.privacy)) else []
    rows["joint"] = joint_rows(releases, spec["tables"], joint_epsilon)
    return rows


def inference_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the row of inferences.csv: results and costs of one run's prediction on encrypted images."""
    result, cost = map(read_json, entry["inference"])
    return {"arm": entry["arm"], "seed": entry["seed"], **result, **cost}


def judge_audits(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of audits.csv; raise an error with the name of each arm whose claim does not hold."""
    audited = [entry for entry in spec["runs"] if entry["audit"]]
    rows, wrong = [], []
    for entry in audited:
        measured = read_json(entry["audit"])
        level = {"confidence": spec["audit"]["confidence"], "family": len(audited)}
        verdict = evaluate_audit(measured, **level, published=read_json(Path(entry["folder"]) / "privacy.json"))
        rows.append(audit_row(entry["arm"], entry["seed"], measured, verdict, **level))
        wrong += [f"audit of arm {entry['arm']}: {violation} ({entry['audit']})" for violation in verdict.violations]
    if wrong:
        raise UserError("\n".join([*wrong, "nothing is published while the audit contradicts a claim"]))
    return rows


def read_run(arm: str, folder: Path, partition: str | None) -> Run:
    """Read the files of one run."""
    predictions = load_file(folder / "predictions.safetensors")
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        names = [
            name
            for name in weights.keys()  # noqa: SIM118 (no mapping)
            if name.startswith("0.") and not name.endswith(STATISTICS)
        ]
        shapes = [weights.get_slice(name).get_shape() for name in names]
    history = pd.read_csv(folder / "history.csv").to_dict("records")
    return Run(
        arm=arm,
        config=read_json(folder / "config.json"),
        privacy=read_json(folder / "privacy.json"),
        cost=read_json(folder / "cost.json"),
        history=[{str(key): value for key, value in row.items()} for row in history],
        predicted=predictions["predicted"],
        true_log_probabilities=predictions["true_log_probabilities"],
        labels=predictions["labels"],
        scores=predictions.get("scores"),
        parameters=sum(_size(shape) for shape in shapes) or None,
        partition=read_json(partition) if partition else None,
    )


def to_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV, with the columns in the order of the first row; without a row, a header of ``columns``."""
    # Mixed columns of None and int would become float: object keeps 8 as 8.
    frame = pd.DataFrame(rows, dtype=object) if rows else pd.DataFrame(columns=list(columns))
    return frame.to_csv(index=False, lineterminator="\n")


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Return mean and standard deviation of the results of each arm, and the number of its seeds."""
    summary: dict[str, Any] = {}
    for arm, group in table.groupby("arm", sort=False):
        summary[str(arm)] = {
            "seeds": len(group),
            "accuracy": _moments(group["accuracy"]),
            "accuracy_all": _moments(group["accuracy_all"]),
            **{name: _moments(group[name]) for name in METRICS},
            **({"auc": _moments(group["auc"])} if group["auc"].notna().all() else {}),
            "loss": _moments(group["loss"]),
            "epsilon": None if group["epsilon"].isna().all() else float(group["epsilon"].max()),
        }
    return summary


def _moments(values: pd.Series) -> dict[str, float | None]:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "std": deviation}


def _size(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
