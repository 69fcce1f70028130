"""The HTML report as one file: the template with style, program and pictures inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from ppml.reporting.decision import FILTERS, TRUST
from ppml.reporting.main_figure import BOTTOM, HEIGHT, LEFT, TOP, WIDTH
from ppml.reporting.report_content import Overview, Page, anchor

LARGEST_BYTES = 6_000_000
"""The largest size of the report: a message system accepts it."""
PICTURES_BYTES = 4_500_000
"""The part of it for pictures."""
SIZES = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "top": TOP, "bottom": BOTTOM}
"""The sizes of the main figure in pixels, for the template."""


def picture(kind: str, data: bytes) -> str:
    """Return the address of a picture that is a part of the page; ``kind`` is ``svg`` or ``png``."""
    return f"data:image/{'svg+xml' if kind == 'svg' else 'png'};base64,{base64.b64encode(data).decode()}"


def choose_formats(sizes: Mapping[str, Mapping[str, int]], budget: int = PICTURES_BYTES) -> dict[str, str]:
    """Return the format of each picture: SVG, or PNG where it saves the most, until the pictures fit.

    Parameters
    ----------
    sizes : mapping
        Picture -> format -> bytes.
    budget : int
        The largest number of bytes of all pictures as text.

    Examples
    --------
    >>> choose_formats({"a": {"svg": 900, "png": 100}, "b": {"svg": 500, "png": 400}}, budget=1000)
    {'a': 'png', 'b': 'svg'}
    """
    chosen = dict.fromkeys(sizes, "svg")
    saving = sorted(sizes, key=lambda name: sizes[name]["png"] - sizes[name]["svg"])
    for name in saving:
        # Base64 has four letters for three bytes.
        if sum(sizes[one][kind] for one, kind in chosen.items()) * 4 / 3 <= budget:
            break
        if sizes[name]["png"] < sizes[name]["svg"]:
            chosen[name] = "png"
    return chosen


def render(
    files: Mapping[str, str],
    title: str,
    overview: Overview,
    pages: Sequence[Page],
    facts: Mapping[str, str],
    about: Sequence[str],
    fallback: str,
) -> str:
    """Return the report.

    Parameters
    ----------
    files : mapping
        ``html``, ``css`` and ``js``: the template, the style and the program.
    title : str
        The heading.
    overview : Overview
        The first page.
    pages : sequence of Page
        The pages of the experiments.
    facts : mapping
        The provenance of all results, by heading.
    about : sequence of str
        Paragraphs with advice for readers.
    fallback : str
        The sentence about fallback data; empty with the configured data.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # The policy of the page permits this program and no other one, and no connection.
    digest = base64.b64encode(hashlib.sha256(files["js"].encode()).digest()).decode()
    values: dict[str, Any] = {
        "css": files["css"], "js": files["js"], "policy": f"sha256-{digest}", "title": title, "overview": overview,
        "pages": pages, "facts": facts, "about": about, "fallback": fallback, "filters": FILTERS, "size": SIZES,
        "anchor": anchor, "trust": TRUST,
    }  # fmt: skip
    return environment.from_string(files["html"]).render(values)
