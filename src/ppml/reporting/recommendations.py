"""Recommendations: a threat, a technique against it, its cost, and the parties that must be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.summaries import accuracy_by_seed, summarise

EXAMPLES_MOVE = "My examples leave my site"
SERVER_READS_UPDATE = "The server reads my update"
MODEL_REVEALS_EXAMPLE = "The released model reveals an example"
UPDATE_AND_MODEL_REVEAL_EXAMPLE = "My update, or the model, reveals an example"
MODEL_REVEALS_CLIENT = "The released model reveals all examples of a client"
SERVER_READS_INPUT = "The prediction server reads my input"
THREATS = (
    MODEL_REVEALS_EXAMPLE,
    EXAMPLES_MOVE,
    SERVER_READS_UPDATE,
    UPDATE_AND_MODEL_REVEAL_EXAMPLE,
    MODEL_REVEALS_CLIENT,
    SERVER_READS_INPUT,
)
"""The threats, in the order of the recommendations."""


@dataclass(frozen=True)
class Recommendation:
    """An arm against a threat. A number that does not apply is nan."""

    threat: str
    """One of :data:`THREATS`."""
    arm: str
    label: str
    epsilon: float
    """Infinite without differential privacy."""
    accuracy: float
    """Mean over the seeds, on all evaluated images."""
    accuracy_sd: float
    accuracy_low: float
    accuracy_high: float
    """Standard deviation over the seeds, and the 95 % interval."""
    reference: str
    """Label of the arm of one owner with the same model and examples and without privacy; empty without one."""
    accuracy_lost: float
    """Fraction below the reference, on the seeds of both."""
    time_factor: float
    """CPU time over that of the reference."""
    upload: float
    """Bytes that a client sends in a round."""
    expansion: float
    """Those bytes over the same update in 32-bit floats."""
    prediction_seconds: float
    """CPU time of one encrypted prediction, client and server."""
    prediction_bytes: float
    """Bytes of one encrypted prediction, up and down."""
    trust: str
    """The parties, and the trust in them."""


def recommendations(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame
) -> list[Recommendation]:
    """Return a recommendation for each protected arm of ``view``.

    The order is that of :data:`THREATS`. The first arm of a threat is the most accurate on the seeds that all its arms
    have; of equal arms, the arm with the smallest upload.

    Raises
    ------
    UserError
        An arm has no rows, or its seeds contradict each other.
    """
    summary = summarise(view, tuple(view.arms), records, costs)
    means = inferences.groupby("arm").mean(numeric_only=True)
    encrypted = {str(arm): row for arm, row in means.iterrows()}
    found = [
        _recommendation(str(arm), row, threat, _reference(row, summary), records, encrypted)
        for arm, row in summary.iterrows()
        if (threat := threat_of(row, encrypted=arm in encrypted)) is not None
    ]
    return [one for threat in THREATS for one in _best_first([one for one in found if one.threat == threat], records)]


def threat_of(row: pd.Series, *, encrypted: bool) -> str | None:
    """Return the threat against which an arm protects, None for an arm without protection.

    Parameters
    ----------
    row : pandas.Series
        The row of the arm in a summary.
    encrypted : bool
        Whether the arm predicts encrypted inputs.
    """
    if row["privacy_unit"] == "client":
        return MODEL_REVEALS_CLIENT
    private, federated = row["privacy_unit"] == "example", row["topology"] == "federated"
    if private:
        return UPDATE_AND_MODEL_REVEAL_EXAMPLE if federated else MODEL_REVEALS_EXAMPLE
    if federated:
        return EXAMPLES_MOVE if row["aggregation"] == "plaintext" else SERVER_READS_UPDATE
    return SERVER_READS_INPUT if encrypted else None


def trust_of(row: pd.Series, threat: str) -> str:
    """Return the parties that an owner of examples, or of an input, must trust under ``threat``."""
    if threat == SERVER_READS_INPUT:
        return "the server, for correct answers"
    if threat == MODEL_REVEALS_EXAMPLE:
        return "the owner of all examples"
    opened = str(row["update_opened_by"])
    if threat == MODEL_REVEALS_CLIENT:
        return f"{opened}, with every update and the noise"
    if threat == UPDATE_AND_MODEL_REVEAL_EXAMPLE and row["noise"] == "local":
        return "no other party"
    if row["aggregation"] == "plaintext":
        return f"{opened}, with every update"
    return f"no collusion of {opened.replace(' together with ', ' and ').removesuffix(' together')}"


def _best_first(found: list[Recommendation], records: pd.DataFrame) -> list[Recommendation]:
    """Return the recommendations against one threat in their order."""
    common = accuracy_by_seed(records, [one.arm for one in found]).mean()
    return sorted(found, key=lambda one: (-common.get(one.arm, one.accuracy), one.upload))


def _reference(row: pd.Series, summary: pd.DataFrame) -> pd.Series | None:
    """Return the most accurate arm of one owner without privacy, with the model and the examples of ``row``."""
    same = (summary[["dataset", "n_train", "model"]] == row[["dataset", "n_train", "model"]]).all(axis=1)
    bare = summary[same & (summary["topology"] == "centralized") & (summary["privacy_unit"] == "none")]
    return None if bare.empty else bare.sort_values("accuracy_all_mean", kind="stable").iloc[-1]


def _recommendation(
    arm: str,
    row: pd.Series,
    threat: str,
    reference: pd.Series | None,
    records: pd.DataFrame,
    encrypted: Mapping[str, pd.Series],
) -> Recommendation:
    lost = time_factor = prediction_seconds = prediction_bytes = math.nan
    if reference is not None:
        both = accuracy_by_seed(records, [arm, str(reference.name)])
        lost = float((both[reference.name] - both[arm]).mean())
        time_factor = float(row["cpu_seconds_mean"] / reference["cpu_seconds_mean"])
    if threat == SERVER_READS_INPUT:
        prediction = encrypted[arm]
        prediction_seconds = float(prediction["one_client"] + prediction["one_server"])
        prediction_bytes = float(prediction["one_up"] + prediction["one_down"])
    return Recommendation(
        threat=threat,
        arm=arm,
        label=str(row["label"]),
        epsilon=float(row["epsilon"]),
        accuracy=float(row["accuracy_all_mean"]),
        accuracy_sd=float(row["accuracy_all_sd"]),
        accuracy_low=float(row["accuracy_all_low"]),
        accuracy_high=float(row["accuracy_all_high"]),
        reference="" if reference is None else str(reference["label"]),
        accuracy_lost=lost,
        time_factor=time_factor,
        upload=float(row["upload_mean"]),
        expansion=float(row["expansion_mean"]),
        prediction_seconds=prediction_seconds,
        prediction_bytes=prediction_bytes,
        trust=trust_of(row, threat),
    )
