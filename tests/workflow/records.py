"""Records and files of the small workflow, looked at, damaged and forgotten."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from snakemake.persistence import MetadataRecord
from snakemake.persistence.file import FilePersistence

from ppml.pipeline.provenance import Provenance
from ppml.pipeline.status import look
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
COMPARED = ("rule", "code", "params", "input", "input_checksums", "record_format_version", "incomplete")
"""What Snakemake decides by."""


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
    """Reconcile, and return the jobs that Snakemake would run, with what it knows against each of them."""
    return {f"{job.rule} {job.wildcards}".strip(): job.causes for job in look([], "Snakefile")[0] if job.runs}


def begin() -> None:
    """Do what a run does before Snakemake looks at what is there."""
    provenance = Provenance(SmallPlan.read())
    provenance.reconcile({})
    provenance.prepare()


def tree(folder: str | Path = ".") -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file, and the time of every folder, but for what is Snakemake's own."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        stat = path.lstat()
        if path.parts[0] != ".snakemake":
            found[str(path)] = (path.read_bytes() if path.is_file() else b"", stat.st_mtime_ns)
    return found


def save() -> None:
    Provenance(SmallPlan.read()).save()


def record(path: str) -> MetadataRecord:
    found = FilePersistence(nolock=True)._read_record(path)
    assert found is not None
    return found


def metadata(path: str) -> Path:
    return Path(FilePersistence(nolock=True)._record_path(".snakemake/metadata", path))


def every_record() -> dict[str, bytes]:
    return {path: metadata(path).read_bytes() for path in SmallPlan.read().outputs()}


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
    """Leave what a job leaves that ended in a run that was killed: a file and its record, and no word in the book."""
    Path(path).write_text(text)
    os.utime(path, (time.time() + 7, time.time() + 7))
    changed = record(path).model_copy(update={"endtime": Path(path).stat().st_mtime, **changes})
    FilePersistence(nolock=True)._write_record(path, changed)
