"""The table of audits: what our own mechanism claims, and what its releases show."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.display import factor, percent, significant
from ppml.reporting.notes import FALLBACK_SENTENCE, is_fallback
from ppml.reporting.selection import Selection, audits_of
from ppml.reporting.tables import Table

HOLDS = "holds"
FAILS = "DOES NOT HOLD"


def audit_table(selection: Selection, records: pd.DataFrame, audits: pd.DataFrame) -> Table:
    """Return the table with a row an audited arm: claimed noise, measured noise, and what the canary was.

    Parameters
    ----------
    selection : Selection
        The arms, in the order of the rows; those that were not audited are left out.
    records : pandas.DataFrame
        One row an arm and seed; says which data set the arms were trained on.
    audits : pandas.DataFrame
        One row an audited arm.

    Raises
    ------
    UserError
        None of the arms was audited.
    """
    rows = audits_of(selection, audits)
    columns = {
        "Technique": rows["label"].tolist(),
        "Noise multiplier, claimed": [significant(value) for value in rows["noise_multiplier"]],
        "Measured": [_interval(row, "estimate", "low", "high") for _, row in rows.iterrows()],
        "With half the noise": [_interval(row, "control", "control_low", "control_high") for _, row in rows.iterrows()],
        "Canary before clipping": [factor(value) for value in rows["canary_norm"] / rows["max_grad_norm"]],
        "After clipping": [f"{value:.4f}" for value in rows["contribution"] / rows["max_grad_norm"]],
        "Steps": [f"{value:,}" for value in rows["steps"]],
        "Coins": [f"{row['drawn']:,} of {row['coins']:,}" for _, row in rows.iterrows()],
        "Verdict": [HOLDS if row["held"] else f"{FAILS}: {row['faults']}" for _, row in rows.iterrows()],
    }
    cells = pd.DataFrame(columns)
    numeric = frozenset(cells.columns) - {"Technique", "Verdict"}
    return Table(selection.title, cells, numeric, _notes(selection, rows, records), rows.reset_index())


def _interval(row: pd.Series, *names: str) -> str:
    estimate, low, high = (significant(row[name]) for name in names)
    return f"{estimate} [{low}, {high}]"


def _notes(selection: Selection, rows: pd.DataFrame, records: pd.DataFrame) -> tuple[str, ...]:
    sure = " or ".join(f"{percent(value, 0)} %" for value in dict.fromkeys(rows["confidence"]))
    family = " or ".join(str(value) for value in dict.fromkeys(rows["family"]))
    notes = (
        "The auditor is a white box: it chooses the records (copies of one canary, whose gradient is longer than the "
        "clipping norm by the factor shown; each copy enters a step by a fair coin) and the weights, sees what every "
        "step releases, and learns the coins afterwards.",
        "Measured: standard deviation of the noise in the canary's direction over what one canary adds. The intervals, "
        "and the checks of the coins, of each parameter tensor, of each sample size, of the noise's shape and that it "
        f"never repeats, accuse none of the {family} audited arms wrongly with {sure} confidence, all together. With "
        "half the noise the claim is excluded, or the audit would show nothing.",
        "A claim that holds is not proven: one data set and one model are tried, in small samples, with the noise of "
        "the first client and seed; the account of ε and whatever else leaves a training are not part of it.",
    )
    shown = records[records["arm"].isin(list(selection.arms))]
    return (*notes, FALLBACK_SENTENCE) if is_fallback(shown) else notes
