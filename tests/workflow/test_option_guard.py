"""What Snakemake is asked to do: no option makes it record what was not made, and a dry run writes nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import yaml
from snakemake.cli import main
from snakemake.jobs import Job
from snakemake.settings.types import DAGSettings, ExecutionSettings, WorkflowSettings

from ppml.pipeline.option_guard import LARGEST_COMPARED, weaker_execution, weaker_plan
from tests.workflow.project import ROOT, Project
from tests.workflow.records import MODEL, done, every_record, small, tree
from tests.workflow.small import SETTINGS, Small

# Fixtures, used by their names.
__all__ = ["done", "small"]

PROFILE = ROOT / "profiles/default/config.yaml"
REFUSED = {
    "touch": True,
    "rerun-triggers": ["mtime"],
    "ignore-incomplete": True,
    "consider-ancient": {"train": "data"},
    "drop-metadata": True,
    "max-checksum-file-size": "1MB",
    "trust-io-cache": True,
    "no-hooks": True,
    "persistence-backend": "db",
}
"""Options by which something else than content would decide, or by which nobody would know what was made."""
CHANGED = {**SETTINGS["arms"], "alone": '{"epochs":3}'}


@pytest.fixture(autouse=True)
def snakemake_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is changed of Snakemake end with the test: it runs in this process."""
    monkeypatch.setattr(Job, "check_protected_output", Job.check_protected_output)
    # Publishing and pulling, where a test calls them in this process, end all logging for its rest.
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)


@pytest.fixture
def project(small: Small) -> Small:
    """Return the small workflow with the project's profile, in a folder where one arm has changed."""
    profile = yaml.safe_load(PROFILE.read_text())
    del profile["logger"]
    Path("profiles/default").mkdir(parents=True)
    Path("profiles/default/config.yaml").write_text(yaml.safe_dump(profile))
    small.set(arms=CHANGED)
    return small


def snakemake(*options: str) -> object:
    """Run Snakemake in this process; return what it exits with: a status, or the line that refuses."""
    with pytest.raises(SystemExit) as ended:
        main(["--cores", "1", *options])
    return ended.value.code


def arguments(option: str) -> list[str]:
    """Return an option as it stands on the command line."""
    match REFUSED[option]:
        case True:
            return [f"--{option}"]
        case dict() as pairs:
            return [f"--{option}", *(f"{key}={value}" for key, value in pairs.items())]
        case list() as values:
            return [f"--{option}", *values]
        case value:
            return [f"--{option}", str(value)]


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_weakens_what_decides_is_refused_in_a_line(project: Small, option: str) -> None:
    before, records = tree(), every_record()
    said = snakemake(*arguments(option))
    assert isinstance(said, str) and said.startswith(f"error: --{option} is refused (") and "\n" not in said
    assert (tree(), every_record()) == (before, records)


@pytest.mark.parametrize("by", ["--profile", "SNAKEMAKE_PROFILE"])
@pytest.mark.parametrize("option", ["touch", "ignore-incomplete", "no-hooks"])
def test_a_profile_of_the_user_is_refused_as_well(
    project: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, by: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text(yaml.safe_dump({option: REFUSED[option]}))
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(tmp_path / "mine") if by == "SNAKEMAKE_PROFILE" else "")
    if by == "SNAKEMAKE_PROFILE":
        said = snakemake()
    else:
        monkeypatch.delenv("SNAKEMAKE_PROFILE")
        said = snakemake("--profile", str(tmp_path / "mine"))
    assert str(said).startswith(f"error: --{option} is refused (")


