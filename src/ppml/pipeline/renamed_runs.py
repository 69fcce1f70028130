"""Copies of runs with another name, for renamed arms.

The record book names the candidates. A run is copied from the folder of another arm beside the planned folder, only
into paths of planned results, and only with the bytes of the book.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ppml.io.atomic import leftover_temp_files
from ppml.io.digests import file_sha256
from ppml.jobs.record import JobRecord, write_record
from ppml.pipeline.safe_paths import PlaceError, Places

if TYPE_CHECKING:
    from ppml.pipeline.job_status import JobRecords


@dataclasses.dataclass(frozen=True)
class RenamedRun:
    """A planned run that exists under another name."""

    source: str
    folder: str
    """The folder with the files, and the planned folder."""
    records: Mapping[str, JobRecord]
    """Planned file -> record of the job that made it, with the paths of the planned folder."""

    def __str__(self) -> str:
        return f"{self.folder} is copied from {self.source}, a run of the same training"


def find_renamed_runs(records: JobRecords) -> list[RenamedRun]:
    """Return the planned runs that exist under another name."""
    trained: dict[tuple[tuple[str, ...], Path, str], str] = {}
    for output, record in records.book.records.items():
        if record.rule == "train":
            place = Path(output).parent
            trained[record.params, place.parent.parent, place.name] = str(place)
    found = []
    for job in records.jobs:
        if job.rule != "train":
            continue
        folder = Path(job.outputs[0]).parent
        source = trained.get((job.params, folder.parent.parent, folder.name))
        # A broken link also counts as a folder.
        if not source or os.path.lexists(folder) or _is_linked(Path(source)):
            continue
        if renamed := _rename_records(records, source, str(folder)):
            found.append(RenamedRun(source, str(folder), renamed))
    return found


def _rename_records(records: JobRecords, source: str, folder: str) -> dict[str, JobRecord]:
    """Return the records of a run with the paths of ``folder``; none if one of its files differs from its record."""
    book = records.book.records
    names = {name: f"{folder}/{Path(name).name}" for name in book if str(Path(name).parent) == source}
    # The collect stage writes the record of a run, from all runs.
    names = {name: to for name, to in names.items() if to in records.makers and book[name].rule != "collect"}
    renamed = {}
    for name, to in names.items():
        record = book[name]
        inside = {part for part in record.inputs if str(Path(part).parent) == source}
        if not inside <= names.keys() or not records.has_bytes(name, record.outputs[name]):
            return {}
        inputs = {names.get(part, part): digest for part, digest in record.inputs.items()}
        renamed[to] = dataclasses.replace(record, inputs=inputs, outputs={to: record.outputs[name]})
    return renamed


def copy_renamed_run(run: RenamedRun, records: JobRecords) -> bool:
    """Copy and record the files; return whether all have the recorded bytes. If not, no copy remains.

    Raises
    ------
    OSError
        A file cannot be read or written.
    """
    top = Path(run.folder).parents[2]
    places = Places(top, lambda name: str(top / name) in run.records)

    def copy(target: Path) -> bool:
        digest = run.records[str(target)].outputs[str(target)]
        name, source = target.relative_to(top).as_posix(), Path(run.source, target.name)
        return places.put(name, source, lambda copy: records.matches_digest(digest, file_sha256(copy)))

    with ExitStack() as undo:
        undo.callback(_remove_empty_folder, Path(run.folder))
        try:
            for target in map(Path, run.records):
                if not copy(target):
                    return False
                undo.callback(target.unlink, missing_ok=True)
        except PlaceError:
            return False
        undo.pop_all()
    records.book.records.update(run.records)
    records.reload()
    _record(run, records)
    return True


def _record(run: RenamedRun, records: JobRecords) -> None:
    """Write the records of the copies: a killed run does not save the record book."""
    for job in records.jobs:
        if all(path in run.records for path in job.outputs):
            record = run.records[job.outputs[0]]
            outputs = {path: records.digests.sha256(path) or "" for path in job.outputs}
            inputs = {
                name: now if (now := records.digests.sha256(name)) and records.matches_digest(digest, now) else digest
                for name, digest in record.inputs.items()
            }
            write_record(dataclasses.replace(record, inputs=inputs, outputs=outputs), job.outputs[-1])


def remove_leftovers(outputs: Iterable[str]) -> None:
    """Remove the temporary files of killed writers from the folders of outputs."""
    for folder in sorted({Path(path).parent for path in outputs}):
        # A link can lead to a folder outside of the workflow.
        if not _is_linked(folder):
            for leftover in leftover_temp_files(folder):
                leftover.unlink(missing_ok=True)


def _remove_empty_folder(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _is_linked(folder: Path) -> bool:
    """Return whether a folder of a run, or the folder of its arm, is a link."""
    return folder.is_symlink() or folder.parent.is_symlink()
