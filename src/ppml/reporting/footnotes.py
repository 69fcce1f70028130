"""Notes below a table: the meaning of its epsilons, its accuracies and its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.fallback import FALLBACK_SENTENCE
from ppml.reporting.formatting import (
    EMPTY_CELL,
    INFINITE,
    dataset_name,
    distinct,
    epsilon_bound,
    evaluated_nouns,
    nouns,
    scientific,
)
from ppml.reporting.leading_metric import metric_name
from ppml.results.joint import joint_key

RELATIONS = {
    "example": "neighbouring data sets differ in one example, which is replaced by a null example that contributes 0; "
    "the number of examples is public",
    "client": "neighbouring federations differ in one client, whose contribution is replaced by 0; the number of "
    "clients is public",
}
"""The proven neighbouring relation by unit of privacy: zero-out at a public number of examples, or clients."""

REPLACED = {"example": "the example is replaced by any other one", "client": "the client is replaced by any other one"}

SEEDED = "the holder of the root seed"
NO_PARTY = "no party"
SAMPLES = "the samples: the holder of the root seed"

SOURCES = {
    "seeded": "Seeded: the root seed is in the configuration. Each reader of the configuration can compute and "
    "subtract the noise: ε does not apply to them. In a federation each party draws from its own seed, which does not "
    "reveal the noise of other parties. A model for release needs noise_source: secure",
    "secure": "Secure: the noise comes from the operating system and is not stored, so that a run does not repeat bit "
    "for bit",
}


def privacy_notes(summary: pd.DataFrame, joint: pd.DataFrame) -> tuple[str, ...]:
    """Return the notes about epsilon: of one model and of all, unit, relation, delta, accountant, and source of noise.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row for each arm, as :func:`~ppml.reporting.summaries.summarise` returns it.
    joint : pandas.DataFrame
        The rows of joint.csv.

    Raises
    ------
    UserError
        ``joint`` has no row for the private arms, or the relation of an arm is unknown.
    """
    private = summary[summary["privacy_unit"] != "none"]
    if private.empty:
        return ()
    deltas, units = distinct(private["delta"], scientific), distinct(private["privacy_unit"])
    accountants = distinct(private["accountant"], str.upper)
    return (
        f"Our ε: that of one model, the largest over clients and seeds, for the whole training; unit: one {units}; δ "
        f"{deltas}; accountant: {accountants}; {_relations(private)}; {INFINITE}: no differential privacy.",
        *_replaced_notes(private),
        together_note(private, joint, bare=len(private) < len(summary)),
        *_source_notes(private),
        *_distributed_notes(private),
    )


def joint_row(joint: pd.DataFrame, arms: Iterable[str]) -> pd.Series:
    """Return the row of joint.csv of all models of ``arms``.

    Raises
    ------
    UserError
        The row does not exist.
    """
    name = joint_key(arms)
    found = joint[joint["arms"] == name]
    if len(found) != 1:
        raise UserError(f"joint.csv: has {len(found)} rows for the arms {name}, expected 1; run the workflow again")
    return found.iloc[0]


def epsilon_of_all_seeds(row: pd.Series, joint: pd.DataFrame) -> str:
    """Return the joint epsilon of all models of an arm, a row of a summary."""
    return INFINITE if row["privacy_unit"] == "none" else epsilon_bound(joint_row(joint, [str(row.name)])["epsilon"])


def together_note(private: pd.DataFrame, joint: pd.DataFrame, *, bare: bool) -> str:
    """Return the note about the joint epsilon of a table; ``bare``: whether the table has arms without privacy."""
    row = joint_row(joint, map(str, private.index))
    models = f"{int(row['releases']):,} different models" if row["releases"] > 1 else "one model"
    largest = ", the largest of them" if row["deltas"] > 1 else ""
    mixed = private["privacy_unit"].nunique() > 1
    halved = (
        "; for an example, the noise of an arm with client-level privacy counts half, without sampling" if mixed else ""
    )
    unbounded = f"; with an arm without privacy there is no bound ({INFINITE})" if bare else ""
    return (
        f"All private arms of this table together, all seeds ({models}): ε {epsilon_bound(row['epsilon'])} of one "
        f"{row['unit']} that all of them train on, at δ {scientific(row['delta'])}{largest}, by "
        f"{str(row['accountant']).upper()}{halved}{unbounded}. Arms that differ in their aggregation alone release the "
        "same model, which counts once."
    )


def noise_known_to(row: pd.Series) -> str:
    """Return the parties that can compute the noise of an arm, a row of a summary."""
    if row["privacy_unit"] == "none":
        return EMPTY_CELL
    if row["noise_source"] == "secure":
        return NO_PARTY if row["sampling_source"] == "secure" else f"{NO_PARTY}; {SAMPLES}"
    if row["topology"] != "federated":
        return SEEDED
    own = "the server: all of it" if row["noise"] == "central" else "each client: its own"
    return f"{SEEDED}; {own}"


def _relations(private: pd.DataFrame) -> str:
    unknown = sorted(set(private["neighbouring"]) - {"zero_out_one"})
    if unknown:
        raise UserError(f"records.csv: neighbouring is {unknown[0]!r}; allowed: zero_out_one")
    return distinct(private["privacy_unit"], RELATIONS.__getitem__, "; ")


def _replaced_notes(private: pd.DataFrame) -> tuple[str, ...]:
    known = private[private["epsilon_replace_one"].notna()]
    return tuple(
        f"ε where {REPLACED[str(unit)]} (replace-one): "
        f"{_each(rows, lambda row: epsilon_bound(row['epsilon_replace_one']))}."
        for unit, rows in known.groupby("privacy_unit", sort=False)
    )


def _source_notes(private: pd.DataFrame) -> tuple[str, ...]:
    """Return the note about the source of the noise, as the drawing objects recorded it."""
    named = {str(source) for column in ("noise_source", "sampling_source") for source in private[column]}
    unknown = sorted(named - SOURCES.keys())
    if unknown:
        raise UserError(f"records.csv: the source of noise or samples is {unknown[0]!r}; allowed: {', '.join(SOURCES)}")
    sources = ". ".join(text for name, text in SOURCES.items() if name in named)
    labels = private["label"].groupby(private.apply(noise_known_to, axis=1), sort=False)
    # The arms are named only where their parties differ.
    parties = [f"{known_to} ({', '.join(arms)})" if len(labels) > 1 else str(known_to) for known_to, arms in labels]
    return (f"The noise can be computed by {'; '.join(parties)}. {sources}.",)


def _distributed_notes(private: pd.DataFrame) -> tuple[str, ...]:
    """Return the note about the parties that can decrypt single contributions with distributed noise."""
    shared = private[private["noise"] == "distributed"]
    if shared.empty:
        return ()
    single = _each(shared, lambda row: epsilon_bound(row["epsilon_if_opened"]))
    return (
        "Distributed noise: every client adds a part, and the sum has the noise of the stated ε; the parts of "
        "colluding clients are not counted. Single contributions are accessible to the server together with the holder "
        "of the secret key, to all share servers together, or to the server with enough clients to remove a mask. Each "
        f"contribution has one part of the noise: for these parties ε is larger ({single}).",
    )


def _each(rows: pd.DataFrame, text: Callable[[pd.Series], str]) -> str:
    return ", ".join(f"{row['label']}: {text(row)}" for _, row in rows.iterrows())


def spread_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the note about our accuracies, their ± and their brackets."""
    evaluated = evaluated_nouns(summary)
    both = "on the first and on all" if (summary["n_test"] != summary["n_test_all"]).any() else "on all"
    metrics = (
        "accuracy"
        if summary["metric"].iloc[0] == "accuracy"
        else f"accuracy and {metric_name(summary['metric'].iloc[0])}"
    )
    parts = [f"Our {metrics} in percent, {both} {evaluated}"]
    if (summary["seeds"] > 1).any():
        parts.append("± is the standard deviation over seeds (n - 1)")
    if (summary["seeds"] == 1).any():
        parts.append("[a, b] with a single seed is the 95 % interval over the examples (of accuracy, Wilson's)")
    if (summary["topology"] == "independent").any():
        parts.append("accuracy of independent training is the mean over the clients' models")
    return (f"{'; '.join(parts)}.",)


