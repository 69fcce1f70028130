"""The records and files of the small workflow: inspection, damage and removal."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from pathlib import Path

from ppml.jobs.record import RECORDS, read_record, write_record
from ppml.pipeline.equal_runs import copy_equal_run, find_equal_runs, remove_leftovers
from ppml.pipeline.job_status import plan_jobs
from tests.workflow.clock import wait_for_clock_tick
from tests.workflow.small import SmallPlan

BOOK = Path("reports/provenance.json")
NEWER = "fedcba9876543210"
"""The code digest of newer code."""
MODEL = "runs/alone/seed0/model.txt"
RUNS = {f"{rule} {arm}/{seed}" for rule in ("train", "predict") for arm in ("private", "alone") for seed in (0, 1)}
JOBS = {"data", "collect", "calibrate private/0", "calibrate private/1", *RUNS}


def stale_jobs() -> dict[str, tuple[str, ...]]:
    """Return the jobs of the next run with the reasons for them."""
    records = SmallPlan.read().records()
    found = {status.job.name: status.reasons for status in plan_jobs(records) if status.runs}
    records.digests.save()
    return found


def start_run() -> None:
    """Execute the steps of a run before its plan of jobs."""
    records = SmallPlan.read().records()
    remove_leftovers(records.makers)
    for run in find_equal_runs(records):
        copy_equal_run(run, records)


def list_tree(folder: str | Path = ".") -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file, and the time of every folder, but no state of the workflow."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        stat = path.lstat()
        if ".snakemake" not in path.parts and path.name != "ran.txt":
            found[str(path)] = (path.read_bytes() if path.is_file() else b"", stat.st_mtime_ns)
    return found


def save_book() -> None:
    SmallPlan.read().records().save_book()


def record_file(path: str) -> Path:
    """Return the file with the record of the job of ``path``."""
    last = SmallPlan.read().records().makers[path].outputs[-1]
    return RECORDS / f"{hashlib.sha256(last.encode()).hexdigest()[:32]}.json"


def read_record_files() -> dict[str, bytes]:
    return {path: record_file(path).read_bytes() for path in SmallPlan.read().outputs()}


def replace_bytes(path: str | Path, text: str) -> None:
    """Replace the bytes of a file, and keep its time."""
    stat = Path(path).stat()
    wait_for_clock_tick(Path(path).parent)
    Path(path).write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touch_all() -> None:
    """Set new times of all files, so that inputs are newer than outputs."""
    for number, path in enumerate(["data/data.txt", *reversed(SmallPlan.read().outputs()), "source.txt"]):
        if Path(path).exists():
            os.utime(path, (time.time() + number, time.time() + number))


def remove_records() -> None:
    shutil.rmtree(".snakemake")


def write_result_and_record(path: str, text: str, **changes: object) -> None:
    """Write a file and its record, but no entry in the book: the state after a job of a killed run."""
    Path(path).write_text(text)
    last = SmallPlan.read().records().makers[path].outputs[-1]
    record = read_record(last)
    assert record is not None
    outputs = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in record.outputs}
    write_record(dataclasses.replace(record, outputs=outputs, **changes), last)
