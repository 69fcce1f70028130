"""The documented columns of the tidy files; the tests of the workflow compare them with its files."""

from __future__ import annotations

import re

import pytest

from ppml.results.tidy_files import TIDY_FILES

from .markdown import ROOT, Document

TEXT = Document(ROOT / "docs" / "columns.md").text


def documented_columns(name: str) -> tuple[set[str], set[str]]:
    """Return the names in the section of a tidy file, and those in the first cells of its table."""
    section = re.split(r"^## ", TEXT.split(f"## `{name}.csv`\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return set(re.findall(r"`([a-z_0-9]+)`", section)), set(re.findall(r"`(\w+)`", " ".join(first_cells)))


@pytest.mark.parametrize("name", TIDY_FILES)
def test_every_column_of_tables_and_figures_is_documented(name: str) -> None:
    assert {*TIDY_FILES[name].columns} <= documented_columns(name)[0]
