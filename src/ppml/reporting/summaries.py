"""Summaries with one row for each arm, from rows for each arm and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from ppml.config.experiment import MetricName
from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_arms
from ppml.reporting.leading_metric import column_of, estimate_metric
from ppml.reporting.statistics import Estimate, estimate

CONSTANT = (
    *("dataset", "model", "topology", "partition", "clients", "rounds", "privacy_unit", "noise", "noise_source"),
    *("sampling_source", "update_opened_by", "sum_seen_by", "aggregation", "delta", "neighbouring", "max_grad_norm"),
    *("data_kind", "transforms", "n_train", "n_test", "n_test_all", "evaluated_on", "device"),
    *("duplicates_across_split", "largest_unit"),
)
"""Columns that must be equal for all seeds of an arm; otherwise a mean over them has no meaning."""


NOTHING = Estimate(math.nan, math.nan, 0, math.nan, math.nan, "none")
"""The estimate without a value."""


def summarise(view: ExperimentView, arms: Sequence[str], records: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each arm with the raw numbers of a table.

    Parameters
    ----------
    view : ExperimentView
        View with the labels.
    arms : sequence of str
        Arms to summarise, in the order of the rows.
    records, costs : pandas.DataFrame
        One row for each arm and seed.

    Returns
    -------
    pandas.DataFrame
        Indexed by arm. Accuracies, and ``score``, the leading ``metric``, are fractions, each with ``_mean``, ``_sd``
        (n - 1), ``_low``, ``_high`` (95 %) and ``_interval`` (``t``, ``range``, ``wilson``, ``examples``, ``none``);
        ``epsilon`` is the largest over clients and seeds, infinite without privacy; ``records_per_owner`` is the mean
        number of training examples of an owner; bytes are ``upload_mean`` (a client and round) and ``round_bytes_mean``
        (all clients, both ways; nan without rounds).

    Raises
    ------
    UserError
        An arm has no rows, two rows for a seed, or seeds that differ in data set or guarantee.
    """
    require_arms(records, arms, "records.csv")
    require_arms(costs, arms, "costs.csv")
    rows = [
        _summary(arm, view.label(arm), rows_for_arm(records, arm), rows_for_arm(costs, arm), view.metric)
        for arm in arms
    ]
    summary = pd.DataFrame(rows, index=pd.Index(list(arms), name="arm"))
    # With a missing number of rounds the others must stay integers.
    return summary.astype({"clients": "Int64", "rounds": "Int64"})


@dataclass(frozen=True)
class ArmResult:
    """The rows of an arm in records.csv, in the order of the seeds."""

    arm: str
    label: str
    rows: pd.DataFrame
    metric: MetricName

    @property
    def first(self) -> pd.Series:
        """The row of the first seed."""
        return self.rows.iloc[0]

    @property
    def private(self) -> bool:
        """Whether every seed has privacy."""
        return bool((self.rows["privacy_unit"] != "none").all())

    @property
    def epsilon(self) -> float:
        """The largest epsilon over clients and seeds, infinite without privacy."""
        return float(self.rows["epsilon"].max()) if self.private else math.inf

    @cached_property
    def score(self) -> Estimate:
        """The leading metric on all test examples, a fraction with its interval."""
        return estimate_metric(self.rows, self.metric)


def arm_results(view: ExperimentView, records: pd.DataFrame) -> list[ArmResult]:
    """Return the results of the arms of ``view``, in its order.

    Raises
    ------
    UserError
        An arm has no result rows.
    """
    require_arms(records, view.arms, "records.csv")
    return [ArmResult(arm, label, rows_for_arm(records, arm), view.metric) for arm, label in view.arms.items()]


def rows_for_arm(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the rows of ``arm`` in the order of the seeds."""
    return frame[frame["arm"] == arm].sort_values("seed", kind="stable")


def _summary(arm: str, label: str, records: pd.DataFrame, costs: pd.DataFrame, metric: MetricName) -> dict[str, Any]:
    for file, rows in (("records.csv", records), ("costs.csv", costs)):
        for seed in rows["seed"][rows["seed"].duplicated()]:
            raise UserError(f"{file}: arm {arm!r} has two rows for seed {seed}; one is allowed")
    row: dict[str, Any] = {"label": label}
    row |= {column: _common(arm, records, column) for column in CONSTANT}
    row["records_per_owner"] = int(row["n_train"]) / owners(row["clients"])
    row["seeds"] = len(records)
    row |= _estimates("accuracy", records["accuracy"], trials=int(row["n_test"]))
    row |= _estimates("accuracy_all", records["accuracy_all"], trials=int(row["n_test_all"]))
    row |= {"metric": metric, **_parts("score", estimate_metric(records, metric))}
    # Without privacy epsilon is infinite; nan would mean a missing number.
    row["epsilon"] = math.inf if row["privacy_unit"] == "none" else float(records["epsilon"].max())
    # The accountant of the largest epsilon: seeds may differ in it.
    row["accountant"] = None if row["privacy_unit"] == "none" else largest_epsilon(records)["accountant"]
    row["epsilon_replace_one"] = float(records["epsilon_replace_one"].max())
    row["epsilon_if_opened"] = float(records["epsilon_if_opened"].max())
    row["population_size"] = population_size(row)
    measured = costs.assign(upload=upload(costs), round_bytes=round_bytes(costs))
    for column in ("seconds", "cpu_seconds", "training_memory_mb", "upload", "round_bytes", "expansion"):
        row |= _estimates(column, measured[column])
    for column in ("config_digest", "data_digest"):
        row[column] = " ".join(dict.fromkeys(records[column].astype(str)))
    return row


def scores_by_seed(records: pd.DataFrame, arms: Sequence[str], metric: MetricName) -> pd.DataFrame:
    """Return a metric on all test examples, a column for each arm and a row for each seed that all have."""
    chosen = records[records["arm"].isin([*arms])]
    return chosen.pivot(index="seed", columns="arm", values=column_of(metric)).dropna()


def most_accurate(arms: Sequence[str], records: pd.DataFrame) -> str:
    """Return the most accurate arm on the seeds that all ``arms`` have; of equal arms, the first."""
    means = scores_by_seed(records, arms, "accuracy")[[*arms]].mean()
    return str(means.idxmax()) if means.notna().all() else arms[0]


def largest_epsilon(records: pd.DataFrame) -> pd.Series:
    """Return the row of the seed with the largest epsilon."""
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


def known_estimate(values: pd.Series, trials: int | None = None) -> Estimate:
    """Return the estimate of the values that are not missing; all its numbers are nan without any."""
    known = values.dropna()
    return NOTHING if known.empty else estimate(known, trials=trials)


def _estimates(name: str, values: pd.Series, trials: int | None = None) -> dict[str, Any]:
    return _parts(name, known_estimate(values, trials))


def _parts(name: str, found: Estimate) -> dict[str, Any]:
    parts = {"mean": found.mean, "sd": found.deviation, "low": found.low, "high": found.high, "interval": found.kind}
    return {f"{name}_{part}": value for part, value in parts.items()}


def _common(arm: str, rows: pd.DataFrame, column: str) -> Any:
    found = rows[column].drop_duplicates()
    if len(found) > 1:
        raise UserError(
            f"records.csv: arm {arm!r}: {column} differs between seeds: {', '.join(map(str, found))}; a mean over them "
            "has no meaning: remove the stale records and run the workflow again"
        )
    return found.iloc[0]
