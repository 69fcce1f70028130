"""The captions of tables and figures."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined

from ppml.reporting.registry import figures, tables

FOLDER = Path(__file__).parents[2] / "workflow" / "report"
CAPTIONS = sorted({*figures(), *tables(), "workflow"})


@pytest.mark.parametrize("name", CAPTIONS)
def test_caption_renders(name):
    text = (FOLDER / f"{name}.rst").read_text(encoding="utf-8")
    params = SimpleNamespace(title="Techniques on MNIST", fallback="FALLBACK DATA: not MNIST.")
    # The first page belongs to no job: Snakemake gives it no params.
    given = SimpleNamespace(config={}) if name == "workflow" else SimpleNamespace(params=params)
    rendered = Environment(undefined=StrictUndefined).from_string(text).render(snakemake=given)
    html = publish_parts(rendered, writer="html", settings_overrides={"halt_level": 2, "report_level": 2})["body"]
    if name != "workflow":
        assert "Techniques on MNIST" in html and "FALLBACK DATA: not MNIST." in html
