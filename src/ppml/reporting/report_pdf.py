"""All tables and figures as a PDF: a page of decisions, then the pages of each experiment."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import matplotlib
from fpdf import FPDF, FontFace
from fpdf.enums import TableBordersLayout, XPos, YPos

from ppml.reporting.decision import TRUST, Decision
from ppml.reporting.formatting import EMPTY_CELL
from ppml.reporting.report_content import Overview, Page
from ppml.reporting.shown_table import ShownTable

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONT = "DejaVu"
STYLES = {"": "DejaVuSans.ttf", "B": "DejaVuSans-Bold.ttf"}
"""Matplotlib includes this font, with the signs of all tables."""
MARGIN = 14
"""Millimetres."""
GREY = (90, 90, 90)
# It reports every part of an SVG file that has no look, such as its metadata.
logging.getLogger("fpdf").setLevel(logging.ERROR)
WIDE = 7
"""A table with more columns stands on a page in landscape."""
TEXT_SHARE = 2.2
"""The largest width of a column over the mean width of all columns."""


class _Document(FPDF):
    """A document with the title and the number of each page below it."""

    def __init__(self, title: str, date: str) -> None:
        super().__init__(format="A4")
        self.set_title(title)
        # The same results have the same bytes at the same date.
        self.set_creation_date(datetime.strptime(date, "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC))
        self.set_margin(MARGIN)
        self.set_auto_page_break(True, MARGIN + 6)
        for style, file in STYLES.items():
            self.add_font(FONT, style, FONTS / file)
        self._title = title

    def footer(self) -> None:
        self.set_y(-MARGIN)
        self.set_font(FONT, "", 7)
        self.set_text_color(*GREY)
        self.cell(self.epw / 2, 5, self._title)
        self.cell(self.epw / 2, 5, f"{self.page_no()} / {{nb}}", align="R")
        self.set_text_color(0)

    def paragraph(self, text: str, size: float = 9, style: str = "", grey: bool = False) -> None:
        """Write a paragraph."""
        self.set_font(FONT, style, size)
        self.set_text_color(*(GREY if grey else (0, 0, 0)))
        self.multi_cell(0, size * 0.48, _printable(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT, align="L")
        self.set_text_color(0)
        self.ln(1.5)

    def heading(self, text: str, size: float = 13) -> None:
        """Write a heading, which is a line of the outline."""
        self.start_section(_printable(text))
        self.paragraph(text, size, "B")

    def grid(self, headings: Sequence[str], lines: Sequence[Sequence[str]], kinds: Sequence[str]) -> None:
        """Write a table; its headings repeat on each page."""
        size = 7.5 if len(headings) <= WIDE else 6.5
        self.set_font(FONT, "", size)
        with self.table(
            col_widths=_widths(headings, lines),
            text_align=tuple("RIGHT" if kind == "number" else "LEFT" for kind in kinds),
            headings_style=FontFace(emphasis="BOLD", fill_color=(238, 238, 238)),
            borders_layout=TableBordersLayout.HORIZONTAL_LINES,
            line_height=size * 0.45,
            padding=(0.7, 1),
            width=self.epw,
        ) as table:
            for line in (headings, *lines):
                table.row([_printable(cell) for cell in line])
        self.ln(2)


def write_pdf(
    title: str,
    overview: Overview,
    pages: Sequence[Page],
    facts: Mapping[str, str],
    date: str,
    fallback: str,
) -> bytes:
    """Return the document.

    Parameters
    ----------
    title : str
        The heading.
    overview : Overview
        The first page.
    pages : sequence of Page
        The pages of the experiments; the source of a figure is the path of its SVG file.
    facts : mapping
        The provenance of all results, by heading.
    date : str
        The date of the document, like ``2026-01-31 12:00 UTC``.
    fallback : str
        The sentence about fallback data; empty with the configured data.
    """
    document = _Document(title, date)
    document.add_page()
    document.heading(title, 16)
    if fallback:
        document.paragraph(fallback, 9, "B")
    for data in overview.decisions:
        document.paragraph(data.sentence, 10)
    _write_facts(document, facts)
    for data in overview.decisions:
        if data.decisions:
            _write_decisions(document, data.dataset, data.decisions)
    for page in pages:
        _write_page(document, page)
    return bytes(document.output())


def _write_decisions(document: _Document, dataset: str, decisions: Sequence[Decision]) -> None:
    document.add_page(orientation="landscape")
    document.heading(f"Threat, technique, cost, trust: {dataset}")
    headings = ("Threat", "Technique", "Accuracy (%)", "Change (points)", "ε", "CPU seconds", "Upload", "Trust")
    lines = []
    for one in decisions:
        for place, option in enumerate(one.options):
            change = f"{option.change_text} against {option.against}" if option.against else EMPTY_CELL
            trust = f"{option.trust}; noise known to: {option.noise}" if option.noise else option.trust
            numbers = option.score_text, change, option.epsilon_text, option.seconds_text, option.bytes_text
            lines.append((one.threat.name if place == 0 else "", option.label, *numbers, trust))
    document.grid(headings, lines, ("text", "text", "number", "text", "number", "number", "number", "text"))
    document.paragraph(f"The first technique for a threat is recommended. {TRUST}", 8, grey=True)


def _write_page(document: _Document, page: Page) -> None:
    first = _orientation(page.tables[0][0]) if page.tables and not page.figures else "portrait"
    document.add_page(orientation=first)
    document.heading(page.title)
    for figure in page.figures:
        _write_figure(document, Path(figure.source), figure.caption)
    for place, (table, caption) in enumerate(page.tables):
        if place or page.figures:
            document.add_page(orientation=_orientation(table))
        _write_table(document, table, caption)
    _write_facts(document, page.facts)


def _orientation(table: ShownTable) -> Literal["landscape", "portrait"]:
    return "landscape" if len(table.headings) > WIDE else "portrait"


def _write_figure(document: _Document, path: Path, caption: str) -> None:
    width, height = _size(path)
    # The library draws no picture inside of an SVG file.
    path = path.with_suffix(".png") if b"<image" in path.read_bytes() else path
    shown = document.epw
    tall = shown * height / width
    # A very tall figure has the height of the page, less its caption.
    if tall > (limit := document.eph - 40):
        shown, tall = shown * limit / tall, limit
    if document.will_page_break(tall + 25):
        document.add_page(same=True)
    document.image(path, w=shown, h=tall, alt_text=caption)
    document.ln(1)
    document.paragraph(caption, 8, grey=True)


def _size(path: Path) -> tuple[float, float]:
    """Return width and height of an SVG file, in points."""
    found = re.search(rb'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', path.read_bytes()[:2000])
    return (float(found[1]), float(found[2])) if found else (4.0, 3.0)


def _write_table(document: _Document, table: ShownTable, caption: str) -> None:
    document.paragraph(caption, 8, grey=True)
    document.grid(table.headings, table.lines, table.kinds)
    for note in table.notes:
        document.paragraph(f"· {note}", 7, grey=True)


def _write_facts(document: _Document, facts: Mapping[str, str]) -> None:
    document.ln(2)
    for name, text in facts.items():
        document.paragraph(f"{name}: {text}", 7.5, grey=True)


def _widths(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """Return the relative widths of the columns: the longest word fits, and long texts get more."""
    columns = [[heading, *cells] for heading, *cells in zip(headings, *lines, strict=True)]
    words = [max(len(word) for text in column for word in text.split() or [""]) for column in columns]
    texts = [sum(map(len, column)) / len(column) for column in columns]
    wanted = [max(word + 4, min(text, 3.0 * word)) for word, text in zip(words, texts, strict=True)]
    most = TEXT_SHARE * sum(wanted) / len(wanted)
    return tuple(min(width, max(most, word)) for width, word in zip(wanted, words, strict=True))


def _printable(text: str) -> str:
    """Return a text without control characters, which have no sign."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
