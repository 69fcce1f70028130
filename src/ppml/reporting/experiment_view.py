"""Which arms are shown together, and the tidy files that they are read from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field, ValidationError

from ppml.config.experiment import Claim, Comparison
from ppml.config.spec import Spec, unknown_name
from ppml.errors import UserError
from ppml.reporting.literature import PublishedRow

RECORDS = (
    *(
        "arm",
        "dataset",
        "model",
        "parameters",
        "topology",
        "privacy_unit",
        "noise_by",
        "noise_source",
        "sampling_source",
        "aggregation",
        "update_opened_by",
        "sum_seen_by",
        "clients",
    ),
    *(
        "partition",
        "division",
        "rounds",
        "seed",
        "n_train",
        "n_test",
        "n_test_all",
        "evaluated_on",
        "accuracy",
        "accuracy_all",
    ),
    *(
        "epsilon",
        "epsilon_rdp",
        "epsilon_prv",
        "epsilon_pld",
        "epsilon_gdp",
        "epsilon_replace_one",
        "epsilon_if_opened",
        "budget",
        "delta",
        "accountant",
    ),
    *("neighbouring", "noise_multiplier", "max_grad_norm", "sample_rate", "steps", "steps_planned", "device"),
    *("config_digest", "data_digest"),
)
"""Columns of `records.csv` that tables and figures use: a row an arm and seed."""

COSTS = (
    *("arm", "seed", "seconds", "cpu_seconds", "peak_memory_mb", "rounds", "clients"),
    *("bytes_up", "bytes_down", "expansion"),
)
"""Columns of `costs.csv`: a row an arm and seed."""

HISTORY = ("arm", "seed", "unit", "step", "accuracy", "loss", "train_loss")
"""Columns of `history.csv`: a row an arm, seed and epoch or round."""

EPSILONS = ("arm", "seed", "accountant", "step", "epoch", "epsilon")
"""Columns of `epsilons.csv`: a row an arm, seed and place on the way, of the owner who spends most."""

CLIENTS = ("arm", "seed", "client", "records", "label_0", "epsilon")
"""Columns of `clients.csv` that are always there: a row an arm, seed and client. A subset may lack the last labels."""

AUDITS = (
    *("arm", "seed", "noise_multiplier", "estimate", "low", "high", "epsilon", "epsilon_low"),
    *("canary_norm", "max_grad_norm", "contribution", "releases", "measurements", "drawn", "coins"),
    *("confidence", "family", "held", "faults", "unclear"),
)
"""Columns of `audits.csv` that tables and figures use: a row an arm whose mechanism was audited."""


class Selection(Spec):
    """What a table or figure shows."""

    title: str = Field(min_length=1, description="Heads the table or figure.")
    arms: dict[str, str] = Field(min_length=1, description="Label of each arm by its name, in the order shown.")
    compare: Annotated[tuple[Comparison, ...], Field(strict=False)] = Field(
        default=(), description="Published rows, in the order shown."
    )
    notes: Annotated[tuple[str, ...], Field(strict=False)] = Field(default=(), description="Lines below the table.")
    published: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Published rows that no arm answers."
    )
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = Field(
        default=(), description="Sentences of the papers, in the order shown."
    )
    others: dict[str, str] = Field(default={}, description="Label of each arm that only a claim names.")

    def label(self, arm: str) -> str:
        """Return the label of ``arm``; an arm that only answers a published row goes by its name."""
        return self.arms.get(arm) or self.others.get(arm, arm)

    def compared_arms(self) -> tuple[str, ...]:
        """Return the names of the arms that answer published rows, each once, in the order shown."""
        return tuple(dict.fromkeys(row.arm for row in self.compare if row.arm is not None))


def parse_selection(text: str) -> Selection:
    """Read a selection from JSON.

    Raises
    ------
    UserError
        The text is not JSON, or a value is not allowed; the message names the key and the value.
    """
    try:
        return Selection.model_validate_json(text)
    except ValidationError as error:
        lines = [f"--spec: {'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def read_tidy(path: str | Path, columns: Collection[str]) -> pd.DataFrame:
    """Read a tidy CSV file.

    Raises
    ------
    UserError
        The file has no row, or lacks one of ``columns``.
    OSError
        The file cannot be read.
    """
    # Only an empty cell is missing: an arm, partition or topology may be called "none" or "null".
    names = dict.fromkeys(("arm", "arms", "partition", "division", "config_digest", "data_digest"), str)
    try:
        frame = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a CSV file with a header: {' '.join(str(error).split())}") from None
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; found: {', '.join(map(str, frame.columns))}")
    return frame


def label_columns(clients: pd.DataFrame) -> list[str]:
    """Return the columns of `clients.csv` that count the records of a label, in the order of the labels."""
    numbers = [int(found[1]) for column in clients.columns if (found := re.fullmatch(r"label_(\d+)", str(column)))]
    return [f"label_{label}" for label in sorted(numbers)]


def require_arms(frame: pd.DataFrame, arms: Iterable[str], file: str) -> None:
    """Raise an error that names ``file`` unless ``frame`` has rows for each of ``arms``."""
    present = set(frame["arm"])
    for arm in arms:
        if arm not in present:
            raise UserError(f"{file}: {unknown_name('arm', arm, present).message()}")


def audits_of(selection: Selection, audits: pd.DataFrame) -> pd.DataFrame:
    """Return the audits of the arms that are shown, in their order, by arm.

    Raises
    ------
    UserError
        None of the arms was audited.
    """
    rows = audits.set_index("arm")
    shown = [arm for arm in selection.arms if arm in rows.index]
    if not shown:
        raise UserError(
            f"audits.csv: none of the arms {', '.join(selection.arms)} of {selection.title!r} was audited; select one "
            "with privacy, and set `audit: {kind: canary}`"
        )
    return rows.loc[shown].assign(label=[selection.label(arm) for arm in shown])


def require_published(selection: Selection, published: Mapping[str, PublishedRow]) -> None:
    """Raise an error unless every published row that is shown exists."""
    named = {"compare": [row.published for row in selection.compare], "published": selection.published}
    for key, rows in named.items():
        for row in rows:
            if row not in published:
                raise UserError(f"{key}: {unknown_name('published row', row, published).message()}")
