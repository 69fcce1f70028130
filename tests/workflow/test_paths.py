"""Every rule and every command works in folders whose names have characters that a shell interprets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import mirrored
from tests.workflow.project import DATASET, MEASURED, Project

ODD = 'it\'s a "test" $HOME ~ ü'
CONFIG = "config/every.yaml"
EVERY = f"""\
# Every rule, with every option that its command can have.
seeds: [0]
folders: FOLDERS
data: {{dataset: {DATASET}, train: 120, test: 40, download: false}}
audit: {{kind: canary, steps: 32}}
partitions: {{iid2: {{kind: iid, clients: 2}}}}
arms:
  encrypted:
    model: logistic
    training: {{epochs: 1, batch_size: 40, learning_rate: 0.05}}
    inference: {{kind: ckks, images: 10, single_images: 1}}
  private:
    dataset: digits
    transforms: [{{kind: scattering, components: 30, strokes: 40, copies: 2}}]
    model: linear
    topology: {{kind: federated, partition: iid2, rounds: 1}}
    privacy: {{kind: example, epsilon: 8.0, delta: 1.0e-3, max_grad_norm: 0.01}}
    training: {{epochs: 1, batch_size: 30, learning_rate: 1.0}}
experiments:
  every:
    title: It's "every" {{rule}} & `more`
    arms: [encrypted, private]
    tables: [audit, inference, threats]
    figures: [epsilon]
"""
RULES = {
    *("transform", "partition", "calibrate", "train", "predict", "account", "infer", "audit", "collect", "all"),
    *("subset_digits", *(f"{rule}_{DATASET}" for rule in ("fetch", "subset") if DATASET != "digits")),
    *("table_audit", "table_inference", "table_threats", "figure_epsilon"),
}
TIMED = (*MEASURED, "costs.csv", "inferences.csv", "provenance.json")
"""Files with measured times or their digests; the table of inferences also has some."""
PLAIN = {key: f"build/every/{key}" for key in ("data", "artifacts", "reports", "logs")}
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


def run_in(project: Project, folders: dict[str, str]) -> Project:
    # JSON is YAML, and its strings can hold every character.
    (project.folder / CONFIG).write_text(EVERY.replace("FOLDERS", json.dumps(folders)))
    status, output = project.run()
    assert status == 0, output
    return project


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after a run in a folder with a plain name."""
    return run_in(Project(tmp_path_factory.mktemp("plain"), mirror=source(), config=CONFIG), PLAIN)


def source() -> Path:
    """Return a local mirror of the data; without one, the digits need none."""
    return next((file.parents[1] for file in mirrored(DATASET)), Path("/no/mirror"))


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
        if path.is_file() and path.name not in TIMED and not path.name.startswith("every-inference")
    }


def without_measurements(table: Path) -> bytes:
    """Return a table without the columns that measure time and memory."""
    frame = pd.read_csv(table, dtype=str)
    return frame[[name for name in frame if not re.match("(cpu_)?seconds|peak_memory", name)]].to_csv().encode()


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


def test_configuration_has_every_rule(plain: Project) -> None:
    names = "import sys; from ppml.pipeline.status import job_records, read_plan; "
    status, output = plain.python(
        "-c", names + "print('all', *{job.rule for job in job_records(read_plan([sys.argv[1]])).jobs})", CONFIG
    )
    assert status == 0, output
    assert set(output.splitlines()[-1].split()) == RULES
    written = {name.split("_")[0] for name in RULES}
    kinds = {line.split()[1].rstrip(":") for line in rule_lines(plain.folder) if line.split()[1:]}
    assert kinds - written <= {"overview"}


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
    status, output = odd.python("-c", write, CONFIG, "build/-f $x")
    assert status == 0, output
    assert Path(output.splitlines()[-1]).is_relative_to(odd.folder / "build/-f $x")


def test_publish_and_pull_work_in_odd_folders(publisher: Project, tmp_path: Path) -> None:
    shutil.copytree(publisher.folder.parent, tmp_path / ODD, copy_function=shutil.copy2)
    project = Project(tmp_path / ODD / "project", config=publisher.config)
    before = project.files("data", "artifacts")
    status, output = project.python("-m", "ppml.pipeline.publish", "--configfile", project.config)
    assert status == 0, output
    for folder in ("data", "artifacts", ".dvc/cache"):
        shutil.rmtree(project.folder / folder)
    status, output = project.python("-m", "ppml.pipeline.pull")
    assert status == 0, output
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
