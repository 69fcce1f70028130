"""The lines below a table that say what its epsilons mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.formatting import INFINITE, EMPTY_CELL, epsilon_bound, scientific
from ppml.results.joint import joint_key

RELATIONS = {
    "example": "neighbouring data sets differ in one record, which is replaced by a null record that contributes 0; "
    "the number of records is public",
    "client": "neighbouring federations differ in one client, whose contribution is replaced by 0; the number of "
    "clients is public",
}
"""What is proven, by the unit of privacy: zero-out at a public number of records, or clients."""

REPLACED = {"example": "the record is replaced by any other one", "client": "the client is replaced by any other one"}

SEEDED = "the holder of the root seed"
NOBODY = "nobody"
SAMPLES = "the samples: the holder of the root seed"

SOURCES = {
    "seeded": "Seeded: the root seed is in the configuration, and the person who runs the workflow holds it. That "
    "person, and each reader of the configuration, can compute the noise and subtract it: towards them there is no ε. "
    "In a federation each party draws from a seed of its own, from which no other party's noise can be computed. A "
    "model to be released needs noise_source: secure",
    "secure": "Secure: noise is drawn from the operating system and kept nowhere, so that a run does not repeat "
    "bit for bit",
}


def privacy_notes(summary: pd.DataFrame, joint: pd.DataFrame) -> tuple[str, ...]:
    """Return what epsilon is: of one model and of all together, unit, relation, delta, accountant, and who draws.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row an arm, as :func:`~ppml.reporting.summaries.summarise` returns it.
    joint : pandas.DataFrame
        The rows of joint.csv.

    Raises
    ------
    UserError
        ``joint`` has no row for the private arms, or an arm states a relation that is not known.
    """
    private = private_arms(summary)
    if private.empty:
        return ()
    deltas = ", ".join(scientific(delta) for delta in dict.fromkeys(private["delta"]))
    accountants = ", ".join(str(name).upper() for name in dict.fromkeys(private["accountant"]))
    units = ", ".join(dict.fromkeys(private["privacy_unit"]))
    return (
        f"Our ε: that of one model, the largest over clients and seeds, for the whole training; unit: one {units}; δ "
        f"{deltas}; accountant: {accountants}; {'; '.join(_relations(private))}; {INFINITE}: no differential privacy.",
        *_replaced_notes(private),
        together_note(private, joint, bare=len(private) < len(summary)),
        *_source_notes(private),
        *_share_notes(private),
    )


def private_arms(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the arms with privacy."""
    return summary[summary["privacy_unit"] != "none"]


def joint_row(joint: pd.DataFrame, arms: Iterable[str]) -> pd.Series:
    """Return the row of joint.csv of all models of ``arms``.

    Raises
    ------
    UserError
        There is none.
    """
    name = joint_key(arms)
    found = joint[joint["arms"] == name]
    if len(found) != 1:
        raise UserError(f"joint.csv: has {len(found)} rows for the arms {name}, expected 1; run the workflow again")
    return found.iloc[0]


def epsilon_of_all_seeds(row: pd.Series, joint: pd.DataFrame) -> str:
    """Return the cell of the joint epsilon of all models of one arm, a row of a summary."""
    return INFINITE if row["privacy_unit"] == "none" else epsilon_bound(joint_row(joint, [str(row.name)])["epsilon"])


def together_note(private: pd.DataFrame, joint: pd.DataFrame, *, bare: bool) -> str:
    """Return what all private models of a table spend together; ``bare``: whether it has others, too."""
    row = joint_row(joint, map(str, private.index))
    models = f"{int(row['releases']):,} different models" if row["releases"] > 1 else "one model"
    largest = ", the largest of them" if row["deltas"] > 1 else ""
    mixed = private["privacy_unit"].nunique() > 1
    halved = "; for a record, the noise of an arm that protects clients counts half, without sampling" if mixed else ""
    unbounded = f"; with an arm without privacy there is no bound ({INFINITE})" if bare else ""
    return (
        f"All private arms of this table together, all seeds ({models}): ε {epsilon_bound(row['epsilon'])} of one "
        f"{row['unit']} that all of them train on, at δ {scientific(row['delta'])}{largest}, by "
        f"{str(row['accountant']).upper()}{halved}{unbounded}. Arms that differ in their aggregation alone release the "
        "same model, which counts once."
    )


def noise_known_to(row: pd.Series) -> str:
    """Return who can compute the noise of an arm, a row of a summary."""
    if row["privacy_unit"] == "none":
        return EMPTY_CELL
    if row["noise_source"] == "secure":
        return NOBODY if row["sampling_source"] == "secure" else f"{NOBODY}; {SAMPLES}"
    if row["topology"] != "federated":
        return SEEDED
    own = "the server: all of it" if row["noise"] == "central" else "each client: its own"
    return f"{SEEDED}; {own}"


def _relations(private: pd.DataFrame) -> list[str]:
    unknown = sorted(set(private["neighbouring"]) - {"zero_out_one"})
    if unknown:
        raise UserError(f"records.csv: neighbouring is {unknown[0]!r}; allowed: zero_out_one")
    return [RELATIONS[unit] for unit in dict.fromkeys(private["privacy_unit"])]


def _replaced_notes(private: pd.DataFrame) -> tuple[str, ...]:
    known = private[private["epsilon_replace_one"].notna()]
    return tuple(
        f"ε where {REPLACED[str(unit)]} (replace-one): "
        f"{_each(rows, lambda row: epsilon_bound(row['epsilon_replace_one']))}."
        for unit, rows in known.groupby("privacy_unit", sort=False)
    )


def _source_notes(private: pd.DataFrame) -> tuple[str, ...]:
    """Return what can compute the noise of each arm; the sources are those that the drawing objects recorded."""
    named = {str(source) for column in ("noise_source", "sampling_source") for source in private[column]}
    unknown = sorted(named - SOURCES.keys())
    if unknown:
        raise UserError(f"records.csv: the source of noise or samples is {unknown[0]!r}; allowed: {', '.join(SOURCES)}")
    said = private.assign(known_to=[noise_known_to(row) for _, row in private.iterrows()])
    sources = [name for name in SOURCES if name in named]
    return (f"The noise can be computed by {_grouped(said)}. {'. '.join(SOURCES[name] for name in sources)}.",)


def _grouped(said: pd.DataFrame) -> str:
    """Return who can compute the noise; with the arms where that differs between them."""
    groups = said.groupby("known_to", sort=False)
    if groups.ngroups == 1:
        return str(said["known_to"].iloc[0])
    return "; ".join(f"{known_to} ({', '.join(rows['label'])})" for known_to, rows in groups)


def _share_notes(private: pd.DataFrame) -> tuple[str, ...]:
    """Return what noise by shares does not protect from: parties that open what single clients send."""
    shared = private[private["noise"] == "distributed"]
    if shared.empty:
        return ()
    opened = _each(shared, lambda row: epsilon_bound(row["epsilon_if_opened"]))
    return (
        "Noise by shares: every client adds a part, and the sum has the noise of the ε stated; the shares of as many "
        "as may collude are not counted. The parties that can open single contributions are the server and the holder "
        "of the secret key together, or all servers between which they are shared, or the server with as many "
        f"clients as unmask a sum. They find one share of the noise on each: towards them the ε is larger ({opened}).",
    )


def _each(rows: pd.DataFrame, said: Callable[[pd.Series], str]) -> str:
    return ", ".join(f"{row['label']}: {said(row)}" for _, row in rows.iterrows())
