"""The stages table and figure, for each kind."""

import subprocess
import sys

import pandas as pd
import pytest

from ppml.config.experiment import Claim
from ppml.errors import UserError
from ppml.reporting.registry import figures, tables
from ppml.stages import figure, table

from .made_up import COMPARE, TECHNIQUES, collect

CLAIM = {"quote": "DP costs accuracy.", "criterion": "starts_higher", "arms": ["centralized", "dp"]}
ROWS = {
    **{"claims": 1, "audit": 3, "epsilon_interpretations": 2, "published": 8, "headline": 6, "inference": 3},
    **{"clients": 7, "recommendations": 6, "classes": 210},
}
"""Rows of the raw numbers by kind; other tables have a row for each of seven arms."""


@pytest.fixture
def collected():
    """Seven arms of different settings, with a claim."""
    made = collect(TECHNIQUES, compare=COMPARE)
    made.view = made.view.model_copy(update={"claims": (Claim.model_validate(CLAIM),)})
    return made


def separate(kind, collected):
    """Give each arm its own number of training images, since two arms of a study have different settings."""
    if kind.name == "clients":
        sizes = {arm: 1000 * number for number, arm in enumerate(collected.view.arms, start=1)}
        collected.records["n_train"] = collected.records["arm"].map(sizes)


@pytest.mark.parametrize("kind", tables().values(), ids=lambda kind: kind.name)
def test_table_writes_four_files(kind, tmp_path, collected, published):
    separate(kind, collected)
    job = collected.job(kind, tmp_path, table.FORMATS, published)
    table.run(job)
    assert job.outputs["md"].read_text(encoding="utf-8").startswith("### Techniques")
    assert len(pd.read_csv(job.outputs["csv"])) == ROWS.get(kind.name, 7)
    assert r"\end{table}" in job.outputs["tex"].read_text(encoding="utf-8")
    assert "</table>" in job.outputs["html"].read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", figures().values(), ids=lambda kind: kind.name)
def test_figure_writes_two_files(kind, tmp_path, collected, published):
    separate(kind, collected)
    job = collected.job(kind, tmp_path, ("svg", "png"), published)
    figure.run(job)
    assert job.outputs["svg"].read_bytes().startswith(b"<?xml")
    assert job.outputs["png"].read_bytes().startswith(b"\x89PNG")


def test_failure_writes_no_file(tmp_path, collected, published):
    collected.costs = collected.costs[collected.costs["arm"] != "dp"]
    job = collected.job(tables()["summary"], tmp_path, table.FORMATS, published)
    with pytest.raises(UserError, match=r"costs\.csv: unknown arm 'dp'"):
        table.run(job)
    assert not list(tmp_path.glob("out.*"))


def test_table_does_not_import_plotting():
    heavy = ("matplotlib", "seaborn", "torch")
    code = f"import sys, ppml.stages.table; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
