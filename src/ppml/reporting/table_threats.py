"""The threat statement: who holds what, who may collude, and what leaks anyway."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes
from ppml.reporting.formatting import EMPTY_CELL, epsilon_bound, scientific
from ppml.reporting.guarantee import noise_known_to, privacy_notes
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

HOLDERS = {
    "centralized": "one owner, all of them",
    "independent": "each client its own",
    "federated": "each client its own",
}
MAY = "may reveal records"

LIMITS = (
    "Parties follow the protocol, and those that a row names may put together what they have. A client that sends "
    "false updates is not noticed. What a server that deviates can open is said below, for each way to add that the "
    "rows have.",
    "All clients of a sum but one, if they put their updates together, can subtract them from it: what is left is the "
    "last one's, whatever hides single updates from others.",
    "Encryption, shares and masks hide updates, not what the model tells of the records: only differential privacy "
    "limits that, and where a row says that a model may reveal records nothing does.",
    "All parties know who takes part, each client's number of records, model and settings, and how long all takes.",
    "By default all parties run on one machine, as parts of one program; what a row says is what they are given, not "
    "how machines are kept apart.",
)

_ENCRYPTED = (
    "CKKS and BFV: a server that deviates announces an update as a sum, and one client that colludes with it has the "
    "key holder open that update. A client that deviates uploads a made-up ciphertext: it spoils the sum that it is "
    "in, and that sum tells clients and key holder of the secret key."
)

DEVIATING = {
    "ckks": _ENCRYPTED,
    "bfv": _ENCRYPTED,
    "secret_sharing": (
        "Shares: each client signs its shares, with its number and the round, so that the adding server alone cannot "
        "make up a client. With one client that colludes, an adding server that deviates asks for the sum of that "
        "client and one other, and so opens the other's update, one a round. The helping servers, which register the "
        "clients' signing keys, follow the protocol."
    ),
    "masking": (
        "Masks: each client signs its keys of the round, and the others check them by a register that is not the "
        "server's, so that the server alone can neither replace keys nor make up a client. The party that keeps the "
        "register can, together with the server. A server that deviates tells clients of different losses: it opens an "
        "update with fewer colluding clients than a row names, with twice as many less all that are asked; and without "
        "any the sum of fewer clients than a row names, but of more than half of those that are asked. By letters or "
        "shares that are not right, or by false complaints about them, a client has no other client left out, opens "
        "nothing and ends no round."
    ),
}
"""What a party that does not follow the protocol can open, by the way to add."""


@table("threats", shows="the data and keys of each party", reads=("records", "costs", "joint"))
def threats_table(view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame) -> Table:
    """Return the table with a row an arm: who keeps the records, who opens an update, who sees the sum, what leaks.

    Parameters
    ----------
    view : Selection
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
    summary = summarise(view, tuple(view.arms), records, costs)
    lines = [
        {
            "Technique": row["label"],
            "Who has records": HOLDERS[row["topology"]],
            "Who can open a single update": _of(row, "update_opened_by"),
            "What an opened update tells": _opened(row),
            "Who is shown the sum": _of(row, "sum_seen_by"),
            "What sums and model tell": _told(row),
            "Who can compute the noise": noise_known_to(row),
        }
        for _, row in summary.iterrows()
    ]
    added_by = summary.loc[summary["topology"] == "federated", "aggregation"]
    deviating = dict.fromkeys(DEVIATING[kind] for kind in DEVIATING if kind in set(added_by))
    notes = (*view.notes, *LIMITS, *deviating, *privacy_notes(summary, joint), *data_notes(summary))
    return Table(view.title, pd.DataFrame(lines), frozenset(), notes, summary.reset_index())


def _of(row: pd.Series, column: str) -> str:
    return EMPTY_CELL if pd.isna(row[column]) else str(row[column])


def _opened(row: pd.Series) -> str:
    """Return what a single update tells of its client's records to whoever opens it."""
    if row["topology"] != "federated":
        return EMPTY_CELL
    match row["noise"]:
        case "local":
            return _bound(row, row["epsilon"])
        case "distributed":
            return _bound(row, row["epsilon_if_opened"])
    return MAY


def _told(row: pd.Series) -> str:
    """Return what is told by the sums and the model, or where nothing is added by the model alone."""
    return MAY if row["privacy_unit"] == "none" else _bound(row, row["epsilon"])


def _bound(row: pd.Series, epsilon: float) -> str:
    return f"at most ε {epsilon_bound(epsilon)} of one {row['privacy_unit']}, δ {scientific(row['delta'])}"
