"""The jobs of a run and the reasons for them: the content of files and records decides, never a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from ppml.config.suggestions import shorten
from ppml.io.atomic import write_bytes
from ppml.io.digests import KEY, publishable_digest
from ppml.jobs.record import STATE, JobRecord, read_record, total_size
from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.file_digests import FileDigests
from ppml.pipeline.record_book import RecordBook, read_other_books, write_book
from ppml.pipeline.rerun_reasons import compare_params
from ppml.pipeline.tracked_jobs import TrackedJob

UNREAD = STATE / "unread-provenance.json"
"""The copy of an unreadable record book after its replacement."""
CHECKPOINTS = ("calibrate",)
"""Rules whose outputs often stay the same: jobs that read only those may turn out to be up to date."""
MISSING, FORCED = "missing", "forced"
MOST_REASONS = 8
"""The number of reasons in a message: the collect stage reads hundreds of files, and all may be new."""
OTHER_BYTES, NO_RECORD = "its bytes differ from its record", "no record describes its bytes"


@dataclass(frozen=True)
class JobStatus:
    """A planned job and the reasons for it."""

    job: TrackedJob
    reasons: tuple[str, ...]
    """The reasons of the job itself."""
    follows: tuple[str, ...]
    """Stale results that the job reads."""
    certain: bool
    """Whether the job runs for every result of a checkpoint."""

    @property
    def runs(self) -> bool:
        """Whether the job has to run."""
        return bool(self.reasons or self.follows)

    @property
    def reason(self) -> str:
        """The reasons of the job itself, or else the stale results that it reads."""
        return shorten(self.reasons, MOST_REASONS, "; ") or (f"follows {shorten(self.follows)}" if self.follows else "")


@dataclass(frozen=True)
class _Candidate:
    """A record, and the comparison of its digests with the SHA-256 of a file."""

    record: JobRecord
    matches: Callable[[str, str], bool]


class JobRecords:
    """The records of all planned jobs: those of this machine, and the record book in git.

    Parameters
    ----------
    jobs : sequence of TrackedJob
        All jobs; a job follows all jobs that make its inputs.
    book : Path
        The record book.
    public : bool
        Whether everybody may have all data, so that the book holds plain digests.
    code : mapping
        Text of each code digest of the plan -> its modules and pins.
    """

    def __init__(self, jobs: Sequence[TrackedJob], book: Path, *, public: bool, code: Mapping[str, CodeDigest]) -> None:
        self.jobs = jobs
        self.makers = {path: job for job in jobs for path in job.outputs}
        self.book = RecordBook(book, self.makers.__contains__)
        self.digests = FileDigests(STATE / "files.json")
        self.path, self._code = book, code
        self._public = public
        self._read_record = cache(read_record)
        self._publishable = cache(partial(publishable_digest, public=public))

    @cached_property
    def other_books(self) -> dict[str, JobRecord]:
        """Output -> record, of the books of other configurations."""
        books = read_other_books(self.path)
        return {output: record for _, book in books for output, record in book.records.items()}

    def reload(self) -> None:
        """Read files and records again after jobs."""
        self.digests.reload()
        self._read_record.cache_clear()

    def is_missing(self, job: TrackedJob) -> bool:
        """Return whether an output of a job is missing."""
        return any(self.digests.sha256(path) is None for path in job.outputs)

    def reasons(self, job: TrackedJob) -> list[str]:
        """Return the reasons for other outputs of the job; missing outputs do not count."""
        found: dict[str, None] = {}
        by_record: dict[int, list[str]] = {}
        for path in job.outputs:
            candidates = self._candidates(job, path)
            for candidate in candidates:
                record = candidate.record
                if id(record) not in by_record:
                    by_record[id(record)] = list(self._differences(job, candidate))
                if not by_record[id(record)]:
                    break
            else:
                first = by_record[id(candidates[0].record)] if candidates else self._lack_of_record(job, path)
                found.update(dict.fromkeys(first))
        return list(found)

    def _lack_of_record(self, job: TrackedJob, path: str) -> list[str]:
        if self.digests.sha256(path) is None:
            return []
        return [OTHER_BYTES if self._read_record(job.outputs[-1]) else NO_RECORD]

    def has_bytes(self, path: str, digest: str) -> bool:
        """Return whether a file has the bytes of this digest in the record book."""
        sha256 = self.digests.sha256(path)
        return sha256 is not None and self.matches_digest(digest, sha256)

    def matches_digest(self, digest: str, sha256: str) -> bool:
        """Return whether a digest of the record book is this SHA-256 or its digest under the local key."""
        # A missing key has made no digest, and this comparison makes no key.
        keyed = not self._public and KEY.exists()
        return digest == sha256 or (keyed and digest == self._publishable(sha256))

    def code_digest(self, text: str) -> CodeDigest | None:
        """Return the modules and pins of a code digest, None if they are unknown."""
        return self._code.get(text) or self.book.code.get(text)

    def save_book(self) -> None:
        """Write the record book: every job whose outputs and inputs have not changed since.

        The records of missing files stay in the book, for clones without a pull.
        """
        self.reload()
        groups: dict[tuple[Any, ...], JobRecord] = {}
        for path, job in self.makers.items():
            if record := self._publishable_record(job, path):
                # Of two outputs of a job, one may be older than its command.
                key = (job.outputs, record.rule, record.command, record.params, *sorted(record.inputs.items()))
                known = groups[key].outputs if key in groups else {}
                groups[key] = replace(record, outputs={**known, path: record.outputs[path]})
        records = [self._measure(record) for record in groups.values()]
        self.digests.save()
        if self.book.problem and self.path.is_file():
            write_bytes(UNREAD, self.path.read_bytes())
        write_book(self.path, records, {**self.book.code, **self._code})

    def _measure(self, record: JobRecord) -> JobRecord:
        """Return a record of the book with the size of its outputs; without measurements if the data are not public."""
        if not self._public:
            return replace(record, seconds=None, bytes=None)
        return replace(record, bytes=total_size(record.outputs) or record.bytes)

    def _publishable_record(self, job: TrackedJob, path: str) -> JobRecord | None:
        """Return the record of a file with publishable digests, None if no record describes the file."""
        sha256 = self.digests.sha256(path)
        if sha256 is None:
            return self.book.records.get(path)
        candidates = [one for one in self._candidates(job, path) if not any(self._changed_inputs(one))]
        if not candidates:
            return None
        record = min(candidates, key=lambda one: any(self._differences(job, one))).record
        inputs = {name: self._publishable(digest) for name, digest in record.inputs.items()}
        if record is not self._read_record(job.outputs[-1]):
            # It is from a book. Its digests are publishable already, but may be of a time when the data were public.
            found = {name: self.digests.sha256(name) for name in record.inputs}
            inputs = {name: self._publishable(now) if now else record.inputs[name] for name, now in found.items()}
        return replace(record, inputs=inputs, outputs={path: self._publishable(sha256)})

    def _candidates(self, job: TrackedJob, path: str) -> list[_Candidate]:
        """Return the records that describe the bytes of an output; of a missing output, all its records."""
        sha256 = self.digests.sha256(path)
        local, book = self._read_record(job.outputs[-1]), self.book.records.get(path)
        found = [_Candidate(local, str.__eq__)] if local and path in local.outputs else []
        found += [_Candidate(book, self.matches_digest)] if book else []
        if not found and sha256 is not None and (other := self.other_books.get(path)):
            # The data of all configurations are in one folder, and a pull brings no record of this machine.
            found = [_Candidate(other, self.matches_digest)]
        return [one for one in found if sha256 is None or one.matches(one.record.outputs[path], sha256)]

    def _differences(self, job: TrackedJob, candidate: _Candidate) -> Iterator[str]:
        record = candidate.record
        if record.command != job.command:
            yield "the rule's command has changed"
        if record.params != job.params:
            yield from list(compare_params(record.params, job.params, self.code_digest)) or ["parameters have changed"]
        new, old = set(job.inputs), record.inputs.keys()
        yield from (f"new input {name}" for name in sorted(new - old))
        yield from (f"no longer an input: {name}" for name in sorted(old - new))
        yield from self._changed_inputs(candidate)

    def _changed_inputs(self, candidate: _Candidate) -> Iterator[str]:
        # The outputs of a missing input stay valid: a pull may omit it.
        for name, recorded in candidate.record.inputs.items():
            now = self.digests.sha256(name)
            if now is not None and not candidate.matches(recorded, now):
                yield f"{name} has changed"


def plan_jobs(records: JobRecords, is_forced: Callable[[TrackedJob], bool] = lambda job: False) -> list[JobStatus]:
    """Return the status of every job, in the order of the plan.

    A run makes missing required results, repeats the jobs with a reason and all jobs that follow, and makes the missing
    inputs of these jobs.

    Parameters
    ----------
    records : JobRecords
        The planned jobs and their records.
    is_forced : callable
        Planned job -> whether the user forces it.
    """
    own = [records.reasons(job) + [FORCED] * is_forced(job) for job in records.jobs]
    needed: set[int] = set()
    places = {path: place for place, job in enumerate(records.jobs) for path in job.outputs}
    while True:
        found = _follow(records, own, needed, places)
        missing = {
            places[path]
            for status in found
            if status.runs
            for path in status.job.inputs
            if path in places and records.digests.sha256(path) is None and not found[places[path]].runs
        }
        if not missing:
            return found
        needed |= missing


def _follow(
    records: JobRecords, own: Sequence[Sequence[str]], needed: set[int], places: Mapping[str, int]
) -> list[JobStatus]:
    found: list[JobStatus] = []
    for place, job in enumerate(records.jobs):
        reasons = list(own[place])
        before = [found[maker] for maker in {places[path]: None for path in job.inputs if path in places}]
        running = [status for status in before if status.runs]
        missing = records.is_missing(job)
        if missing and (job.required or place in needed or reasons or running):
            reasons.insert(0, MISSING)
        certain = bool(reasons) or any(one.certain and one.job.rule not in CHECKPOINTS for one in running)
        follows = tuple(sorted({one.job.result for one in running}))
        found.append(JobStatus(job, tuple(map(_printable, reasons)), follows, certain))
    return found


def select_needed(jobs: Sequence[JobStatus], targets: Collection[str]) -> list[JobStatus]:
    """Return the running jobs that some targets need.

    Parameters
    ----------
    jobs : sequence of JobStatus
        All jobs, each after the jobs that make its inputs.
    targets : collection of str
        Names of rules and files; without any, and with ``all``, every result is a target.
    """
    everything = not targets or "all" in targets
    wanted, found = set(targets), []
    for status in reversed(jobs):
        job = status.job
        if status.runs and (everything or job.rule in wanted or not wanted.isdisjoint(job.outputs)):
            found.append(status)
            wanted.update(job.inputs)
    return found[::-1]


def _printable(text: str) -> str:
    """Return a text without control characters of the terminal: a stranger can have written the record book."""
    return "".join(character if character.isprintable() else "?" for character in text)
