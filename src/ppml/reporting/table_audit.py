"""The table of audits: what our own trainings claim of their privacy, and what their releases show."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import Selection, audits_of
from ppml.reporting.footnotes import FALLBACK_SENTENCE, is_fallback
from ppml.reporting.formatting import factor, percent, significant
from ppml.reporting.table_summary import Table

HOLDS = "holds"
FAILS = "DOES NOT HOLD"
UNCLEAR = "not shown"
NOT_SAMPLED = "all, always"


def audit_table(selection: Selection, records: pd.DataFrame, audits: pd.DataFrame) -> Table:
    """Return the table with a row an audited arm: claimed and measured epsilon and noise, and what was tried.

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
        "ε, claimed": [significant(value) for value in rows["epsilon"]],
        "ε, at least, measured": [significant(value) for value in rows["epsilon_low"]],
        "Noise multiplier, claimed": [significant(value) for value in rows["noise_multiplier"]],
        "Measured": [_interval(row, "estimate", "low", "high") for _, row in rows.iterrows()],
        "Before clipping": [factor(value) for value in rows["canary_norm"] / rows["max_grad_norm"]],
        "After clipping": [f"{value:.4f}" for value in rows["contribution"] / rows["max_grad_norm"]],
        "Releases": [f"{value:,}" for value in rows["releases"]],
        "Measurements": [f"{value:,}" for value in rows["measurements"]],
        "Drawn": [_drawn(row) for _, row in rows.iterrows()],
        "Verdict": [_verdict(row) for _, row in rows.iterrows()],
    }
    cells = pd.DataFrame(columns)
    numeric = frozenset(cells.columns) - {"Technique", "Verdict"}
    return Table(selection.title, cells, numeric, _notes(selection, rows, records), rows.reset_index())


def verdict_of(row: pd.Series) -> str:
    """Return the verdict on an audited arm: `HOLDS`, `FAILS` or `UNCLEAR`."""
    if not row["held"]:
        return FAILS
    return UNCLEAR if isinstance(row["unclear"], str) and row["unclear"] else HOLDS


def _verdict(row: pd.Series) -> str:
    verdict = verdict_of(row)
    return {FAILS: f"{FAILS}: {row['faults']}", UNCLEAR: f"{UNCLEAR}: {row['unclear']}"}.get(verdict, verdict)


def _interval(row: pd.Series, *names: str) -> str:
    estimate, low, high = (significant(row[name]) for name in names)
    return f"{estimate} [{low}, {high}]"


def _drawn(row: pd.Series) -> str:
    return f"{row['drawn']:,} of {row['coins']:,}" if row["coins"] else NOT_SAMPLED


def _notes(selection: Selection, rows: pd.DataFrame, records: pd.DataFrame) -> tuple[str, ...]:
    sure = " or ".join(f"{percent(value, 0)} %" for value in dict.fromkeys(rows["confidence"]))
    family = " or ".join(str(value) for value in dict.fromkeys(rows["family"]))
    notes = (
        "The audit trains each arm by the code that makes the results, with its momentum, schedule, budget, clients "
        "and server, on a handful of records: made-up images, or features of images, with random labels. Updates "
        "are added in the clear, since the sum has the same bits under encryption.",
        "The auditor is a white box: it sees every release (each step of an owner, or each sum of a federation, less "
        "the shares of clients that may collude), and learns the coins of the samples afterwards. It subtracts the "
        "clipped gradients of the sample, computed one record at a time; the rest is noise. Before and after clipping: "
        "the longest gradient, and what a record adds, over the clipping norm. For client-level privacy a client takes "
        "the place of a record.",
        "Measured: deviation of the noise along the gradients of records, over what one record adds. ε, at least: the "
        "ε of the training with the upper end of that interval as its noise multiplier, by the same accounting. The "
        "nearer it is to the claim, the less noise could be missing unseen.",
        "The intervals, and the checks of each release, each party, each parameter tensor, the samples, the shape of "
        f"the noise and that it never repeats, accuse none of the {family} audited arms wrongly with {sure} "
        "confidence, all together. The steps that ran are compared with the steps that are accounted for.",
        "A claim that holds is not proven: few records are tried, with one seed.",
    )
    shown = records[records["arm"].isin(list(selection.arms))]
    return (*notes, FALLBACK_SENTENCE) if is_fallback(shown) else notes
