"""The targets of the Makefile without an environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.workflow.project import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "build.lock", "sdists.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Without the variables of the make that may have started the tests: they change its output.
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    surroundings = {**own, **environment}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("python", "problem"),
    [("./python3.9", ", ./python3.9 is Python 3.9.2"), ("", " and none was found; set PYTHON=/path/to/python")],
)
def test_unusable_python_is_one_line(folder: Path, python: str, problem: str) -> None:
    old = folder / "python3.9"
    old.write_text('#!/bin/sh\ncase "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = make(folder, "results", f"PYTHON={python}")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert lines == [f"error: Python 3.11 to 3.14 is needed{problem}"]
    assert not (folder / ".venv").exists()


ODD = [
    "my settings.yaml",
    'it\'s a "test" $HOME ~ ü.yaml',
    "$(id) `id` & #1 %s;*.yaml",
    "a\\b.yaml",
    "--help",
    "$(shell touch made)",
]


@pytest.mark.parametrize(
    ("target", "variable", "option"),
    [
        *((target, "CONFIG", "<--configfile><{}>") for target in ("results", "report", "pdf", "status")),
        *((target, "CONFIG", "<--configfile><{}><--><>") for target in ("only", "table", "figure")),
        ("only", "ARMS", "<--><{}>"),
        ("figure", "NAME", "<--><{}>"),
        ("pull", "FROM", "<--from={}>"),
    ],
)
def test_value_reaches_program_as_one_word(folder: Path, target: str, variable: str, option: str) -> None:
    for place in (("build.lock", "sdists.lock"), (".venv/bin/python", ".venv/.ready")):
        for name in place:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text('#!/bin/sh\nfor word; do printf "<%s>" "$word"; done; echo\n')
            (folder / name).chmod(0o755)
    for name in ODD:
        for done in (make(folder, target, f"{variable}={name}"), make(folder, target, **{variable: name})):
            assert done.returncode == 0, done.stderr
            assert all(line.endswith(option.format(name)) for line in done.stdout.splitlines()), done.stdout
    assert not (folder / "made").exists()


def test_bare_make_prints_every_target_once_and_makes_nothing(folder: Path) -> None:
    bare, done = make(folder), make(folder, "help")
    assert bare.returncode == 0 and bare.stdout == done.stdout
    phony = re.search(r"^\.PHONY: (.*)$", (folder / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    shown = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert sorted(shown) == sorted(phony[1].split())
    assert all(len(line.split()) > 1 for line in done.stdout.splitlines())
    assert not (folder / ".venv").exists()


def test_every_target_makes_missing_environment(folder: Path) -> None:
    for target in (
        *("results", "everything", "report", "pdf", "quick", "only", "table", "figure", "status", "pull", "publish"),
        *("bundle", "sbom", "test", "test-long"),
    ):
        planned = make(folder, "-n", target, "PYTHON=python3").stdout
        assert re.search(r"pip install .*-r requirements\.lock", planned), target
        assert target != "sbom" or "ppml.pipeline.sbom build/sbom.cdx.json" in planned


def test_continuous_integration_runs_only_tests() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "make test"
    assert len(lines) == 3
