"""The documented columns of the tidy files."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from ppml.results.tidy_files import TIDY_FILES

from .markdown import ROOT, Document

TEXT = Document(ROOT / "docs" / "columns.md").text


@pytest.mark.parametrize("name", TIDY_FILES)
def test_every_column_is_documented(name):
    section = re.split(r"^## ", TEXT.split(f"## `{name}.csv`\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    documented = set(re.findall(r"`([a-z_0-9]+)`", section))
    columns = set(pd.read_csv(ROOT / "reports" / f"{name}.csv", nrows=0).columns)
    assert columns >= {*TIDY_FILES[name].columns}
    counts = {column for column in columns if re.fullmatch(r"label_\d+", column)}
    assert columns - counts <= documented
    first_cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) <= columns
