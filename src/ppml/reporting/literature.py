"""The numbers that the papers report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from ppml.config.spec import Spec, config_error
from ppml.config.yaml_file import read_yaml
from ppml.errors import UserError
from ppml.reporting.formatting import percent

PAPERS = (
    "Dataset Anonymizer",
    "PRIVATE-AI",
    "Network anonymization",
    "Data privacy and security learning",
    "Privacy-preserving techniques",
)
"""The papers whose systems the project implements; other rows state their source."""


class PublishedRow(Spec):
    """A row of a paper's table, as printed there."""

    paper: str = Field(min_length=1, description="Short name.")
    table: str | None = Field(default=None, min_length=1, description="Number of their table; null without one.")
    technique: str = Field(min_length=1, description="Name of the row, in their words.")
    settings: str | None = Field(default=None, min_length=1, description="Settings of the row, in their words.")
    accuracy: float | None = Field(ge=0, le=1, description="Fraction in [0, 1]; null if the paper reports none.")
    std: float | None = Field(default=None, ge=0, le=1, description="Number after their ±, a fraction.")
    epsilon: float | None = Field(default=None, gt=0, description="As stated in the paper.")
    n_train: int | None = Field(default=None, ge=1, description="Training images; null if none is stated.")
    source: str | None = Field(
        default=None, min_length=1, description="arXiv id or address; required beyond the project's own five papers."
    )
    disputed: str | None = Field(
        default=None, min_length=1, description="arXiv id of a paper that disputes the accounting of its epsilon."
    )
    note: str | None = Field(default=None, min_length=1, description="Facts that a comparison needs.")

    @property
    def full_name(self) -> str:
        """The name of the row with its settings."""
        return f"{self.technique} ({self.settings})" if self.settings else self.technique

    @model_validator(mode="after")
    def _can_be_found(self) -> PublishedRow:
        if self.source is None and self.paper not in PAPERS:
            raise config_error(f"source is missing; only rows of {', '.join(PAPERS)} go without")
        return self


_ROWS = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[a-z0-9-]+(/[a-z0-9.-]+)+$")], PublishedRow])


def load_published(path: str | Path) -> dict[str, PublishedRow]:
    """Read the published numbers in the YAML file ``path``, in the order of the file.

    Returns
    -------
    dict of str to PublishedRow
        By key, for example ``private-ai/4/fl-dp``.

    Raises
    ------
    UserError
        The file cannot be read or a value is not allowed; the message names file, key, value and allowed values.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected keys and rows at the top level, got {type(content).__name__}")
    try:
        return _ROWS.validate_python(content)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {_describe(problem)}" for problem in error.errors())) from None


def parse_published(rows: Mapping[str, Any]) -> dict[str, PublishedRow]:
    """Return published numbers by key from plain values."""
    return _ROWS.validate_python(rows)


def accuracy_text(row: PublishedRow, unknown: str) -> str:
    """Return the accuracy of a row in percent with its ±, or ``unknown``."""
    if row.accuracy is None:
        return unknown
    return percent(row.accuracy, 1) + ("" if row.std is None else f" ± {percent(row.std, 1)}")


def _describe(problem: Any) -> str:
    """Return one line with key, value and problem."""
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "unknown_name":
        return f"{key}: {message}"
    if problem["type"] == "missing":
        return f"{key}: is missing (write null if the paper gives none)"
    return f"{key}: got {problem['input']!r}; {message}"
