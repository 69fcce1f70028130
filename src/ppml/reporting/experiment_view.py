"""The arms, labels and published rows of an experiment, and the tidy files with their results."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from ppml.config.experiment import Claim, ComparedRow, MetricName
from ppml.config.spec import ListOf, Spec, unknown_name
from ppml.errors import UserError
from ppml.reporting.literature import PublishedRow
from ppml.results.tidy_files import TIDY_FILES


class ExperimentView(Spec):
    """The content of a table or figure, from the configuration."""

    title: str = Field(min_length=1, description="Heads the table or figure.")
    arms: dict[str, str] = Field(min_length=1, description="Label of each arm by its name, in the order shown.")
    metric: MetricName = Field(default="accuracy", description="The metric that the table or figure leads with.")
    compare: ListOf[ComparedRow] = Field(default=(), description="Published rows, in the order shown.")
    notes: ListOf[str] = Field(default=(), description="Lines below the table.")
    published: ListOf[str] = Field(default=(), description="Published rows without an arm.")
    claims: ListOf[Claim] = Field(default=(), description="Sentences of the papers, in the order shown.")
    others: dict[str, str] = Field(default={}, description="Label of each arm that only a claim names.")
    fallback: bool = Field(default=False, description="Whether the fallback replaces the configured data set.")

    def label(self, arm: str) -> str:
        """Return the label of ``arm``; its name if it only answers a published row."""
        return self.arms.get(arm) or self.others.get(arm, arm)

    def rows_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the arms."""
        return frame[frame["arm"].isin(list(self.arms))]

    def require(self, found: Collection[Any], shown: str, problem: str) -> None:
        """Raise an error about ``shown``, the table, figure or file, if no suitable arm was ``found``."""
        if not found:
            raise UserError(f"{shown} of {self.title!r}: none of the arms {', '.join(self.arms)} {problem}")

    def compared_arms(self) -> tuple[str, ...]:
        """Return the arms that answer published rows, each once, in the order shown; raise an error without any."""
        arms = tuple(dict.fromkeys(row.arm for row in self.compare if row.arm is not None))
        if not arms:
            raise UserError(f"compare: no published row of {self.title!r} names an arm; the table needs at least one")
        return arms


def read_tidy(name: str, path: str | Path) -> pd.DataFrame:
    """Read the tidy file ``name``, a key of :data:`~ppml.results.tidy_files.TIDY_FILES`.

    Raises
    ------
    UserError
        The file is empty, or a column is missing.
    OSError
        The file cannot be read.
    """
    # Only an empty cell is missing: an arm or partition may have the name "none" or "null".
    names = ("arm", "arms", "partition", "division", "transforms", "config_digest", "data_digest")
    texts = dict.fromkeys(names, str)
    try:
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a CSV file with a header: {' '.join(str(error).split())}") from None
    missing = [column for column in TIDY_FILES[name].columns if column not in frame.columns]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}; found: {', '.join(map(str, frame.columns))}")
    return frame


def label_columns(clients: pd.DataFrame) -> list[str]:
    """Return the columns of `clients.csv` with the number of examples of each label, in the order of the labels."""
    numbers = [int(found[1]) for column in clients.columns if (found := re.fullmatch(r"label_(\d+)", str(column)))]
    return [f"label_{label}" for label in sorted(numbers)]


def require_arms(frame: pd.DataFrame, arms: Iterable[str], file: str) -> None:
    """Raise an error with the name of ``file`` if ``frame`` has no row of one of ``arms``."""
    present = set(frame["arm"])
    for arm in arms:
        if arm not in present:
            raise UserError(f"{file}: {unknown_name('arm', arm, present).message()}")


def audits_of(view: ExperimentView, audits: pd.DataFrame) -> pd.DataFrame:
    """Return the audits of the arms of ``view``, in their order, by arm.

    Raises
    ------
    UserError
        No arm was audited.
    """
    rows = audits.set_index("arm")
    shown = [arm for arm in view.arms if arm in rows.index]
    view.require(
        shown, "table or figure audit", "was audited; select one with privacy, and set `audit: {kind: canary}`"
    )
    return rows.loc[shown].assign(label=[view.label(arm) for arm in shown])


def require_published(view: ExperimentView, published: Mapping[str, PublishedRow]) -> None:
    """Raise an error unless every published row of ``view`` exists."""
    named = {"compare": [row.published for row in view.compare], "published": view.published}
    for key, rows in named.items():
        for row in rows:
            if row not in published:
                raise UserError(f"{key}: {unknown_name('published row', row, published).message()}")
