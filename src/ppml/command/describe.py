"""The subcommand ``ppml describe``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppml.config.datasets import DATASETS
from ppml.config.suggestions import shorten
from ppml.data.describe.copies_of_label import copies_of_label
from ppml.data.describe.entry import configuration, dataset_name
from ppml.data.describe.facts import ColumnFacts, column_facts
from ppml.data.describe.files import UserTable, read_user_table
from ppml.data.describe.roles import FEWEST_OTHERS, LEFT_OUT, Choices, TableGuess, guess_table, kept_rows
from ppml.errors import UserError
from ppml.io.atomic import write_text

MANY_COLUMNS = 1_000
FEW_ROWS = 200
SHOWN = 8
"""Names that a warning shows at most."""


def describe_files(
    files: Sequence[Path],
    choices: Choices,
    *,
    name: str | None = None,
    header: bool | None = None,
    output: Path | None = None,
) -> None:
    """Print a first configuration for the tables in ``files``, or write it to ``output``; print warnings.

    Raises
    ------
    UserError
        A file cannot be read, a name is not allowed, a named column does not fit, or ``output`` exists.
    """
    if output is not None and output.exists():
        raise UserError(f"--output: {output} exists; name another file, or remove it")
    name = dataset_name(files[0].name.partition(".")[0], DATASETS) if name is None else _checked_name(name)
    table = read_user_table(files, header)
    facts = [_facts(table, column) for column in table.names]
    guess = guess_table(facts, choices)
    missing_texts = {text for column in facts for text in column.missing_texts}
    text = configuration(name, table, guess, missing_texts, kept_rows(guess.columns, facts))
    for line in warnings(table, facts, guess):
        print(f"warning: {line}", file=sys.stderr)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)


def _checked_name(name: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or len(name) > 60:
        raise UserError(f"--name: got {name!r}; allowed: at most 60 small letters, digits and _, a letter first")
    if name in DATASETS:
        raise UserError(f"--name: got {name!r}, a data set of config/datasets.yaml; take another name")
    return name


def _facts(table: UserTable, column: str) -> ColumnFacts:
    if column in table.nested:
        return ColumnFacts(column, "other", table.table.num_rows, reason=f"nested values ({table.nested[column]})")
    return column_facts(column, table.table.column(column), table.format.decimal)


def warnings(table: UserTable, facts: Sequence[ColumnFacts], guess: TableGuess) -> Iterator[str]:
    """Yield one line for each doubt about a table; no line has a value of it."""
    place, rows = table.paths[0], table.table.num_rows
    if not table.format.header:
        yield f"{place}: no names are read from the first line: the columns are column_1, column_2, ...; see --header"
    if found := guess.with_role("identifier"):
        named = shorten([*map(repr, found)], SHOWN)
        yield f"{place}: {named} looks like an identifier and is no input; confirm the role"
    inputs = {column.name for column in guess.columns if column.is_input}
    compared = [column for column in facts if column.name in inputs]
    if found := list(copies_of_label(table.table, guess.label, compared)):
        named = shorten([*map(repr, found)], SHOWN)
        yield (
            f"{place}: {named} tells the label {guess.label!r} of nearly all rows; give it the role ignored if it is "
            "known only with the label"
        )
    limited = sum(column.limits is not None for column in guess.columns)
    listed = sum(bool(column.values) for column in guess.columns)
    if limited:
        yield (
            f"{place}: {limited} ranges and {listed} lists are those of the file, private facts until you confirm them "
            "or replace them by public ones"
        )
    if len(guess.columns) > MANY_COLUMNS:
        yield f"{place}: has {len(guess.columns)} columns; a model with few inputs is better under privacy"
    if full := sum(LEFT_OUT in column.notes for column in guess.columns):
        yield f"{place}: {full} columns are ignored, since the file of a configuration is full"
    if rows < FEW_ROWS:
        yield f"{place}: has {rows} rows; below {FEW_ROWS}, accuracies differ by chance, and privacy costs most"
    if small := sum(count < FEWEST_OTHERS for count in guess.classes.values()):
        yield (
            f"{place}: {small} classes of the label {guess.label!r} have fewer than {FEWEST_OTHERS} rows each; "
            "drop them or join them"
        )
