"""The links of the documents."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from .markdown import DOCUMENTS, ROOT, Document

INDEX = Document(ROOT / "docs" / "README.md")


def broken(document: Document, link: str) -> str:
    """Return the fault of a link, or an empty text."""
    parts = urlsplit(link)
    if parts.scheme:
        return "" if parts.scheme == "https" and "." in parts.netloc else "is no https address"
    target = (document.path.parent / parts.path).resolve() if parts.path else document.path
    if not target.exists():
        return "does not exist"
    if not target.is_relative_to(ROOT):
        return "is outside of the project"
    if parts.fragment and parts.fragment not in Document(target).anchors:
        return "names no heading"
    return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_to_files_and_headings(document):
    faults = {link: fault for link in document.links if (fault := broken(document, link))}
    assert faults == {}


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("docs/nothing.md", "does not exist"),
        ("docs/privacy.md#nothing", "names no heading"),
        ("../elsewhere", "does not exist"),
        ("http://example.org", "is no https address"),
        ("docs/privacy.md#limits", ""),
    ],
)
def test_broken_links_are_found(link, fault):
    assert broken(Document(ROOT / "README.md"), link) == fault


def test_index_names_every_document():
    linked = {(INDEX.path.parent / link).resolve() for link in INDEX.links}
    assert {path for path in (ROOT / "docs").rglob("*.md") if path != INDEX.path} <= linked
