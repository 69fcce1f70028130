"""Tables: cells as a reader sees them, the notes below, and the raw numbers behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import Selection, require_published
from ppml.reporting.footnotes import data_notes, spread_notes
from ppml.reporting.formatting import (
    NOTHING,
    epsilon_bound,
    factor,
    human_bytes,
    percent,
    percent_estimate,
    scientific,
    significant,
)
from ppml.reporting.guarantee import epsilon_of_all_seeds, privacy_notes
from ppml.reporting.literature import PublishedRow
from ppml.reporting.summaries import summarise

DAGGER = "†"
NOT_YET = "‡"
NEVER = "never reported"


@dataclass(frozen=True)
class Table:
    """A table ready to be written.

    Parameters
    ----------
    title : str
        Heads it.
    cells : pandas.DataFrame
        Display strings; the columns are the headings.
    numeric : frozenset of str
        Headings whose cells are aligned on the right.
    notes : tuple of str
        Lines below the table.
    raw : pandas.DataFrame
        The same rows as tidy raw numbers, for the CSV file.
    """

    title: str
    cells: pd.DataFrame
    numeric: frozenset[str]
    notes: tuple[str, ...]
    raw: pd.DataFrame


def summary_table(selection: Selection, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame) -> Table:
    """Return the table with a row an arm: accuracy, guarantee, time and bytes.

    Parameters
    ----------
    selection : Selection
        The arms, in the order of the rows.
    records, costs : pandas.DataFrame
        One row an arm and seed.
    joint : pandas.DataFrame
        The rows of joint.csv.

    Raises
    ------
    UserError
        An arm has no rows, two rows for a seed, or seeds that differ in data set or guarantee.
    """
    summary = summarise(selection, tuple(selection.arms), records, costs)
    first, everything = _test_sets(summary)
    columns = {
        "Technique": summary["label"].tolist(),
        f"Accuracy, {first}": _each(summary, _accuracy),
        f"Accuracy, {everything}": _each(summary, _accuracy_all),
        "Seeds": summary["seeds"].astype(str).tolist(),
        "ε": _each(summary, _epsilon),
        "ε, all seeds": _each(summary, lambda row: epsilon_of_all_seeds(row, joint)),
        "Unit; δ; accountant; noise by": _each(summary, _guarantee),
        "CPU time a run (s)": _each(summary, _seconds),
        "Upload, client and round": _each(summary, lambda row: human_bytes(row["upload_mean"])),
        "Expansion": _each(summary, lambda row: factor(row["expansion_mean"])),
    }
    cells = pd.DataFrame(columns)
    numeric = frozenset(cells.columns) - {"Technique", "Unit; δ; accountant; noise by"}
    notes = (*selection.notes, *_dagger_notes(summary), *_sending_notes(summary), *_common_notes(summary, joint))
    return Table(selection.title, cells, numeric, notes, _with_joint(summary, joint).reset_index())


def published_table(
    selection: Selection,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row a published number: theirs beside ours.

    Parameters
    ----------
    selection : Selection
        ``compare`` gives the rows, in order, and ``published`` those below that no arm answers.
    records, costs : pandas.DataFrame
        One row an arm and seed.
    joint : pandas.DataFrame
        The rows of joint.csv.
    published : mapping of str to PublishedRow
        As `ppml.reporting.literature.load_published` returns it.

    Raises
    ------
    UserError
        No published row is answered, a row or an arm does not exist, or the seeds of an arm differ in data set or
        guarantee.
    """
    require_published(selection, published)
    if not selection.compared_arms():
        raise UserError(f"compare: no published row of {selection.title!r} names an arm; the table needs at least one")
    summary = summarise(selection, selection.compared_arms(), records, costs)
    first, everything = _test_sets(summary)
    ours: dict[str, Callable[[pd.Series], str]] = {
        "Ours": lambda row: row["label"],
        first.capitalize(): _accuracy,
        everything.capitalize(): _accuracy_all,
        "Seeds": lambda row: str(row["seeds"]),
        "Our ε": _epsilon,
        "Our ε, all seeds": lambda row: epsilon_of_all_seeds(row, joint),
        "CPU time a run (s)": _seconds,
        "Sent a round": lambda row: human_bytes(row["round_bytes_mean"]),
    }
    marks = _footnote_marks(selection, published)
    answers = {str(arm): row for arm, row in summary.iterrows()}
    lines: list[dict[str, str]] = []
    for comparison in selection.compare:
        line = _theirs(published[comparison.published], marks)
        if comparison.arm is None:
            line |= dict.fromkeys(ours, NOTHING) | {"Ours": f"{NOTHING} {NOT_YET}"}
        else:
            line |= {heading: cell(answers[comparison.arm]) for heading, cell in ours.items()}
        lines.append(line)
    nothing = dict.fromkeys(ours, NOTHING)
    lines += [_theirs(published[key], marks) | nothing for key in selection.published]
    cells = pd.DataFrame(lines)
    missing = (f"{NOT_YET} not yet part of this project.",) if any(row.arm is None for row in selection.compare) else ()
    notes = (
        *(f"{mark} {note}" for note, mark in marks.items()),
        *missing,
        *selection.notes,
        *_source_notes(selection, published),
        *_dagger_notes(summary),
        "Paper to ε: as printed in the paper, on its own test images; what its ± is, it does not say.",
        "Sent a round: all clients, up and down, 1 KB = 1,000 bytes; — where nothing is sent.",
        *_common_notes(summary, joint),
    )
    numeric = frozenset(cells.columns) - {"Paper", "Table", "Technique", "Ours"}
    return Table(
        selection.title, cells, numeric, notes, _published_raw(selection, _with_joint(summary, joint), published)
    )


