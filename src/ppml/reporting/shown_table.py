"""The cells and notes of a table, from the HTML file that the stage of the table wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class ShownTable:
    """A table as readers see it."""

    title: str = ""
    headings: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    """``number`` or ``text`` for each column."""
    lines: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.table = ShownTable()
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._text = []
        if tag == "th":
            self.table.kinds.append(dict(attrs).get("class") or "text")
        elif tag == "tr" and self.table.headings:
            self.table.lines.append([])

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        text, self._text = "".join(self._text), []
        match tag:
            case "h1":
                self.table.title = text
            case "th":
                self.table.headings.append(text)
            case "td":
                self.table.lines[-1].append(text)
            case "li":
                self.table.notes.append(text)


def read_html(text: str) -> ShownTable:
    """Return the table of an HTML file of :func:`~ppml.reporting.writers.to_html`."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.table
