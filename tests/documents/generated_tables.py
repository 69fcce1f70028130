"""The generated tables of the README. ``python -m tests.documents.generated_tables`` copies the current ones."""

from __future__ import annotations

import re

from .markdown import ROOT

README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- from (\S+) -->\n(.*?)<!-- end -->", flags=re.DOTALL)


def current(source: str) -> str:
    """Return the lines of a table in ``reports/tables``, without title and notes."""
    lines = (ROOT / source).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("|"))


def copied(text: str) -> str:
    """Return a text with the current tables."""
    return BLOCK.sub(lambda block: f"<!-- from {block[1]} -->\n{current(block[1])}<!-- end -->", text)


if __name__ == "__main__":
    README.write_text(copied(README.read_text(encoding="utf-8")), encoding="utf-8")
