"""The links and the table of the README."""

from __future__ import annotations

import re

import pytest

from tests.workflow.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_links_of_readme_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_readme_contains_current_table() -> None:
    (source, shown) = re.findall(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)[0]
    lines = (ROOT / source).read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    notes = [line for line in lines if line.startswith("- ")]
    assert shown.strip().splitlines() == [*table, "", *notes]