def _theirs(row: PublishedRow, marks: Mapping[str, str]) -> dict[str, str]:
    mark = f" {marks[row.note]}" if row.note else ""
    accuracy = NEVER if row.accuracy is None else percent(row.accuracy, 1)
    spread = "" if row.std is None else f" ± {percent(row.std, 1)}"
    return {
        "Paper": row.paper,
        "Table": row.table or NOTHING,
        "Technique": row.technique + mark,
        "Accuracy (%)": accuracy + spread,
        "ε": NOTHING if row.epsilon is None else significant(row.epsilon),
    }


def _footnote_marks(selection: Selection, published: Mapping[str, PublishedRow]) -> dict[str, str]:
    """Return the mark of each note, numbered in the order of the rows; rows with the same note share it."""
    notes = [published[key].note for key in _keys(selection)]
    return {note: f"[{number}]" for number, note in enumerate(dict.fromkeys(filter(None, notes)), start=1)}


def _keys(selection: Selection) -> list[str]:
    """Return the published rows shown, in order."""
    return [*(row.published for row in selection.compare), *selection.published]


def _source_notes(selection: Selection, published: Mapping[str, PublishedRow]) -> tuple[str, ...]:
    """Return where the rows beyond the project's own papers stand, and on how many images."""
    rows = [row for row in (published[key] for key in _keys(selection)) if row.source]
    sources = dict.fromkeys(
        f"{row.paper}, {row.source}"
        + (f" ({row.n_train:,} training images)" if row.n_train else "")
        + (f", ε disputed by {row.disputed}" if row.disputed else "")
        for row in rows
    )
    return (f"Sources: {'; '.join(sources)}.",) if sources else ()


def _published_raw(selection: Selection, summary: pd.DataFrame, published: Mapping[str, PublishedRow]) -> pd.DataFrame:
    theirs = pd.DataFrame(
        [
            {"published": key, "arm": arm}
            | {f"their_{name}": value for name, value in published[key].to_json().items()}
            for key, arm in [
                *((row.published, row.arm) for row in selection.compare),
                *((key, None) for key in selection.published),
            ]
        ]
    )
    return theirs.merge(summary.reset_index(), how="left", on="arm", validate="many_to_one")


def _with_joint(summary: pd.DataFrame, joint: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the joint epsilon of all seeds of each arm, infinite without privacy."""
    found = joint.set_index("arms")["epsilon"].reindex(summary.index)
    return summary.assign(epsilon_all_seeds=found.where(summary["privacy_unit"] != "none", math.inf))


def _each(summary: pd.DataFrame, cell: Callable[[pd.Series], str]) -> list[str]:
    return [cell(row) for _, row in summary.iterrows()]


def _test_sets(summary: pd.DataFrame) -> tuple[str, str]:
    first = " or ".join(f"{size:,}" for size in dict.fromkeys(summary["n_test"]))
    everything = " or ".join(f"{size:,}" for size in dict.fromkeys(summary["n_test_all"]))
    return f"first {first} (%)", f"all {everything} (%)"


def _accuracy(row: pd.Series) -> str:
    return percent_estimate(row["accuracy_mean"], row["accuracy_sd"], row["accuracy_low"], row["accuracy_high"])


def _accuracy_all(row: pd.Series) -> str:
    name = "accuracy_all"
    return percent_estimate(row[f"{name}_mean"], row[f"{name}_sd"], row[f"{name}_low"], row[f"{name}_high"])


def _seconds(row: pd.Series) -> str:
    return significant(row["cpu_seconds_mean"])


def _epsilon(row: pd.Series) -> str:
    return epsilon_bound(row["epsilon"]) + (DAGGER if _permits_publishing(row) else "")


def _guarantee(row: pd.Series) -> str:
    if row["privacy_unit"] == "none":
        return NOTHING
    dagger = DAGGER if _permits_publishing(row) else ""
    parts = (
        row["privacy_unit"],
        scientific(row["delta"]) + dagger,
        row["accountant"].upper(),
        f"{row['noise_by']}, {row['noise_source']}",
    )
    return "; ".join(parts)


def _permits_publishing(row: pd.Series) -> bool:
    return bool(row["privacy_unit"] != "none" and row["delta"] >= 1 / row["protected_of"])


def _dagger_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the footnote of a delta that is too large, if there is one."""
    weak = [row for _, row in summary.iterrows() if _permits_publishing(row)]
    if not weak:
        return ()
    named = ", ".join(f"{row['label']}: δ {scientific(row['delta'])}, n = {row['protected_of']:,.0f}" for row in weak)
    return (
        f"{DAGGER} δ is at least 1/n for the n records, or clients, among which one is hidden ({named}): such a "
        "guarantee permits publishing one outright.",
    )


def _sending_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    if summary["upload_mean"].isna().all():
        return ()
    return (
        "Upload: what a client sends in a round, 1 KB = 1,000 bytes; expansion: those bytes over the same update in "
        "32-bit floats; public keys, sent once, are left out; — where nothing is sent.",
    )


def _common_notes(summary: pd.DataFrame, joint: pd.DataFrame) -> tuple[str, ...]:
    return (*privacy_notes(summary, joint), *spread_notes(summary), *data_notes(summary))