@pytest.mark.parametrize("option", ["rerun-triggers", "max-checksum-file-size"])
def test_the_projects_profile_wins_over_one_of_the_user(
    project: Small, tmp_path: Path, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "config.yaml"
    mine.write_text(yaml.safe_dump({option: REFUSED[option]}))
    assert snakemake("-n", "--profile", str(mine)) == 0
    said = "".join(capfd.readouterr())
    assert "train" in said and "Nothing to be done" not in said
    # Planted: a profile of the project that does not name it.
    profile = Path("profiles/default/config.yaml")
    profile.write_text(yaml.safe_dump({**yaml.safe_load(profile.read_text()), option: None}))
    assert str(snakemake("-n", "--profile", str(mine))).startswith(f"error: --{option} is refused (")


def test_the_projects_profile_names_every_trigger() -> None:
    profile = yaml.safe_load(PROFILE.read_text())
    assert set(profile["rerun-triggers"]) == {"code", "input", "mtime", "params", "software-env"}


def test_what_does_not_weaken_anything_is_allowed() -> None:
    plan = DAGSettings(max_checksum_file_size=LARGEST_COMPARED, forcerun={"train"}, until={"train"}, forceall=True)
    assert list(weaker_plan(plan, WorkflowSettings())) == []
    run = ExecutionSettings(keep_going=True, keep_incomplete=True, lock=False, retries=3)
    assert list(weaker_execution(run)) == []


@pytest.mark.parametrize("options", [["-n"], ["-n", "-F"], ["-n", "--forcerun", "train"], ["--summary"], ["--lint"]])
def test_what_only_shows_writes_nothing(small: Small, options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Though there is a run to take over, what a killed writer has left, and no key."""
    small.set(arms={"alone-again": SETTINGS["arms"]["alone"]}, data_published=False)
    Path("runs/alone-again").mkdir()
    Path("runs/private/seed0/.unfinished-abcd1234-model.txt").write_text("half")
    before = tree()
    snakemake(*options, "--rerun-incomplete", "--nolock", "--max-checksum-file-size", "1TB")
    assert tree() == before
    said = capfd.readouterr().err
    shown = "a run does this first: runs/alone-again/seed0 is taken over from runs/alone/seed0" in said
    assert shown is (options[0] == "-n")


# --- outputs that are links into a cache, or frozen -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hardlink", "symlink", "copy"])
def test_what_is_made_again_leaves_the_cache_as_it_was(project: Small, kind: str) -> None:
    """As DVC links outputs to its cache, which is write-protected."""
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


def test_a_file_that_its_owner_has_frozen_is_not_replaced(project: Small, capfd: pytest.CaptureFixture[str]) -> None:
    Path(MODEL).chmod(0o444)
    content = Path(MODEL).read_bytes()
    assert snakemake("runs/alone/seed0/model.txt") == 1
    said = capfd.readouterr().err
    assert f"{MODEL} would be made again, and is write-protected; to allow it: chmod u+w {MODEL}" in said
    assert "dvc unprotect" in said and "Traceback" not in said
    assert Path(MODEL).read_bytes() == content
    Path(MODEL).chmod(0o644)
    assert snakemake("runs/alone/seed0/model.txt") == 0
    assert Path(MODEL).stat().st_mode & 0o200


# --- the project itself -----------------------------------------------------------------------------------------


def test_a_dry_run_and_the_status_of_a_fresh_folder_write_nothing(tmp_path: Path) -> None:
    """With a book that says what a forged one says."""
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder, mirror=None)
    settings = folder / project.config
    asked = settings.read_text().replace(
        "data: {dataset: mnist,", "data: {mirrors: [], download: false, dataset: mnist,"
    )
    assert asked != settings.read_text()
    settings.write_text(asked)
    book = folder / "build/smoke/reports-digits/provenance.json"
    book.parent.mkdir(parents=True)
    book.write_text(json.dumps({"jobs": [{"rule": "train", "outputs": {"../../x": "0"}}], "commands": 1, "stamps": {}}))
    (folder / "build/smoke/artifacts-digits").mkdir()
    before = all_of(folder)
    status, output = project.run("-n", cores=1)
    assert status == 0 and output.count("is no record book") == 1, output
    assert all_of(folder) == before
    status, output = project.python("-m", "ppml.pipeline.status", "--configfile", project.config)
    assert status == 0 and "stale: missing" in output and output.count("is no record book") == 1, output
    assert all_of(folder) == before
    status, output = project.run("--touch", cores=1)
    assert status == 1 and "error: --touch is refused" in output, output
    assert all_of(folder) == before


def all_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in folder.rglob("*") if ".snakemake" not in path.parts]
    return {str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for path in paths}
