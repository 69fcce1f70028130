"""Commands that start Snakemake: their cores, and Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppml.errors import UserError
from ppml.pipeline.provenance import provenance
from ppml.pipeline.published_configs import published_configurations
from ppml.pipeline.snakemake_process import add_cores
from tests.workflow.project import ROOT

SNAKEMAKE = """#!/bin/sh
trap 'sleep 1; echo ended; exit 1' INT
echo started
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("cores", ["0", "-1", "x"])
def test_number_of_cores_is_checked(cores: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_cores(parser)
    assert parser.parse_args(["--cores", "3"]).cores == 3
    assert parser.parse_args(["--cores", "all"]).cores == parser.parse_args([]).cores == os.cpu_count()
    with pytest.raises(SystemExit):
        parser.parse_args(["--cores", cores])
    assert f"argument --cores: got {cores!r}; allowed: a number of at least 1, or all" in capsys.readouterr().err


def test_interrupted_snakemake_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "python").write_text(SNAKEMAKE)
    (tmp_path / "python").chmod(0o755)
    code = (
        "import sys; from ppml.jobs.runner import run; from ppml.pipeline.snakemake_process import call_snakemake\n"
        f"sys.executable = {str(tmp_path / 'python')!r}\nrun(lambda: call_snakemake(['a.yaml'], 1))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "ended\n")
    assert errors.startswith("error: interrupted") and errors.count("\n") == 1


@pytest.mark.parametrize("folder", [".", "./", "build/artifacts"])
def test_configuration_with_other_artifacts_is_not_published(tmp_path: Path, folder: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/own.yaml").write_text(f"folders: {{artifacts: '{folder}'}}\narms: {{a: {{}}}}\n")
    assert published_configurations(tmp_path) == []


def test_report_names_no_commit_of_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    found = provenance([], "reports/records.csv")
    assert not found["results"].startswith("commit ") or found["results"].startswith("commit not known")


@pytest.mark.parametrize("date", ["yesterday", "nan", "1e30"])
def test_unreadable_date_of_a_report_is_one_line(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    with pytest.raises(UserError, match=f"SOURCE_DATE_EPOCH: got '{date}'"):
        provenance([], "reports/records.csv")
