"""Rule collect: all runs as tidy tables, and their summary."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open
from safetensors.numpy import load_file

from ppml.accounting.joint import joint_epsilon
from ppml.auditing.verdict import COLUMNS, audit_row, judge
from ppml.errors import UserError
from ppml.io.atomic import read_json, write_json, write_text
from ppml.results import rows as records
from ppml.results.columns import INFERENCES
from ppml.results.joint import JOINT, joint, release

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What batch normalisation keeps beside its parameters."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write record.json beside every run, the CSV files and metrics.json.

    ``--spec`` holds runs, each with arm, seed, folder, partition and audit (files, or null) and inference (files), how
    audits are judged, and the names of the arms that each table shows.

    Raises
    ------
    UserError
        An audit contradicts what an arm claims: then nothing is collected, and so no table or figure shows its epsilon.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    for name in ("records", "costs", "history", "clients", "epsilons", "audits", "inferences", "joint", "metrics"):
        parser.add_argument(f"--output-{name}", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows: dict[str, list[dict[str, Any]]] = {"records": [], "costs": [], "history": [], "clients": [], "epsilons": []}
    audits = judge_audits(arguments.spec)
    releases = []
    for entry in arguments.spec["runs"]:
        one = read_run(entry["arm"], Path(entry["folder"]), entry["partition"])
        row = records.record(one)
        write_json(Path(entry["folder"]) / "record.json", row)
        rows["records"].append(row)
        rows["costs"].append(records.cost(one))
        rows["history"] += records.history(one)
        rows["clients"] += records.clients(one)
        rows["epsilons"] += records.epsilons(one)
        releases += [found] if (found := release(one.arm, one.config["seed"], one.privacy)) else []
    for name, content in rows.items():
        write_text(getattr(arguments, f"output_{name}"), to_csv(content))
    write_text(arguments.output_audits, pd.DataFrame(audits, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))
    together = joint(releases, arguments.spec["tables"], joint_epsilon)
    write_text(arguments.output_joint, pd.DataFrame(together, columns=JOINT).to_csv(index=False, lineterminator="\n"))
    inferences = [inference_row(entry) for entry in arguments.spec["runs"] if entry["inference"]]
    write_text(
        arguments.output_inferences,
        pd.DataFrame(inferences, columns=INFERENCES).to_csv(index=False, lineterminator="\n"),
    )
    write_json(arguments.output_metrics, summarise(pd.DataFrame(rows["records"])))


def inference_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the row of inferences.csv: what is written of one run's prediction on encrypted images."""
    result, cost = map(read_json, entry["inference"])
    return {"arm": entry["arm"], "seed": entry["seed"], **result, **cost}


def judge_audits(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of audits.csv, or raise an error that names each arm whose claim does not hold."""
    audited = [entry for entry in spec["runs"] if entry["audit"]]
    rows, wrong = [], []
    for entry in audited:
        measured = read_json(entry["audit"])
        level = {"confidence": spec["audit"]["confidence"], "family": len(audited)}
        verdict = judge(measured, **level, published=read_json(Path(entry["folder"]) / "privacy.json"))
        rows.append(audit_row(entry["arm"], entry["seed"], measured, verdict, **level))
        wrong += [f"audit of arm {entry['arm']}: {fault} ({entry['audit']})" for fault in verdict.faults]
    if wrong:
        raise UserError("\n".join([*wrong, "nothing is published while the audit contradicts a claim"]))
    return rows


def read_run(arm: str, folder: Path, partition: str | None) -> records.Run:
    """Read what the stages wrote into the folder of one run."""
    predictions = load_file(folder / "predictions.safetensors")
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        names = [
            name
            for name in weights.keys()  # noqa: SIM118 (no mapping)
            if name.startswith("0.") and not name.endswith(STATISTICS)
        ]
        shapes = [weights.get_slice(name).get_shape() for name in names]
    history = pd.read_csv(folder / "history.csv").to_dict("records")
    return records.Run(
        arm=arm,
        config=read_json(folder / "config.json"),
        privacy=read_json(folder / "privacy.json"),
        cost=read_json(folder / "cost.json"),
        history=[{str(key): value for key, value in row.items()} for row in history],
        log_probabilities=predictions["log_probabilities"],
        labels=predictions["labels"],
        parameters=sum(_size(shape) for shape in shapes),
        partition=read_json(partition) if partition else None,
    )


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV with the columns in the order of the first row; empty cells where there is nothing."""
    # Mixed columns of None and int would turn to float: object keeps 8 as 8.
    return pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n")


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Return mean, standard deviation and number of seeds of each arm's figures."""
    summary: dict[str, Any] = {}
    for arm, group in table.groupby("arm", sort=False):
        summary[str(arm)] = {
            "seeds": len(group),
            "accuracy": _moments(group["accuracy"]),
            "accuracy_all": _moments(group["accuracy_all"]),
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
