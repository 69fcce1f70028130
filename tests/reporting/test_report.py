"""The HTML report and the PDF: the pages, hostile texts, and equal bytes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from ppml.reporting.main_figure import BOTTOM, HEIGHT, TOP, Point, draw
from ppml.reporting.report_content import Overview, overview_of
from ppml.reporting.report_page import LARGEST_BYTES, choose_formats
from ppml.reporting.report_pdf import write_pdf
from ppml.reporting.shown_table import read_html
from ppml.reporting.table import Table
from ppml.reporting.writers import to_html
from ppml.stages import pdf, report

from .made_up import COMPARE, TECHNIQUES, MadeUpArm, collect
from .report_job import PROVENANCE, report_job

HOSTILE = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>\'"&'


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(job):
    report.run(job)
    text = job.outputs["page"].read_text(encoding="utf-8")
    return text, Page(text)


def test_no_interval_decides_the_axis():
    points = [Point("a", 1.0, 0.9, 0.1, 1.0, "x"), Point("b", math.inf, 0.95, 0.949, 0.951, "y")]
    drawing = draw(points)
    a, b = drawing.places["a"], drawing.places["b"]
    ends = HEIGHT - BOTTOM, TOP
    # The higher arm and the lower one are near both ends of the axis, and the bar stays within it.
    assert a.y - b.y > 0.5 * (ends[0] - ends[1])
    assert (a.low, a.high) == pytest.approx(ends)
    assert drawing.band and drawing.band[0] < b.x < drawing.band[1] and a.x < drawing.band[0]


def test_two_seeds_have_their_range(tmp_path):
    made = collect(TECHNIQUES, seeds=2)
    spec = {"labels": made.view.arms, "experiments": []}
    made.records.loc[made.records["arm"] == "fl", "accuracy_all"] = [0.95, 0.985]
    drawing = overview_of(spec, made.records, made.costs, made.inferences).drawing
    # A t-interval would reach from far below 90 % to 100 %.
    assert drawing.places["fl"].high > TOP and drawing.places["fl"].low < drawing.places["local"].y


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Return a job of the stage report."""
    return report_job(collect(TECHNIQUES, compare=COMPARE), tmp_path_factory.mktemp("job"), "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return a job with hostile texts."""
    made = collect({**TECHNIQUES, "bad": MadeUpArm(HOSTILE, 0.9)}, title=HOSTILE)
    made.view = made.view.model_copy(update={"notes": (HOSTILE,)})
    return report_job(made, tmp_path_factory.mktemp("hostile"), "report.html", title=HOSTILE, fallback=HOSTILE)


def test_report_has_a_page_for_each_experiment_with_provenance(job):
    _, page = page_of(job)
    sections = [one["id"] for one in page.all("section")]
    assert sections == ["overview", "experiment-all-arms", "experiment-few", "about"]
    assert [one["href"] for one in page.all("a")][1:] == [f"#{name}" for name in sections]
    texts = " ".join(page.texts)
    for value in (*PROVENANCE.values(), "00000000deadbeef"):
        assert value in texts
    (picture,) = page.all("img")
    assert picture["src"].startswith("data:image/svg+xml;base64,") and "accuracy during training" in picture["alt"]
    rows = [one for one in page.all("tr") if "data-arm" in one]
    assert [one["data-arm"] for one in rows] == list(TECHNIQUES)
    assert rows[0]["data-experiments"] == "all-arms few" and rows[2]["data-experiments"] == "all-arms"
    assert len([one for one in page.all("g") if "data-arm" in one]) == len(TECHNIQUES)
    assert all("scope" in one for one in page.all("th"))


def test_report_needs_no_network_and_little_room(job):
    text, page = page_of(job)
    loaded = [attrs.get("src") or attrs.get("href") for tag, attrs in page.elements if tag in ("img", "script", "link")]
    assert all(address is None or address.startswith("data:") for address in loaded)
    assert not re.search(r"(https?:)?//[a-z]", text.partition("<script>")[2].replace("// ", ""))
    assert len(text.encode()) < LARGEST_BYTES / 10


def test_hostile_texts_are_shown_as_texts(hostile):
    text, page = page_of(hostile)
    assert len(page.all("script")) == 1 and len(page.all("img")) == 1
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    # The label, the title and the note are there.
    assert text.count("&lt;img src=x onerror=") > 8


def test_same_results_have_same_bytes(job):
    assert page_of(job)[0] == page_of(job)[0]
    empty = Overview([], [], draw([Point("a", 1.0, 0.9, 0.8, 1.0, "x")]), [], "")
    date = PROVENANCE["date"]
    one, two = (write_pdf("Techniques", empty, [], PROVENANCE, date, "") for _ in range(2))
    assert one == two and b"(D:20260104050600Z" in one


def test_pdf_has_headings_captions_and_numbered_pages(hostile):
    job = replace(hostile, outputs={"page": hostile.outputs["page"].with_suffix(".pdf")})
    pdf.run(job)
    data = job.outputs["page"].read_bytes()
    assert data.startswith(b"%PDF-")
    # Overview, decisions, the figure of the first experiment, its table, the second experiment.
    assert len(re.findall(rb"/Type /Page\b", data)) == 5
    for title in ("Two arms", "Threat, technique, cost, trust: MNIST"):
        assert f"/Title ({title})".encode() in data or title.encode("utf-16-be") in data
    assert b"/Subtype /Image" not in data


def test_pictures_are_png_only_beyond_the_budget():
    sizes = {"a": {"svg": 3000, "png": 100}, "b": {"svg": 900, "png": 800}, "c": {"svg": 100, "png": 900}}
    assert set(choose_formats(sizes, budget=10_000).values()) == {"svg"}
    assert choose_formats(sizes, budget=2_000) == {"a": "png", "b": "svg", "c": "svg"}
    assert choose_formats(sizes, budget=0) == {"a": "png", "b": "png", "c": "svg"}


def test_table_is_read_as_it_was_written():
    cells = pd.DataFrame({"A & b": ["<i>", "x"], "N": ["1 ± 2", "∞"]})
    shown = read_html(to_html(Table("T <b>", cells, {"A & b"}, ("note 'n' <u>", "m"), cells)))
    assert (shown.title, shown.headings, shown.kinds) == ("T <b>", ["A & b", "N"], ["text", "number"])
    assert shown.lines == [["<i>", "1 ± 2"], ["x", "∞"]]
    assert shown.notes == ["note 'n' <u>", "m"]
