"""The HTML report in a real Chromium: filters, sorting, hover, keyboard, phone, dark, and no network."""

from __future__ import annotations

import json

import pytest

from ppml.stages import report

from .browser import chromium, find_browser
from .made_up import COMPARE, TECHNIQUES, collect
from .report_job import report_job

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium: `apt-get install chromium`, and run again")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Return a tab of Chromium, which all tests share."""
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Return the path of a report."""
    folder = tmp_path_factory.mktemp("report")
    job = report_job(collect(TECHNIQUES, compare=COMPARE), folder, "report.html")
    report.run(job)
    return job.outputs["page"]


@pytest.fixture
def tab(browser, address):
    """Return the tab with the report, loaded anew, at the size of a desktop."""
    browser.events.clear()
    browser.resize(1280, 900)
    browser.prefer("light")
    browser.open(address)
    yield browser
    assert browser.requests() == []
    assert browser.problems() == []


def shown_arms(tab):
    """Return the arms in the rows that are visible."""
    rows = (
        "[...document.querySelectorAll('#arms tbody tr')].filter(row => row.offsetParent).map(row => row.dataset.arm)"
    )
    return tab.evaluate(rows)


def shown_points(tab):
    return tab.evaluate(
        "[...document.querySelectorAll('#hero .point')].filter(point => getComputedStyle(point).display !== 'none')"
        ".map(point => point.dataset.arm)"
    )


def choose(tab, field, value):
    """Set a field of the filters like a user."""
    tab.evaluate(
        f"(() => {{ const field = document.getElementById({field!r}); field.value = {value!r};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def style(tab, selector, name):
    return tab.evaluate(f"getComputedStyle(document.querySelector({selector!r})).{name}")


def luminance(colour):
    """Return the relative luminance of a colour like ``rgb(1, 2, 3)``."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_filters_select_rows_and_points(tab):
    assert shown_arms(tab) == list(TECHNIQUES) == shown_points(tab)
    choose(tab, "protects", "server")
    assert shown_arms(tab) == ["fl_dp", "fl_he", "fl_dp_he"] == shown_points(tab)
    choose(tab, "words", "dp")
    assert shown_arms(tab) == ["fl_dp", "fl_dp_he"]
    assert tab.evaluate("document.getElementById('count').textContent") == "2 of 7 arms"
    tab.evaluate("document.querySelector('#filters [type=reset]').click()")
    assert shown_arms(tab) == list(TECHNIQUES)
    choose(tab, "experiment", "few")
    assert shown_arms(tab) == ["centralized", "dp"] == shown_points(tab)


def test_column_sorts_in_both_orders(tab):
    sort = "document.querySelectorAll('#arms thead button')[{}].click()"
    states = "[...document.querySelectorAll('#arms thead th')].map(one => one.getAttribute('aria-sort'))"
    for place, name in ((2, "accuracy"), (5, "bytes")):
        values = (
            f"[...document.querySelectorAll('#arms tbody tr')].map(row => Number(row.cells[{place}].dataset.value))"
        )
        tab.evaluate(sort.format(place))
        assert tab.evaluate(values) == sorted(tab.evaluate(values)), name
        assert tab.evaluate(states) == ["ascending" if column == place else "none" for column in range(7)]
        tab.evaluate(sort.format(place))
        assert tab.evaluate(values) == sorted(tab.evaluate(values), reverse=True)
        assert tab.evaluate(states)[place] == "descending"
    # Without privacy epsilon is infinite and the largest.
    tab.evaluate(sort.format(3))
    assert {*shown_arms(tab)[:3]} == {"dp", "fl_dp", "fl_dp_he"}


def test_table_of_experiment_sorts_its_numbers(tab):
    tab.evaluate("location.hash = '#experiment-all-arms'")
    cells = "[...document.querySelectorAll('#experiment-all-arms tbody tr')].map(row => row.cells[2].textContent)"
    tab.evaluate("document.querySelectorAll('#experiment-all-arms thead button')[2].click()")
    found = [float(cell.split()[0]) for cell in tab.evaluate(cells)]
    assert found == sorted(found) and len(set(found)) > 3


