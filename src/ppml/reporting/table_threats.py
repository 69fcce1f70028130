"""The threat statement: the data and keys of each party, collusion, and leakage."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes, noise_known_to, privacy_notes
from ppml.reporting.formatting import EMPTY_CELL, epsilon_bound, scientific
from ppml.reporting.registry import table
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Columns, Table, cells_of

HOLDERS = {
    "centralized": "one owner: all examples",
    "independent": "each client: its own",
    "federated": "each client: its own",
}
MAY = "may reveal examples"

LIMITS = (
    "Parties follow the protocol, and the parties in a row may combine their data and keys. False updates of a client "
    "are not detected. The notes below describe a server that deviates, for each aggregation in the rows.",
    "If all clients of a sum but one collude, they can subtract their updates from it and obtain the last update, with "
    "any aggregation.",
    "Encryption, secret shares and masks hide updates, not the information about the examples in the model. Only "
    "differential privacy limits it; in a row where the model may reveal examples, no mechanism does.",
    "All parties know the participants, each client's number of examples, the model, the settings and the times.",
    "By default all parties run on one machine, as parts of one program; a row describes their data and keys, not the "
    "isolation of machines.",
)

_ENCRYPTED = (
    "CKKS and BFV: a server that deviates announces an update as a sum, and one colluding client has the key holder "
    "decrypt it. A client that deviates uploads an invalid ciphertext: it corrupts the sum, and that sum reveals "
    "information about the secret key to clients and key holder."
)

DEVIATING = {
    "ckks": _ENCRYPTED,
    "bfv": _ENCRYPTED,
    "secret_sharing": (
        "Secret sharing: each client signs its shares, with its number and the round, so that the aggregating server "
        "cannot invent a client. With one colluding client, an aggregating server that deviates asks for the sum of "
        "it and another, and so obtains the other update, one per round. The share servers, which register the "
        "clients' signing keys, follow the protocol."
    ),
    "masking": (
        "Masking: each client signs its keys of the round, and the others verify them with a register that the server "
        "does not keep, so that the server can neither replace keys nor invent a client; together with the keeper of "
        "the register it can. A server that deviates reports different dropouts to different clients: it needs fewer "
        "colluding clients than in the row to obtain an update, twice their number minus the clients of the round; "
        "without any it obtains the sum of fewer clients than in the row, but of more than half of the clients of the "
        "round. With invalid messages or shares, or false complaints about them, a client cannot exclude another one, "
        "obtains no update and ends no round."
    ),
}
"""The capabilities of a party that deviates from the protocol, by aggregation."""


def _update_leakage(row: pd.Series) -> str:
    """Return the leakage of a single update about the client's examples."""
    if row["topology"] != "federated":
        return EMPTY_CELL
    match row["noise"]:
        case "local":
            return _bound(row, row["epsilon"])
        case "distributed":
            return _bound(row, row["epsilon_if_opened"])
    return MAY


def _model_leakage(row: pd.Series) -> str:
    """Return the leakage of the sums and the model; without federation, of the model."""
    return MAY if row["privacy_unit"] == "none" else _bound(row, row["epsilon"])


def _bound(row: pd.Series, epsilon: float) -> str:
    return f"at most ε {epsilon_bound(epsilon)} of one {row['privacy_unit']}, δ {scientific(row['delta'])}"


COLUMNS: Columns = {
    "Technique": lambda row: row["label"],
    "Examples": lambda row: HOLDERS[row["topology"]],
    "Access to a single update": lambda row: row["update_opened_by"],
    "Leakage of a single update": _update_leakage,
    "Access to the sum": lambda row: row["sum_seen_by"],
    "Leakage of sums and model": _model_leakage,
    "Noise known to": noise_known_to,
}


@table("threats")
def threats_table(view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, joint: pd.DataFrame) -> Table:
    """Return the table with a row for each arm: holders of the examples, access to updates and sums, and leakage."""
    summary = summarise(view, tuple(view.arms), records, costs)
    cells = cells_of(summary.fillna({"update_opened_by": EMPTY_CELL, "sum_seen_by": EMPTY_CELL}), COLUMNS)
    added_by = summary.loc[summary["topology"] == "federated", "aggregation"]
    deviating = dict.fromkeys(DEVIATING[kind] for kind in DEVIATING if kind in set(added_by))
    notes = (*view.notes, *LIMITS, *deviating, *privacy_notes(summary, joint), *data_notes(view, summary))
    return Table(view.title, cells, COLUMNS, notes, summary.reset_index())
