"""The table of audits: the claims of our own trainings about their privacy, and the evidence of their releases."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView, audits_of
from ppml.reporting.fallback import FALLBACK_SENTENCE, is_fallback
from ppml.reporting.formatting import factor, percent, significant
from ppml.reporting.registry import table
from ppml.reporting.table import Table

HOLDS = "holds"
FAILS = "DOES NOT HOLD"
UNCLEAR = "not shown"
NOT_SAMPLED = "all, always"


@table("audit", shows="claimed and measured noise", reads=("records", "audits"))
def audit_table(view: ExperimentView, records: pd.DataFrame, audits: pd.DataFrame) -> Table:
    """Return the table with a row for each audited arm: claimed and measured epsilon and noise, and the measurements.

    Raises
    ------
    UserError
        No arm was audited.
    """
    rows = audits_of(view, audits)
    columns = {
        "Technique": rows["label"].tolist(),
        "ε, claimed": [significant(value) for value in rows["epsilon"]],
        "ε, lower bound": [significant(value) for value in rows["epsilon_low"]],
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
    return Table(view.title, cells, numeric, _notes(view, rows, records), rows.reset_index())


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


def _notes(view: ExperimentView, rows: pd.DataFrame, records: pd.DataFrame) -> tuple[str, ...]:
    confidence = " or ".join(f"{percent(value, 0)} %" for value in dict.fromkeys(rows["confidence"]))
    family = " or ".join(str(value) for value in dict.fromkeys(rows["family"]))
    notes = (
        "The audit trains each arm with the code of the results, with its momentum, schedule, budget, clients and "
        "server, on a few examples: random images, or features of images, with random labels. Updates are added in "
        "plaintext, since the sum has the same bits under encryption.",
        "White-box audit: the auditor sees every release (each step of an owner, or each sum of a federation without "
        "the noise shares of colluding clients), and learns the coins of the samples afterwards. It subtracts the "
        "clipped gradients of the sample, computed one example at a time; the rest is noise. Before and after "
        "clipping: the longest gradient, and the contribution of an example, over the clipping norm. For client-level "
        "privacy, read client for example.",
        "Measured: deviation of the noise along the gradients of examples, over the contribution of one example. ε, "
        "lower bound: the ε of the training with the upper end of that interval as its noise multiplier, by the same "
        "accounting. The closer it is to the claim, the less missing noise the audit could overlook.",
        "The intervals, and the checks of each release, party and parameter tensor, of the samples, and of the "
        f"distribution and the repetition of the noise, accuse none of the {family} audited arms wrongly with "
        f"{confidence} confidence, all together. The executed steps are compared with the steps in the account.",
        "The audit does not prove a claim that holds: it tries few examples, with one seed.",
    )
    shown = records[records["arm"].isin(list(view.arms))]
    return (*notes, FALLBACK_SENTENCE) if is_fallback(shown["dataset"]) else notes