def test_hover_and_focus_show_the_values(tab):
    tip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText"
    label = tab.evaluate("document.querySelector('[data-arm=fl_dp][aria-label]').getAttribute('aria-label')")
    assert label.startswith("FL + DP: 90.") and "ε 2.90" in label and "upload 105 KB" in label
    tab.point_at("#hero [data-arm=fl_dp_he] path")
    # Both arms have the same place: the point names both.
    assert tab.wait_for(tip).startswith("FL + DP + HE: 90.") and label in tab.evaluate(tip)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert tab.wait_for(f"({tip}) === ''")
    tab.evaluate("document.querySelector('#hero [data-arm=dp]').focus()")
    assert tab.evaluate(tip).startswith("Centralized + DP: 95.")
    tab.press("Escape")
    assert tab.evaluate(tip) == ""


def test_keyboard_reaches_everything(tab):
    names = (
        "(document.activeElement.id || document.activeElement.closest('[id]')?.id || document.activeElement.tagName)"
    )
    marks = (
        "(getComputedStyle(document.activeElement).outlineStyle !== 'none' || document.activeElement.matches('.point'))"
    )
    steps = []
    while not steps or steps[-1][0] != "BODY":
        tab.press("Tab")
        steps.append(tab.evaluate(f"[{names}, {marks}, document.activeElement.outerHTML.slice(0, 80)]"))
    assert {"theme", "menu", "experiment", "protects", "words", "hero", "arms"} <= {name for name, _, _ in steps}
    assert [step for step in steps[:-1] if not step[1]] == []
    # Enter on a heading sorts.
    tab.evaluate("document.querySelectorAll('#arms thead button')[2].focus()")
    tab.press("Enter")
    assert tab.evaluate("document.querySelectorAll('#arms thead th')[2].getAttribute('aria-sort')") == "ascending"


def test_pages_follow_the_address(tab):
    visible = "[...document.querySelectorAll('.page')].filter(one => !one.hidden).map(one => one.id)"
    assert tab.evaluate(visible) == ["overview"]
    tab.evaluate("document.querySelector('nav a[href=\"#experiment-few\"]').click()")
    assert tab.wait_for(f"JSON.stringify({visible}) === {json.dumps(json.dumps(['experiment-few']))}")
    assert tab.evaluate("document.activeElement.textContent") == "Two arms"
    assert tab.evaluate("document.querySelector('nav [aria-current]').textContent") == "Two arms"


def test_alternatives_open_on_demand(tab):
    rows = "[...document.querySelectorAll('.decisions .other')].filter(row => row.offsetParent).length"
    assert tab.evaluate(rows) == 0
    tab.evaluate("document.querySelector('.show').click()")
    assert tab.evaluate(rows) == 1
    assert tab.evaluate("document.querySelector('.show').getAttribute('aria-expanded')") == "true"


def test_phone_has_no_sideways_scroll(tab):
    tab.resize(390, 844, mobile=True)
    for page in ("overview", "experiment-all-arms", "about"):
        tab.evaluate(f"location.hash = '#{page}'")
        assert tab.wait_for(f"!document.getElementById('{page}').hidden")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, page
    assert not tab.evaluate("document.getElementById('menu').open")


def test_dark_follows_the_system_and_the_button(tab):
    def colours():
        return style(tab, "body", "color"), style(tab, "body", "backgroundColor")

    light = colours()
    tab.prefer("dark")
    assert luminance(colours()[1]) < 0.05 < 0.8 < luminance(light[1])
    for selector in ("body", "figcaption", "nav a", ".mark"):
        back = style(tab, selector if selector == ".mark" else "body", "backgroundColor")
        assert contrast(style(tab, selector, "color"), back) >= 4.5, selector
    tab.evaluate("document.getElementById('theme').click()")
    assert colours() == light
    for selector in ("body", "figcaption", "nav a", ".mark"):
        back = style(tab, selector if selector == ".mark" else "body", "backgroundColor")
        assert contrast(style(tab, selector, "color"), back) >= 4.5, selector
    tab.evaluate("document.getElementById('theme').click()")
    assert tab.evaluate("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    tab.evaluate("localStorage.clear()")


def test_planted_request_and_error_are_found(browser, tmp_path):
    page = tmp_path / "planted.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>throw new Error('planted')</script>")
    browser.events.clear()
    browser.open(page)
    assert browser.requests() == ["http://127.0.0.1:9/x.png"]
    assert browser.problems()
    browser.events.clear()
