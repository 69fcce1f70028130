"""Which jobs a run has to run, and why: decided by the content of files and records, never by times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ppml.io.atomic import write_bytes
from ppml.io.digests import KEY, publishable_digest
from ppml.jobs.record import STATE, JobRecord, read_record
from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.file_digests import FileDigests
from ppml.pipeline.record_book import RecordBook, write_book
from ppml.pipeline.rerun_reasons import changed_params
from ppml.pipeline.tracked_jobs import TrackedJob

UNREAD = STATE / "unread-provenance.json"
"""The copy of an unreadable record book that a new one has replaced."""
CHECKPOINTS = ("calibrate",)
"""Rules whose outputs often stay the same: jobs that read only those may turn out to be up to date."""
MISSING, FORCED = "missing", "forced"
OTHER_BYTES, UNKNOWN = "its bytes are not those that were made", "nobody knows how it was made"


@dataclass(frozen=True)
class JobStatus:
    """A planned job, and why it has to run.

    Parameters
    ----------
    job : TrackedJob
        The job.
    causes : tuple of str
        Reasons of the job itself, empty without any.
    follows : tuple of str
        Results that run again and that this job reads.
    certain : bool
        Whether the job runs with any result of a checkpoint.
    """

    job: TrackedJob
    causes: tuple[str, ...]
    follows: tuple[str, ...]
    certain: bool

    @property
    def runs(self) -> bool:
        """Whether the job has to run."""
        return bool(self.causes or self.follows)


@dataclass(frozen=True)
class _Known:
    """A record, and how its digests are compared with the SHA-256 of a file."""

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
    published : bool
        Whether all data are public, so that the book holds plain digests.
    code : mapping
        Text of each code digest of the plan -> its modules and pins.
    """

    def __init__(
        self, jobs: Sequence[TrackedJob], book: Path, *, published: bool, code: Mapping[str, CodeDigest]
    ) -> None:
        self.jobs = jobs
        self.makers = {path: job for job in jobs for path in job.outputs}
        self.book = RecordBook(book, self.makers.__contains__)
        self.digests = FileDigests(STATE / "files.json")
        self._path, self._code = book, code
        self._published = published
        self._local: dict[str, JobRecord | None] = {}
        self._publishable = lru_cache(maxsize=None)(lambda sha256: publishable_digest(sha256, published=published))

    def forget(self) -> None:
        """Read files and records again: jobs have run meanwhile."""
        self.digests.forget()
        self._local.clear()

    def is_missing(self, job: TrackedJob) -> bool:
        """Return whether an output of a job is missing."""
        return any(self.digests.sha256(path) is None for path in job.outputs)

    def causes(self, job: TrackedJob) -> list[str]:
        """Return the reasons why the job would make other outputs now; missing outputs do not count."""
        found: dict[str, None] = {}
        reasons: dict[int, list[str]] = {}
        for path in job.outputs:
            known = self._known(job, path)
            for one in known:
                if id(one.record) not in reasons:
                    reasons[id(one.record)] = list(self._differences(job, one))
                if not reasons[id(one.record)]:
                    break
            else:
                found.update(dict.fromkeys(reasons[id(known[0].record)] if known else self._unknown(job, path)))
        return list(found)

    def _unknown(self, job: TrackedJob, path: str) -> list[str]:
        if self.digests.sha256(path) is None:
            return []
        return [OTHER_BYTES if self._record(job) else UNKNOWN]

    def has(self, path: str, shown: str) -> bool:
        """Return whether a file exists with the bytes that the record book shows."""
        sha256 = self.digests.sha256(path)
        return sha256 is not None and self.stands_for(shown, sha256)

    def stands_for(self, shown: str, sha256: str) -> bool:
        """Return whether a digest of the record book stands for this SHA-256, plainly or under the local key."""
        # Without a key on this machine no digest was made with it, and looking makes none.
        keyed = not self._published and KEY.exists()
        return shown == sha256 or (keyed and shown == self._publishable(sha256))

    def code_digest(self, text: str) -> CodeDigest | None:
        """Return the modules and pins of a code digest, None if they are not known."""
        return self._code.get(text) or self.book.code.get(text)

    def save_book(self) -> None:
        """Write the record book: every job whose outputs and inputs are as they were when it ran.

        The records of missing files stay in the book, as in a clone without a pull.
        """
        self.forget()
        groups: dict[tuple[str, str, tuple[str, ...], tuple[tuple[str, str], ...]], dict[str, str]] = {}
        for path, job in self.makers.items():
            if record := self._publishable_record(job, path):
                # Of two outputs of a job, one may be older than its command.
                key = (record.rule, record.command, record.params, tuple(sorted(record.inputs.items())))
                groups.setdefault(key, {})[path] = record.outputs[path]
        records = [JobRecord(*key[:3], dict(key[3]), outputs) for key, outputs in groups.items()]
        self.digests.save()
        if self.book.problem and self._path.is_file():
            write_bytes(UNREAD, self._path.read_bytes())
        write_book(self._path, records, {**self.book.code, **self._code})

    def _publishable_record(self, job: TrackedJob, path: str) -> JobRecord | None:
        """Return the record of a file with publishable digests, None if it is not known how the file was made."""
        sha256 = self.digests.sha256(path)
        if sha256 is None:
            return self.book.records.get(path)
        known = [one for one in self._known(job, path) if not any(self._changed_inputs(one))]
        if not known:
            return None
        best = min(known, key=lambda one: any(self._differences(job, one)))
        inputs = best.record.inputs
        if best.record is not self.book.records.get(path):
            inputs = {name: self._publishable(digest) for name, digest in inputs.items()}
        return JobRecord(
            best.record.rule, best.record.command, best.record.params, inputs, {path: self._publishable(sha256)}
        )

    def _record(self, job: TrackedJob) -> JobRecord | None:
        last = job.outputs[-1]
        if last not in self._local:
            self._local[last] = read_record(last)
        return self._local[last]

    def _known(self, job: TrackedJob, path: str) -> list[_Known]:
        """Return the records that describe the bytes of an output; all records of it if it is missing."""
        sha256 = self.digests.sha256(path)
        local, book = self._record(job), self.book.records.get(path)
        found = [_Known(local, str.__eq__)] if local and path in local.outputs else []
        found += [_Known(book, self.stands_for)] if book else []
        return [one for one in found if sha256 is None or one.matches(one.record.outputs[path], sha256)]

    def _differences(self, job: TrackedJob, known: _Known) -> Iterator[str]:
        record = known.record
        if record.command != job.command:
            yield "the rule's command has changed"
        if record.params != job.params:
            yield from list(changed_params(record.params, job.params, self.code_digest)) or ["parameters have changed"]
        new, old = set(job.inputs), record.inputs.keys()
        yield from (f"new input {name}" for name in sorted(new - old))
        yield from (f"no longer an input: {name}" for name in sorted(old - new))
        yield from self._changed_inputs(known)

    def _changed_inputs(self, known: _Known) -> Iterator[str]:
        # A missing input was not pulled, and its outputs stay valid.
        for name, recorded in known.record.inputs.items():
            now = self.digests.sha256(name)
            if now is not None and not known.matches(recorded, now):
                yield f"{name} has changed"


def plan_jobs(records: JobRecords, is_forced: Callable[[TrackedJob], bool] = lambda job: False) -> list[JobStatus]:
    """Return the status of every job, in the order of the plan.

    A run makes required results that are missing, repeats jobs whose result would be another one now, and all jobs
    that follow those; for them, it makes missing inputs as well.

    Parameters
    ----------
    records : JobRecords
        The planned jobs and their records.
    is_forced : callable
        Planned job -> whether the user asks for it.
    """
    own = [records.causes(job) + [FORCED] * is_forced(job) for job in records.jobs]
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
        causes = list(own[place])
        before = [found[maker] for maker in {places[path]: None for path in job.inputs if path in places}]
        running = [status for status in before if status.runs]
        missing = records.is_missing(job)
        if missing and (job.required or place in needed or causes or running):
            causes.insert(0, MISSING)
        certain = bool(causes) or any(one.certain and one.job.rule not in CHECKPOINTS for one in running)
        follows = tuple(sorted({one.job.result for one in running}))
        found.append(JobStatus(job, tuple(map(_printable, causes)), follows, certain))
    return found


def _printable(text: str) -> str:
    """Return a text without control characters of the terminal: the record book comes from others."""
    return "".join(character if character.isprintable() else "?" for character in text)
