"""The page about own data keeps its promise: its commands take a CSV file to a report of every technique."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ppml.config.load import load_config
from tests.documents.markdown import FENCE
from tests.workflow.project import ROOT, Project

PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
CHANCE = 0.627
"""The accuracy of a model that predicts the larger class of scikit-learn's tumours."""
PROGRAMS = {
    "python": 'exec {python} "$@"',
    "ppml": 'exec {python} -c \'from ppml.command.main import main; main(prog_name="ppml")\' "$@"',
}
"""The programs of the environment in terms of the running interpreter."""


def steps() -> list[tuple[str, str]]:
    """Return the language and the content of each block of the sections 1 to 3."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    return [block for section in sections if section[:2] in ("1.", "2.", "3.") for block in FENCE.findall(section)]


def write_environment(folder: Path) -> None:
    """Write the programs that the commands and the Makefile start, and mark the environment as complete."""
    for name in ("Makefile", "build.lock", "sdists.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, line in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{line.format(python=shlex.quote(sys.executable))}\n")
        (programs / name).chmod(0o755)
    # The last file: make compares its time with those of the locks.
    (folder / ".venv" / ".ready").touch()


class Reader:
    """A reader of the page, who runs its blocks one after another in a copy of the project."""

    def __init__(self, folder: Path) -> None:
        self.project = Project(folder)
        write_environment(folder)
        # A developer may have followed the page.
        (folder / "config" / "tumours.yaml").unlink(missing_ok=True)
        self.outputs = [self._run(language, block) for language, block in steps()]
        self.config = load_config(folder / "config" / "tumours.yaml")
        self.reports = folder / self.config.folders.reports

    def _run(self, language: str, block: str) -> str:
        command = {"python": [sys.executable, "-c"], "bash": ["bash", "-e", "-c"]}[language]
        # make would send other options to the commands. The first Python that it finds must make no environment.
        own = {key: value for key, value in self.project.environment.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
        done = subprocess.run(
            [*command, block],
            cwd=self.project.folder,
            env={**own, "PYTHON": "false", "CORES": str(min(os.cpu_count() or 1, 4))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("page"))


def test_page_has_its_steps() -> None:
    assert [language for language, _ in steps()] == ["python", "bash", "bash"]
    commands = [block for _, block in steps()]
    assert "ppml describe" in commands[1] and "make results" in commands[2] and "make report" in commands[2]


def test_every_technique_of_the_first_configuration_has_a_row_above_chance(reader: Reader) -> None:
    records = pd.read_csv(reader.reports / "records.csv").set_index("arm")
    arms = reader.config.arms
    assert {arm.privacy.kind for arm in arms.values()} == {"none", "example"}
    assert sorted(records.index) == sorted([*arms] * len(reader.config.seeds))
    accuracy = records["accuracy_all"].groupby("arm").mean()
    assert accuracy.min() > CHANCE + 0.05
    assert accuracy["boosting"] > 0.9
    shown = (reader.reports / "tables" / "techniques-summary.md").read_text(encoding="utf-8")
    assert all(f"| {arm.label} |" in shown for arm in arms.values()), shown


def test_recommendations_have_a_row_for_each_threat(reader: Reader) -> None:
    shown = (reader.reports / "tables" / "techniques-recommendations.md").read_text(encoding="utf-8")
    for threat in ("My examples leave my site", "The server reads my update", "The released model reveals an example"):
        assert f"| {threat} | " in shown, shown


def test_audits_refute_no_epsilon(reader: Reader) -> None:
    audited = reader.config.experiments["audit"].arms
    text = (reader.reports / "tables" / "audit-audit.md").read_text(encoding="utf-8")
    assert all(f"| {reader.config.arms[name].label} |" in text for name in audited)
    assert text.count("| holds |") == len(audited), text


def test_report_is_one_file_with_every_table_and_figure(reader: Reader) -> None:
    found = re.fullmatch(r"report: (\S+) \(.*\)", reader.outputs[-1].splitlines()[-1])
    assert found, reader.outputs[-1]
    page = (reader.project.folder / found[1]).read_text(encoding="utf-8")
    assert all(str(arm.label) in page for arm in reader.config.arms.values())
    for name, experiment in reader.config.experiments.items():
        assert experiment.title in page
        for table in experiment.tables:
            assert (reader.reports / "tables" / f"{name}-{table}.md").stat().st_size
        for shown in experiment.figures:
            figures = [*(reader.reports / "figures").glob(f"{name}-{shown}.*")]
            assert figures and all(figure.stat().st_size > 1000 for figure in figures)
