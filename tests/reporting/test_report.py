"""The HTML report and the PDF: the decisions, the pages, hostile texts, and equal bytes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from ppml.reporting.decision import FILTERS, decide, protections
from ppml.reporting.main_figure import BOTTOM, HEIGHT, TOP, Point, draw
from ppml.reporting.report_content import overview_of
from ppml.reporting.report_page import LARGEST_BYTES, choose_formats
from ppml.reporting.shown_table import read_html
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table
from ppml.reporting.writers import to_html
from ppml.stages import pdf, report

from .made_up import TECHNIQUES, MadeUpArm, collect
from .report_job import PROVENANCE, report_job

HOSTILE = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>\'"&'


def decisions(collected):
    """Return the decisions by the name of the threat, the names of the arms in front."""
    summary = summarise(collected.view, tuple(collected.view.arms), collected.records, collected.costs)
    (data,) = decide(summary, collected.records, collected.inferences)
    return data, {one.threat.key: one.options for one in data.decisions}


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


def test_decision_names_technique_cost_and_trust(techniques):
    data, found = decisions(techniques)
    assert {threat: [one.arm for one in options] for threat, options in found.items()} == {
        "pooling": ["fl", "local"],
        "server": ["fl_he"],
        "model": ["dp", "fl_dp"],
        "both": ["fl_dp_he"],
        "prediction": ["centralized"],
    }
    assert data.epsilon == "2.90"
    means = techniques.records.groupby("arm")["accuracy_all"].mean()
    encrypted = found["server"][0]
    assert (encrypted.points, encrypted.against, encrypted.trust) == (0, "FL", "the server")
    assert encrypted.bytes == "1.13 MB (10.76\N{MULTIPLICATION SIGN})"
    assert found["both"][0].points == pytest.approx(means["fl_dp_he"] - means["fl"])
    assert found["model"][0].points == pytest.approx(means["dp"] - means["centralized"])
    assert found["model"][0].noise == "the holder of the root seed"
    assert found["prediction"][0].bytes == "996 KB an image"
    assert "hiding the updates from the server costs no accuracy" in data.sentence
    assert f"differential privacy at ε 2.90 costs {-100 * found['model'][0].points:.2f} points" in data.sentence


def test_technique_at_another_epsilon_is_not_compared():
    arms = {
        "none": MadeUpArm("ML", 0.98),
        **{f"dp_{n}": MadeUpArm(f"ML + DP {n}", 0.95, epsilon=2.0, max_grad_norm=n) for n in (1, 2)},
        "loose": MadeUpArm("ML + DP 50", 0.979, epsilon=50.0),
    }
    _, found = decisions(collect(arms))
    assert [one.arm for one in found["model"]] == ["dp_1"]


def test_without_common_epsilon_each_one_is_a_choice():
    arms = {f"dp_{n}": MadeUpArm(f"ML + DP {n}", 0.9 + n / 100, epsilon=float(n)) for n in (1, 2, 4)}
    data, found = decisions(collect(arms))
    assert [one.arm for one in found["model"]] == ["dp_4", "dp_2", "dp_1"]
    assert data.sentence.startswith("On MNIST with 10,000 training examples: differential privacy at ε 4.00 reaches 9")
    assert not found["model"][0].against


def test_techniques_compare_over_common_seeds():
    arms = {
        **TECHNIQUES,
        "fl_masks": replace(TECHNIQUES["fl_he"], label="FL, masks", aggregation="masking", upload=110_000),
    }
    made = collect(arms)
    # The encrypted arm has two seeds more, which are better by chance; with the same seed both arms are equal.
    later = (made.records["arm"] == "fl_he") & (made.records["seed"] > 0)
    made.records.loc[later, "accuracy_all"] = 0.999
    made.records = made.records[(made.records["arm"] != "fl_masks") | (made.records["seed"] == 0)]
    _, found = decisions(made)
    assert [one.arm for one in found["server"]] == ["fl_masks", "fl_he"]


def test_each_data_set_has_its_own_decisions():
    arms = {**TECHNIQUES, "other": replace(TECHNIQUES["dp"], dataset="kmnist", accuracy=0.5)}
    made = collect(arms)
    summary = summarise(made.view, tuple(made.view.arms), made.records, made.costs)
    first, second = decide(summary, made.records, made.inferences)
    assert (first.dataset, second.dataset) == ("MNIST", "KMNIST")
    assert [option.arm for one in second.decisions for option in one.options] == ["other"]


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
    _, decided = decisions(made)
    assert "[" not in decided["model"][0].change


def test_protections_follow_from_the_parts_of_an_arm(techniques):
    summary = summarise(techniques.view, tuple(techniques.view.arms), techniques.records, techniques.costs)
    found = {arm: protections(row, {"fl"}) for arm, row in summary.iterrows()}
    assert found["centralized"] == []
    assert found["fl"] == ["pooling", "prediction"]
    assert found["fl_dp_he"] == ["pooling", "server", "model"]
    assert set(FILTERS) == {"pooling", "server", "model", "client", "prediction"}


def test_report_has_a_page_for_each_experiment_with_provenance(techniques, tmp_path):
    _, page = page_of(report_job(techniques, tmp_path, "report.html"))
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


def test_report_needs_no_network_and_little_room(techniques, tmp_path):
    text, page = page_of(report_job(techniques, tmp_path, "report.html"))
    loaded = [attrs.get("src") or attrs.get("href") for tag, attrs in page.elements if tag in ("img", "script", "link")]
    assert all(address is None or address.startswith("data:") for address in loaded)
    assert not re.search(r"(https?:)?//[a-z]", text.partition("<script>")[2].replace("// ", ""))
    assert len(text.encode()) < LARGEST_BYTES / 10


def test_hostile_texts_are_shown_as_texts(tmp_path):
    arms = {**TECHNIQUES, "bad": MadeUpArm(HOSTILE, 0.9)}
    made = collect(arms, title=HOSTILE)
    made.view = made.view.model_copy(update={"notes": (HOSTILE,)})
    job = report_job(made, tmp_path, "report.html", title=HOSTILE, fallback=HOSTILE)
    text, page = page_of(job)
    assert len(page.all("script")) == 1 and len(page.all("img")) == 1
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    # The label, the title and the note are there.
    assert text.count("&lt;img src=x onerror=") > 8
    pdf.run(report_job(made, tmp_path, "report.pdf", title=HOSTILE, fallback=HOSTILE))


@pytest.mark.parametrize(("stage", "output"), [(report, "report.html"), (pdf, "report.pdf")])
def test_same_results_have_same_bytes(stage, output, techniques, tmp_path):
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = report_job(techniques, tmp_path / name, output)
        stage.run(job)
        written.append(job.outputs["page"].read_bytes())
    assert written[0] == written[1]


def test_pdf_has_headings_captions_and_numbered_pages(techniques, tmp_path):
    job = report_job(techniques, tmp_path, "report.pdf")
    pdf.run(job)
    data = job.outputs["page"].read_bytes()
    assert data.startswith(b"%PDF-")
    # Overview, decisions, the figure of the first experiment, its table, the second experiment.
    assert len(re.findall(rb"/Type /Page\b", data)) == 5
    for title in ("Techniques", "Two arms"):
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
