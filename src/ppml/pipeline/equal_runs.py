"""Copies of runs of the same training: of renamed arms, and of arms that another configuration has trained.

Records of this machine and record books name the candidates. A file is copied only into the path of a planned result,
only if its job had the planned settings, code and inputs, and only with the recorded bytes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ppml.io.atomic import leftover_temp_files
from ppml.io.digests import file_sha256
from ppml.jobs.record import JobRecord, read_records, write_record
from ppml.pipeline.safe_paths import PlaceError, Places

if TYPE_CHECKING:
    from ppml.pipeline.job_status import JobRecords
    from ppml.pipeline.tracked_jobs import TrackedJob


@dataclasses.dataclass(frozen=True)
class EqualRun:
    """A planned run that exists under another name, or in the folder of another configuration."""

    source: str
    """The folder with the files."""
    folder: str
    """The planned folder."""
    files: Mapping[str, str]
    """Planned file -> file with its bytes; also the missing partition of the run."""
    records: Mapping[str, JobRecord]
    """Planned file -> record of the job that made it, with the planned paths."""

    def __str__(self) -> str:
        return f"{self.folder} from {self.source}"


def find_equal_runs(records: JobRecords) -> list[EqualRun]:
    """Return the planned runs that exist under another name, or in the folder of another configuration."""
    # A broken link also counts as a folder.
    missing = [job for job in records.jobs if job.rule == "train" and not os.path.lexists(_folder(job.outputs[0]))]
    if not missing:
        return []
    known: dict[str, list[JobRecord]] = {}
    sources: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, None]] = {}
    for record in _known_records(records):
        for output in record.outputs:
            known.setdefault(output, []).append(record)
            if record.rule == "train":
                folder = _folder(output)
                sources.setdefault((record.params, _run_of(folder)), {})[folder] = None
    copies = (_find_copy(records, known, sources, job) for job in missing)
    return [copy for copy in copies if copy]


def _known_records(records: JobRecords) -> Iterator[JobRecord]:
    """Yield the records of the configuration's book, of this machine, and of the books of other configurations."""
    yield from _distinct(records.book.records)
    yield from read_records()
    yield from _distinct(records.other_books)


def _distinct(book: Mapping[str, JobRecord]) -> list[JobRecord]:
    """Return each record of a book once."""
    return list({id(record): record for record in book.values()}.values())


def _find_copy(
    records: JobRecords,
    known: Mapping[str, Sequence[JobRecord]],
    sources: Mapping[tuple[tuple[str, ...], tuple[str, ...]], Iterable[str]],
    job: TrackedJob,
) -> EqualRun | None:
    """Return the copy of the run of a training, from the first suitable folder."""
    folder = _folder(job.outputs[0])
    for source in sources.get((job.params, _run_of(folder)), ()):
        # A folder of another configuration may be unreadable, and its name may be too long.
        with suppress(OSError):
            if _is_linked(Path(source)):
                continue
            copy = _Copy(records, known, source, folder)
            if copy.add(job):
                for other in copy.jobs_in_folder():
                    copy.add(other)
                return EqualRun(source, folder, copy.files, copy.records)
    return None


