"""Every rule and every command works in folders whose names have characters that a shell interprets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.workflow.every import CONFIG, PLAIN, run_in, source
from tests.workflow.project import DATASET, Project, is_measured

ODD = 'it\'s a "test" $HOME ~ ü'
RULES = {
    *("transform", "partition", "calibrate", "train", "predict", "account", "infer", "audit", "collect", "all"),
    *("subset_digits", *(f"{rule}_{DATASET}" for rule in ("fetch", "subset") if DATASET != "digits")),
    *("table_audit", "table_inference", "table_threats", "figure_epsilon"),
}
NAMES = {
    "data": f"build/{ODD}/",
    "artifacts": "-my runs; *[a-z]? `id` $(id)",
    "reports": "build//$PLACE/r \\ 'é' %s #1 & |",
    "logs": '~/logs > "here"',
}
PLACE = "a $(id) b"


def folders_in(folder: Path) -> dict[str, Path]:
    """Return the output folders of the odd project."""
    return {
        "data": folder / "build" / ODD,
        "artifacts": folder / "-my runs; *[a-z]? `id` $(id)",
        "reports": folder / "build" / PLACE / "r \\ 'é' %s #1 & |",
    }


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a run in folders with odd names, and with private permissions for new files."""
    base = tmp_path_factory.mktemp("odd") / ODD
    project_folder, home, temporary, mirror = (base / name for name in (f"{ODD} project", "home", "tmp '$x'", "mirror"))
    for folder in (project_folder, home, temporary):
        folder.mkdir(parents=True)
    mirror.symlink_to(source())
    project = Project(project_folder, mirror=mirror, config=CONFIG)
    project.environment |= {"HOME": str(home), "TMPDIR": str(temporary), "PLACE": PLACE}
    before = os.umask(0o077)
    try:
        return run_in(project, NAMES)
    finally:
        os.umask(before)


def contents(folders: dict[str, Path]) -> dict[str, bytes]:
    """Return the bytes of every reproducible file."""
    return {
        f"{key}/{path.relative_to(folder)}": without_measurements(path) if path.suffix == ".csv" else path.read_bytes()
        for key, folder in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_measured(path.name)
    }


def without_measurements(table: Path) -> bytes:
    """Return a table without the columns that measure time and memory."""
    frame = pd.read_csv(table, dtype=str)
    return frame[[name for name in frame if not re.match("(cpu_)?seconds|training_memory", name)]].to_csv().encode()


def test_every_rule_makes_same_bytes_in_odd_folders(plain: Project, odd: Project) -> None:
    expected = contents({key: plain.folder / PLAIN[key] for key in ("data", "artifacts", "reports")})
    found = contents(folders_in(odd.folder))
    assert found.keys() == expected.keys()
    assert [name for name, content in expected.items() if found[name] != content] == []
    for part in ("runs/private/seed0/model.safetensors", "runs/encrypted/seed0/model.safetensors"):
        assert f"artifacts/{part}" in found
    assert "reports/tables/every-audit.csv" in found
    # No other folder has outputs.
    made = {path.name for path in odd.folder.iterdir()} - {path.name for path in plain.folder.iterdir()}
    assert made == {"-my runs; *[a-z]? `id` $(id)"}
    assert {path.name for path in (odd.folder / "build").iterdir()} == {ODD, PLACE}


def test_outputs_have_permissions_of_umask(plain: Project, odd: Project) -> None:
    for folders, mode in (({"": plain.folder / "build/every"}, 0o644), (folders_in(odd.folder), 0o600)):
        files = [path for folder in folders.values() for path in folder.rglob("*") if path.is_file()]
        assert {path.stat().st_mode & 0o777 for path in files if "raw" not in path.parts} == {mode}


def test_configuration_has_every_rule(odd: Project) -> None:
    names = "import json, sys; from ppml.pipeline.status import job_records, read_plan; "
    found = odd.evaluate(names + "print(json.dumps([job.rule for job in job_records(read_plan(sys.argv[1:])).jobs]))")
    assert {*found, "all"} == RULES
    written = {name.split("_")[0] for name in RULES}
    kinds = {line.split()[1].rstrip(":") for line in rule_lines(odd.folder) if line.split()[1:]}
    assert kinds - written <= {"overview", "report", "pdf"}


def rule_lines(folder: Path) -> list[str]:
    files = [folder / "Snakefile", *(folder / "workflow/rules").glob("*.smk")]
    return [
        line for file in files for line in file.read_text().splitlines() if line.startswith(("rule ", "checkpoint "))
    ]


def test_commands_work_in_odd_folders(odd: Project) -> None:
    status, output = odd.python("-m", "ppml.pipeline.status", "--configfile", CONFIG)
    assert status == 0 and output.splitlines()[-1].endswith("results are up to date"), output
    write = (
        "import sys; from pathlib import Path\n"
        "from ppml.pipeline.federate import write_job; from ppml.pipeline.plan import Plan\n"
        "print(write_job(Plan.check({}, [sys.argv[1]]), 'private', 0, Path(sys.argv[2])))"
    )
    output = odd.call("-c", write, CONFIG, "build/-f $x")
    assert Path(output.splitlines()[-1]).is_relative_to(odd.folder / "build/-f $x")


def test_publish_and_pull_work_in_odd_folders(publisher: Project, tmp_path: Path) -> None:
    for part in ("project", "store"):
        shutil.copytree(publisher.folder.parent / part, tmp_path / ODD / part, copy_function=shutil.copy2)
    project = Project(tmp_path / ODD / "project", config=publisher.config)
    before = project.files("data", "artifacts")
    project.call("-m", "ppml.pipeline.publish")
    for folder in ("data", "artifacts", ".dvc/cache"):
        shutil.rmtree(project.folder / folder)
    project.call("-m", "ppml.pipeline.pull")
    assert project.files("data", "artifacts") == before


def plan_from(project: Project, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Plan a run of a project from another folder."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *arguments],
        cwd=folder,
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("directory", [[], ["-d", "results"]])
def test_run_from_other_folder_has_its_outputs_in_it(plain: Project, tmp_path: Path, directory: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(plain.folder / CONFIG, folder / "mine.yaml")
    before = plain.files(".")
    done = plan_from(plain, folder, "-s", str(plain.folder / "Snakefile"), "--configfile", "mine.yaml", *directory)
    assert done.returncode == 0, done.stderr
    # The other folder has no results, and the project's folder has no new file.
    assert "train encrypted/seed0" in done.stdout + done.stderr
    assert plain.files(".") == before
    assert {path.name for path in folder.iterdir()} <= {"mine.yaml", ".snakemake", "results"}


def test_workflow_as_module_is_refused_in_one_line(plain: Project, tmp_path: Path) -> None:
    snakefile = f'module ppml:\n    snakefile: "{plain.folder}/Snakefile"\n\n\nuse rule * from ppml\n'
    (tmp_path / "Snakefile").write_text(snakefile)
    done = plan_from(plain, tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "not a module" in line and "-d" in line
    assert [path.name for path in tmp_path.iterdir()] == ["Snakefile"]
