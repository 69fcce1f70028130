"""Records and files of the small workflow, looked at, damaged and forgotten."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from ppml.jobs.record import RECORDS, read_record, write_record
from ppml.pipeline.job_status import plan_jobs
from ppml.pipeline.renamed_runs import remove_leftovers, renamed_runs, take_over
from tests.workflow.clock import wait_for_a_tick
from tests.workflow.conftest import made_once
from tests.workflow.small import Small, SmallPlan

BOOK = Path("reports/provenance.json")
NEWER = "fedcba9876543210"
"""The stamp of newer code."""
KNOWN = Path(".snakemake/ppml/files.json")
MODEL = "runs/alone/seed0/model.txt"
OTHER_BYTES = "its bytes are not those that were made"
NOBODY = "nobody knows how it was made"
RUNS = {f"{rule} {arm}/{seed}" for rule in ("train", "predict") for arm in ("private", "alone") for seed in (0, 1)}
JOBS = {"data", "collect", "calibrate private/0", "calibrate private/1", *RUNS}


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return the small workflow after a run; nobody changes it."""
    return Small(made_once(tmp_path_factory, "small", lambda folder: Small.first(folder) and None))


@pytest.fixture
def small(done: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Return a copy of the small workflow after a run; it is the working directory."""
    small = done.copy(tmp_path / "small")
    monkeypatch.chdir(small.folder)
    return small


def stale() -> dict[str, tuple[str, ...]]:
    """Return the jobs that a run would run, with their causes."""
    records = SmallPlan.read().records()
    found = {status.job.name: status.causes for status in plan_jobs(records) if status.runs}
    records.digests.save()
    return found


def begin() -> None:
    """Do what a run does before it plans jobs."""
    records = SmallPlan.read().records()
    remove_leftovers(records.makers)
    for run in renamed_runs(records):
        take_over(run, records)


def tree(folder: str | Path = ".") -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file, and the time of every folder, but for what is Snakemake's own."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        stat = path.lstat()
        if path.parts[0] != ".snakemake":
            found[str(path)] = (path.read_bytes() if path.is_file() else b"", stat.st_mtime_ns)
    return found


def save() -> None:
    SmallPlan.read().records().save_book()


def record_file(path: str) -> Path:
    """Return the file with the record of the job that made ``path``."""
    last = SmallPlan.read().records().makers[path].outputs[-1]
    return RECORDS / f"{hashlib.sha256(last.encode()).hexdigest()[:32]}.json"


def every_record() -> dict[str, bytes]:
    return {path: record_file(path).read_bytes() for path in SmallPlan.read().outputs()}


def rewrite(path: str | Path, text: str) -> None:
    """Write other bytes in such a way that the time of the file does not tell."""
    stat = Path(path).stat()
    wait_for_a_tick(Path(path).parent)
    Path(path).write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touch_all() -> None:
    """Give every file a new time, so that inputs are newer than what was made of them."""
    for number, path in enumerate(["data/data.txt", *reversed(SmallPlan.read().outputs()), "source.txt"]):
        if Path(path).exists():
            os.utime(path, (time.time() + number, time.time() + number))


def forget_records() -> None:
    shutil.rmtree(".snakemake")


def as_run_anew(path: str, text: str, **changes: object) -> None:
    """Leave what a job leaves in a run that was killed after it: a file and its record, and no entry in the book."""
    Path(path).write_text(text)
    last = SmallPlan.read().records().makers[path].outputs[-1]
    record = read_record(last)
    assert record is not None
    outputs = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in record.outputs}
    write_record(dataclasses.replace(record, outputs=outputs, **changes), last)