class _Copy:
    """The copy of a run, job by job."""

    def __init__(self, records: JobRecords, known: Mapping[str, Sequence[JobRecord]], source: str, folder: str) -> None:
        self.files: dict[str, str] = {}
        self.records: dict[str, JobRecord] = {}
        self._job_records, self._known, self._source, self._folder = records, known, source, folder
        self._partitions, self._old_partitions = (Path(run).parents[2] / "partitions" for run in (folder, source))

    def jobs_in_folder(self) -> list[TrackedJob]:
        """Return the jobs whose outputs are all in the planned folder."""
        # The collect stage writes the record of a run, from all runs.
        return [job for job in self._job_records.jobs if all(_folder(path) == self._folder for path in job.outputs)]

    def add(self, job: TrackedJob) -> bool:
        """Add the outputs of a job, and the missing files that it reads; return whether the record of each is equal.

        A job that fails adds nothing.
        """
        if set(job.outputs) <= self.files.keys():
            return True
        of_outputs = [self._find_record(job, path) for path in job.outputs]
        found = [record for record in of_outputs if record]
        # One job has made all outputs: its inputs had the same bytes.
        if len(found) < len(of_outputs) or any(record.inputs != found[0].inputs for record in found):
            return False
        before = dict(self.files), dict(self.records)
        if not all(self._has_input(path, found[0].inputs[self._old(path)]) for path in job.inputs):
            self.files, self.records = before
            return False
        inputs = {path: found[0].inputs[self._old(path)] for path in job.inputs}
        for path, record in zip(job.outputs, found, strict=True):
            self.files[path] = self._old(path)
            outputs = {path: record.outputs[self._old(path)]}
            self.records[path] = dataclasses.replace(record, inputs=inputs, outputs=outputs)
        return True

    def _find_record(self, job: TrackedJob, output: str) -> JobRecord | None:
        """Return the record of the source of an output: same command, settings, code and inputs, and its bytes."""
        name = self._old(output)
        work, inputs = (job.rule, job.command, job.params), set(map(self._old, job.inputs))
        for record in self._known.get(name, ()):
            same = (record.rule, record.command, record.params) == work and record.inputs.keys() == inputs
            if same and self._job_records.has_bytes(name, record.outputs[name]):
                return record
        return None

    def _has_input(self, path: str, digest: str) -> bool:
        """Return whether a planned input has, or gets by the copy, the bytes of a digest."""
        maker, old = self._job_records.makers.get(path), self._old(path)
        if self._job_records.digests.sha256(path) is not None:
            return self._job_records.has_bytes(path, digest)
        if maker is None or old == path:
            # Data of all configurations: a pull may omit them.
            return old == path
        return self.add(maker) and self._job_records.has_bytes(old, digest)

    def _old(self, path: str) -> str:
        """Return the path in the source for a path in the planned folder, or of a partition beside it."""
        place = Path(path)
        if str(place.parent) == self._folder:
            return f"{self._source}/{place.name}"
        if place.is_relative_to(self._partitions):
            return str(self._old_partitions / place.relative_to(self._partitions))
        return path


def copy_equal_run(run: EqualRun, records: JobRecords) -> bool:
    """Copy and record the files; return whether all have the recorded bytes. If not, no copy remains.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    top = Path(run.folder).parents[2]
    places = Places(top, lambda name: str(top / name) in run.records)

    def copy(target: str, source: str) -> bool:
        digest = run.records[target].outputs[target]
        # Another run has the same partition.
        if _folder(target) != run.folder and os.path.lexists(target):
            return records.matches_digest(digest, file_sha256(Path(target)))
        name = Path(target).relative_to(top).as_posix()
        copied = places.put(name, Path(source), lambda copy: records.matches_digest(digest, file_sha256(copy)))
        if copied:
            undo.callback(Path(target).unlink, missing_ok=True)
        return copied

    with ExitStack() as undo:
        undo.callback(_remove_empty_folder, Path(run.folder))
        try:
            if not all(copy(target, source) for target, source in run.files.items()):
                return False
        except (PlaceError, FileNotFoundError):
            return False
        undo.pop_all()
    records.reload()
    _record(run, records)
    return True


def _record(run: EqualRun, records: JobRecords) -> None:
    """Write the records of the copies, with plain digests: a killed run does not save the record book."""
    for job in records.jobs:
        if all(path in run.records for path in job.outputs):
            record = run.records[job.outputs[0]]
            outputs = {path: records.digests.sha256(path) or "" for path in job.outputs}
            inputs = {
                name: now if (now := records.digests.sha256(name)) and records.matches_digest(digest, now) else digest
                for name, digest in record.inputs.items()
            }
            write_record(dataclasses.replace(record, inputs=inputs, outputs=outputs), job.outputs[-1])


def copied_files(runs: Iterable[EqualRun]) -> dict[str, str]:
    """Return planned file -> file with its bytes, for all runs."""
    return {path: source for run in runs for path, source in run.files.items()}


def describe_copies(runs: Collection[EqualRun]) -> str:
    """Return a line about some copies, empty without any."""
    if not runs:
        return ""
    count = f"{len(runs):,} runs are" if len(runs) > 1 else "1 run is"
    return f"{count} copied, not trained again, for instance {next(iter(runs))}"


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


def _folder(path: str) -> str:
    return str(Path(path).parent)


def _run_of(folder: str) -> tuple[str, ...]:
    """Return the parts of a run's path that name neither arm nor configuration, for instance ``runs`` and ``seed0``."""
    path = Path(folder)
    return path.parent.parent.name, path.name


def _is_linked(folder: Path) -> bool:
    """Return whether a folder of a run, or the folder of its arm, is a link."""
    return folder.is_symlink() or folder.parent.is_symlink()
