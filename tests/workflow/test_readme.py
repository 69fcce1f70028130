"""What the README shows comes from the pipeline."""

from __future__ import annotations

import re

import pytest

from tests.workflow.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_what_the_readme_links_to_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_readme_shows_the_table_that_the_pipeline_made() -> None:
    (source, shown) = re.findall(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)[0]
    lines = (ROOT / source).read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    notes = [line for line in lines if line.startswith("- ")]
    assert shown.strip().splitlines() == [*table, "", *notes]