def data_notes(view: ExperimentView, summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the notes about the data set, its size, the device, and the fallback."""
    if summary.empty:
        return ()
    lines = []
    for (dataset, n_train), rows in summary.groupby(["dataset", "n_train"], sort=False):
        arms = "" if len(rows) == len(summary) else f" ({', '.join(rows['label'])})"
        lines.append(f"{dataset_name(str(dataset))}, {n_train:,} training {nouns(rows)}{arms}")
    facts = [*_split_facts(summary), *_unit_facts(summary)]
    devices, digests = distinct(summary["device"]), distinct(summary["data_digest"])
    data = f"Data: {'; '.join(lines)}; data digest {digests}; trained on {devices}."
    return (data, *facts, FALLBACK_SENTENCE) if view.fallback else (data, *facts)


def _split_facts(summary: pd.DataFrame) -> Iterator[str]:
    """Yield a note for each data set with test examples that are also training examples."""
    found = summary[summary["duplicates_across_split"] > 0]
    for dataset, rows in found.groupby("dataset", sort=False):
        row = rows.iloc[0]
        yield (
            f"{dataset_name(str(dataset))}: {int(row['duplicates_across_split']):,} of {int(row['n_test_all']):,} test "
            "examples have the inputs of a training example."
        )


def _unit_facts(summary: pd.DataFrame) -> Iterator[str]:
    """Yield a note for each data set whose units have several examples, if an arm protects examples."""
    found = summary[(summary["largest_unit"] > 1) & (summary["privacy_unit"] == "example")]
    for dataset, rows in found.groupby("dataset", sort=False):
        most = int(rows["largest_unit"].max())
        yield (
            f"{dataset_name(str(dataset))}: ε is for one row, and a unit, for instance a person, has up to {most:,} "
            f"training rows: for a unit ε is up to {most:,} times as large."
        )


def common_notes(view: ExperimentView, summary: pd.DataFrame, joint: pd.DataFrame) -> tuple[str, ...]:
    """Return the notes about privacy, accuracy and data."""
    return (*privacy_notes(summary, joint), *spread_notes(summary), *data_notes(view, summary))
