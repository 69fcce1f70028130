"""Snakemake runs the planned jobs with any options, and a dry run writes nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.workflow.project import ROOT, Project
from tests.workflow.records import MODEL, list_tree, read_record_files, stale_jobs
from tests.workflow.small import OPTIONS, SETTINGS, Small

PROFILE = ROOT / "profiles/default/config.yaml"
WEAKENING = [
    *(["--rerun-triggers", "params"], ["--consider-ancient", "train=data"], ["--max-checksum-file-size", "1TB"]),
    *(["--trust-io-cache"], ["--no-hooks"], ["--ignore-incomplete"], ["--rerun-incomplete"]),
]
"""Options that weaken Snakemake's own decisions."""
CHANGED = {**SETTINGS["arms"], "alone": '{"epochs":3}'}
ALONE = {"train alone/0", "train alone/1", "predict alone/0", "predict alone/1", "collect"}


@pytest.fixture
def project(small: Small) -> Small:
    """Return the small workflow after a change of one arm."""
    small.set(arms=CHANGED)
    return small


def test_profile_leaves_decisions_to_records() -> None:
    profile = yaml.safe_load(PROFILE.read_text())
    del profile["logger"], profile["keep-going"], profile["max-checksum-file-size"]
    options = {f"--{key}" for key in profile} | {str(value) for value in profile.values() if value is not True}
    assert options == set(OPTIONS)


def test_touch_is_refused_in_one_line(project: Small) -> None:
    before, records = list_tree(), read_record_files()
    status, output = project.snakemake("--touch", *OPTIONS)
    assert status == 1 and [line for line in output.splitlines() if line.startswith("error: --touch is refused")]
    assert (list_tree(), read_record_files()) == (before, records)


@pytest.mark.parametrize("options", WEAKENING, ids=lambda options: options[0])
def test_no_option_makes_a_stale_result_current(project: Small, options: list[str]) -> None:
    """Snakemake runs the stale jobs in this run or in the next run."""
    assert set(stale_jobs()) == ALONE
    project.snakemake("--nolock", "--drop-metadata", *options)
    ran = {*project.ran(), *(project.run() if stale_jobs() else ())}
    assert ran >= {name.replace("/", " ") for name in ALONE} and stale_jobs() == {}


@pytest.mark.parametrize("options", [[], ["--rerun-triggers", "code", "input", "mtime", "params", "software-env"]])
def test_snakemake_runs_exactly_planned_jobs(project: Small, options: list[str]) -> None:
    planned = {name.replace("/", " ") for name in stale_jobs()}
    status, output = project.snakemake(*OPTIONS[:3], *options)
    assert status == 0, output
    assert set(project.ran()) == planned


def test_forced_rule_runs_with_its_dependents(small: Small) -> None:
    assert {line.split()[0] for line in small.run("--forcerun", "predict")} == {"predict", "collect"}


@pytest.mark.parametrize("options", [["-n"], ["-n", "-F"], ["-n", "--forcerun", "train"], ["--summary"], ["--lint"]])
def test_dry_run_writes_nothing(small: Small, options: list[str]) -> None:
    """The folder has a renamed run, a file of a killed writer, and no key."""
    small.set(arms={"alone-again": SETTINGS["arms"]["alone"]}, public=False)
    Path("runs/alone-again").mkdir()
    Path("runs/private/seed0/.unfinished-abcd1234-model.txt").write_text("half")
    before = list_tree()
    _, output = small.snakemake(*options, *OPTIONS)
    assert list_tree() == before
    shown = "2 runs are copied, not trained again, for instance runs/alone-again/seed0 from runs/alone/seed0" in output
    assert shown is (options[0] == "-n")


# --- linked and write-protected outputs -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "copy"])
def test_new_result_does_not_change_linked_cache(project: Small, kind: str) -> None:
    """DVC can link outputs to its write-protected cache."""
    Path("cache").mkdir()
    cached = {}
    for name in ("model", "cost"):
        for seed in (0, 1):
            output, place = Path(f"runs/alone/seed{seed}/{name}.txt"), Path(f"cache/{name}{seed}")
            shutil.copy2(output, place)
            place.chmod(0o444)
            cached[place] = place.read_bytes()
            output.unlink()
            if kind == "hardlink":
                os.link(place, output)
            elif kind == "symlink":
                output.symlink_to(place.absolute())
            else:
                shutil.copyfile(place, output)
    assert {"train alone 0", "train alone 1"} <= set(project.run())
    assert {place: place.read_bytes() for place in cached} == cached
    assert not any(place.stat().st_mode & 0o200 for place in cached)
    made = Path("runs/alone/seed0/cost.txt")
    assert not made.is_symlink() and made.stat().st_nlink == 1 and made.read_bytes() != cached[Path("cache/cost0")]


def test_write_protected_file_is_not_replaced(project: Small) -> None:
    Path(MODEL).chmod(0o444)
    content = Path(MODEL).read_bytes()
    status, output = project.snakemake(MODEL, *OPTIONS)
    assert f"{MODEL} is stale and write-protected" in output and f"chmod u+w {MODEL}" in output
    assert "dvc unprotect" in output and "Traceback" not in output
    assert status == 1 and Path(MODEL).read_bytes() == content
    Path(MODEL).chmod(0o644)
    status, output = project.snakemake(MODEL, *OPTIONS)
    assert status == 0 and Path(MODEL).stat().st_mode & 0o200, output


# --- the project itself -----------------------------------------------------------------------------------------


def test_dry_run_and_status_write_nothing(tmp_path: Path) -> None:
    """The folder has a forged book."""
    project, folder = Project(tmp_path).without_data(), tmp_path
    book = folder / "build/smoke/reports-digits/provenance.json"
    book.parent.mkdir(parents=True)
    book.write_text(json.dumps({"jobs": [{"rule": "train", "outputs": {"../../x": "0"}}], "commands": 1, "stamps": {}}))
    (folder / "build/smoke/artifacts-digits").mkdir()
    before = list_tree(folder)
    status, output = project.run("-n", cores=1)
    assert status == 0 and output.count("is no record book") == 1, output
    assert list_tree(folder) == before
    status, output = project.python("-m", "ppml.pipeline.status", "--configfile", project.config)
    assert status == 0 and "stale: missing" in output and output.count("is no record book") == 1, output
    assert list_tree(folder) == before
    status, output = project.run("--touch", cores=1)
    assert status == 1 and "error: --touch is refused" in output, output
    assert list_tree(folder) == before


@pytest.mark.parametrize("options", [[], ["--no-hooks"]], ids=["plain", "without hooks"])
def test_other_installed_version_is_refused_before_the_first_job(tmp_path: Path, options: list[str]) -> None:
    """The records of results name the pins, so that a job with another version would make a false record."""
    project = Project(tmp_path)
    project.replace("requirements.lock", "\nsafetensors==", "\nsafetensors==9.")
    status, output = project.run(*options, cores=1)
    lines = [line for line in output.splitlines() if line.startswith("error: safetensors ")]
    assert status == 1 and len(lines) == 1 and "Traceback" not in output, output
    assert not (tmp_path / "build").exists() and not (tmp_path / ".snakemake/ppml/jobs").exists()
