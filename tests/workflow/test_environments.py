"""A bare ``snakemake`` in each environment: without an installation of this project, and beside another version."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.workflow.project import ROOT, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a checkout."""
    return Project(tmp_path_factory.mktemp("checkout"))


def dry_run(project: Project, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the console command of Snakemake in a checkout, with the packages of this environment after ``path``.

    -S leaves out an editable installation, and -P the current folder, as the console command does.
    """
    command = [sys.executable, "-S", "-P", "-m", "snakemake", "-n", "--cores", "2", *options]
    paths = os.pathsep.join(part for part in (path, sysconfig.get_paths()["purelib"]) if part)
    environment = {**project.environment, "PYTHONPATH": paths}
    return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)


def planned_jobs(done: subprocess.CompletedProcess[str]) -> int:
    """Return the number of planned jobs, which the logger plugin of the project prints."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^(\d+) jobs: ", done.stdout + done.stderr, re.MULTILINE)
    assert found, done.stderr
    return int(found[1])


def test_conda_environment_runs_the_checkout(project: Project) -> None:
    variables = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["variables"]
    assert planned_jobs(dry_run(project, variables["PYTHONPATH"], "--configfile", project.config)) > 50


def test_conda_environment_without_its_variables_lacks_the_project(project: Project) -> None:
    # Otherwise the test above would find an installed version.
    done = dry_run(project, "", "--configfile", project.config)
    assert done.returncode != 0
    assert "'ppml'" in done.stderr


def test_checkout_precedes_an_installed_version(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.folder / "src", tmp_path / "site", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "site/ppml/pipeline/plan.py").write_text("raise SystemExit('the installed version runs')\n")
    assert planned_jobs(dry_run(project, str(tmp_path / "site"), "--configfile", project.config)) > 50


def test_rules_name_the_conda_environment() -> None:
    name = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["name"]
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert set(re.findall(r"conda:\s+(.*)", text)) == {f'"{name}"'}


def test_job_runs_in_the_named_conda_environment(tmp_path: Path) -> None:
    # A stand-in for conda notes each environment that Snakemake activates.
    tools, notes = tmp_path / "conda/bin", tmp_path / "notes"
    tools.mkdir(parents=True)
    facts = {"conda_prefix": str(tools.parent), "platform": "linux-64", "get": {"channel_priority": "strict"}}
    script = f"#!/bin/sh\ntest \"$*\" = --version && echo conda 25.1.0 || echo '{json.dumps(facts)}'\n"
    (tools / "conda").write_text(script)
    (tools / "activate").write_text(f'echo "$1" >> {notes}\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project").without_data().keep_arms("centralized")
    project.environment["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    project.complete("--sdm", "conda", "--until", "subset_digits")
    assert set(notes.read_text().split()) == {"ppml"}
