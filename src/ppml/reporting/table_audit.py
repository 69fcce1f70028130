"""The table of audits: the claims of our own trainings about their privacy, and the evidence of their releases."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView, audits_of
from ppml.reporting.fallback import FALLBACK_SENTENCE
from ppml.reporting.formatting import distinct, factor, percent, significant, thousands
from ppml.reporting.registry import table
from ppml.reporting.table import Columns, Table, cells_of

HOLDS = "holds"
FAILS = "DOES NOT HOLD"
UNCLEAR = "not shown"


@table("audit")
def audit_table(view: ExperimentView, records: pd.DataFrame, audits: pd.DataFrame) -> Table:
    """Return the table with a row for each audited arm: claimed and measured epsilon, noise and measurements."""
    rows = audits_of(view, audits)
    columns: Columns = {
        "Technique": lambda row: row["label"],
        "ε, claimed": lambda row: significant(row["epsilon"]),
        "ε, lower bound": lambda row: significant(row["epsilon_low"]),
        "Noise multiplier, claimed": lambda row: significant(row["noise_multiplier"]),
        "Measured": lambda row: "{} [{}, {}]".format(*(significant(row[end]) for end in ("estimate", "low", "high"))),
        "Before clipping": lambda row: factor(row["canary_norm"] / row["max_grad_norm"]),
        "After clipping": lambda row: f"{row['contribution'] / row['max_grad_norm']:.4f}",
        "Releases": lambda row: thousands(row["releases"]),
        "Measurements": lambda row: thousands(row["measurements"]),
        "Drawn": lambda row: f"{row['drawn']:,} of {row['coins']:,}" if row["coins"] else "all, always",
        "Verdict": _verdict,
    }
    texts = {"Technique", "Verdict"}
    return Table(view.title, cells_of(rows, columns), texts, _notes(view, rows), rows.reset_index())


def verdict_of(row: pd.Series) -> str:
    """Return the verdict on an audited arm: `HOLDS`, `FAILS` or `UNCLEAR`."""
    if not row["held"]:
        return FAILS
    return UNCLEAR if isinstance(row["unclear"], str) and row["unclear"] else HOLDS


def confidence_of(rows: pd.DataFrame) -> str:
    """Return the confidence of audits, in percent."""
    return distinct(rows["confidence"], lambda value: f"{percent(value, 0)} %", " or ")


def _verdict(row: pd.Series) -> str:
    verdict = verdict_of(row)
    return {FAILS: f"{FAILS}: {row['faults']}", UNCLEAR: f"{UNCLEAR}: {row['unclear']}"}.get(verdict, verdict)


def _notes(view: ExperimentView, rows: pd.DataFrame) -> tuple[str, ...]:
    family = distinct(rows["family"], separator=" or ")
    notes = (
        "The audit trains each arm with the code of the results, with its momentum, schedule, budget, clients and "
        "server, on a few examples: random images, or features of images, with random labels. Updates are added in "
        "plaintext, since the sum has the same bits under encryption.",
        "White-box audit: the auditor sees every release (each step of an owner, or each sum of a federation without "
        "the parts of the noise of colluding clients), and learns the coins of the samples afterwards. It subtracts "
        "the clipped gradients of the sample, computed one example at a time; the rest is noise. Before and after "
        "clipping: the longest gradient, and the contribution of an example, over the clipping norm. For client-level "
        "privacy, read client for example.",
        "Measured: deviation of the noise along the gradients of examples, over the contribution of one example. ε, "
        "lower bound: the ε of the training with the upper end of that interval as its noise multiplier, by the same "
        "accounting. The closer it is to the claim, the less missing noise the audit could overlook.",
        "The intervals, and the checks of each release, party and parameter tensor, of the samples, and of the "
        f"distribution and the repetition of the noise, accuse none of the {family} audited arms wrongly with "
        f"{confidence_of(rows)} confidence, all together. The executed steps are compared with the steps in the "
        "account.",
        "The audit does not prove a claim that holds: it tries few examples, with one seed.",
    )
    return (*notes, FALLBACK_SENTENCE) if view.fallback else notes
