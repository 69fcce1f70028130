"""Summaries with one row for each arm, from rows for each arm and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.statistics import estimate

CONSTANT = (
    *("dataset", "model", "topology", "partition", "clients", "rounds", "privacy_unit", "noise", "noise_source"),
    "sampling_source",
    *(
        "update_opened_by",
        "sum_seen_by",
        "aggregation",
        "delta",
        "neighbouring",
        "max_grad_norm",
        "n_train",
        "n_test",
        "n_test_all",
    ),
    *("evaluated_on", "device"),
)
"""Columns that must be equal for all seeds of an arm; otherwise a mean over them has no meaning."""


def summarise(view: ExperimentView, arms: Sequence[str], records: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each arm with the raw numbers of a table.

    Parameters
    ----------
    view : Selection
        View with the labels.
    arms : sequence of str
        Arms to summarise, in the order of the rows.
    records, costs : pandas.DataFrame
        One row for each arm and seed.

    Returns
    -------
    pandas.DataFrame
        Indexed by arm. Accuracies are fractions, each with ``_mean``, ``_sd`` (n - 1), ``_low``, ``_high`` (95 %) and
        ``_interval`` (``t``, ``wilson``, ``none``); ``epsilon`` is the largest over clients and seeds, infinite
        without privacy; ``records_per_owner`` is the mean number of training images of an owner; bytes are
        ``upload_mean`` (a client and round) and ``round_bytes_mean`` (all clients, both ways; nan without
        rounds).

    Raises
    ------
    UserError
        An arm has no rows, two rows for a seed, or seeds that differ in data set or guarantee.
    """
    require_arms(records, arms, "records.csv")
    require_arms(costs, arms, "costs.csv")
    rows = [_summary(arm, view.label(arm), rows_for_arm(records, arm), rows_for_arm(costs, arm)) for arm in arms]
    summary = pd.DataFrame(rows, index=pd.Index(list(arms), name="arm"))
    # With a missing number of rounds the others must stay integers.
    return summary.astype({"clients": "Int64", "rounds": "Int64"})


def rows_for_arm(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the rows of ``arm`` in the order of the seeds."""
    return frame[frame["arm"] == arm].sort_values("seed", kind="stable")


def _summary(arm: str, label: str, records: pd.DataFrame, costs: pd.DataFrame) -> dict[str, Any]:
    _require_one_row_a_seed(arm, records, "records.csv")
    _require_one_row_a_seed(arm, costs, "costs.csv")
    row: dict[str, Any] = {"label": label}
    row |= {column: _common(arm, records, column) for column in CONSTANT}
    row["records_per_owner"] = int(row["n_train"]) / owners(row["clients"])
    row["seeds"] = len(records)
    row |= _estimates("accuracy", records["accuracy"], trials=int(row["n_test"]))
    row |= _estimates("accuracy_all", records["accuracy_all"], trials=int(row["n_test_all"]))
    # Without privacy epsilon is infinite; nan would mean a missing number.
    row["epsilon"] = math.inf if row["privacy_unit"] == "none" else float(records["epsilon"].max())
    # The accountant of the largest epsilon: seeds may differ in it.
    row["accountant"] = None if row["privacy_unit"] == "none" else _largest(records)["accountant"]
    row["epsilon_replace_one"] = float(records["epsilon_replace_one"].max())
    row["epsilon_if_opened"] = float(records["epsilon_if_opened"].max())
    row["population_size"] = population_size(row)
    for column in ("seconds", "cpu_seconds", "peak_memory_mb"):
        row |= _estimates(column, costs[column])
    row |= _estimates("upload", upload(costs))
    row |= _estimates("round_bytes", round_bytes(costs))
    row |= _estimates("expansion", costs["expansion"])
    for column in ("config_digest", "data_digest"):
        row[column] = " ".join(dict.fromkeys(records[column].astype(str)))
    return row


def _largest(records: pd.DataFrame) -> pd.Series:
    return records.sort_values("epsilon", kind="stable").iloc[-1]


def owners(clients: Any) -> int:
    """Return the number of owners of examples: the clients, or one without a partition."""
    return 1 if pd.isna(clients) else max(int(clients), 1)


def population_size(row: Mapping[str, Any]) -> float:
    """Return the number of examples, or clients, among which one is protected.

    Of examples: the number of one owner; with distributed noise, the number of all owners.
    """
    if row["privacy_unit"] == "client":
        return float(row["clients"])
    return float(row["n_train"]) if row["noise"] == "distributed" else float(row["records_per_owner"])


def upload(costs: pd.DataFrame) -> pd.Series:
    """Return the bytes that a client sends in a round, for each row of ``costs``; nan without federation."""
    sent = costs["bytes_up"].where(costs["bytes_up"] > 0)
    return sent / costs["clients"] / costs["rounds"]


def round_bytes(costs: pd.DataFrame) -> pd.Series:
    """Return the bytes of a round, all clients, up and down, for each row of ``costs``; nan without federation."""
    sent = (costs["bytes_up"] + costs["bytes_down"]).where(costs["bytes_up"] > 0)
    return sent / costs["rounds"]


def _estimates(name: str, values: pd.Series, trials: int | None = None) -> dict[str, Any]:
    present = values.dropna()
    if present.empty:
        return {f"{name}_{part}": math.nan for part in ("mean", "sd", "low", "high")} | {f"{name}_interval": "none"}
    result = estimate(present, trials=trials)
    return {
        f"{name}_mean": result.mean,
        f"{name}_sd": result.deviation,
        f"{name}_low": result.low,
        f"{name}_high": result.high,
        f"{name}_interval": result.kind,
    }


def _require_one_row_a_seed(arm: str, rows: pd.DataFrame, file: str) -> None:
    twice = rows["seed"][rows["seed"].duplicated()]
    if not twice.empty:
        raise UserError(f"{file}: arm {arm!r} has two rows for seed {twice.iloc[0]}; one is allowed")


def _common(arm: str, rows: pd.DataFrame, column: str) -> Any:
    found = rows[column].drop_duplicates()
    if len(found) > 1:
        raise UserError(
            f"records.csv: arm {arm!r}: {column} differs between seeds: {', '.join(map(str, found))}; a mean over them "
            "has no meaning: remove the stale records and run the workflow again"
        )
    return found.iloc[0]
