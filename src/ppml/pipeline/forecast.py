"""The expected time and size of planned jobs, from the measurements of finished jobs in records and record books."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ppml.jobs.record import JobDescription, JobRecord, measured, read_record, total_size
from ppml.pipeline.job_status import JobRecords
from ppml.pipeline.record_book import RecordBook, read_other_books
from ppml.project import ROOT

_EXAMPLES = re.compile(r"/[a-z0-9_]+-(\d+)-\d+-[a-z_]+-[a-z_]+/")
"""The number of training examples in the name of a subset's folder."""
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""The errors of a strange specification: a stranger can have written the record book."""


START_SECONDS, JOB_SECONDS = 8.0, 0.2
"""The time before the first job (imports, plan), and the time of a job that its record leaves out: start, checks, end.

The latter is the overhead in benchmarks/workflow.md. With both, 98 jobs with 73 seconds of recorded work have a
forecast of 54 seconds on two cores; the run took 56.
"""


@dataclass(frozen=True)
class Forecast:
    """The expected time and size of some jobs.

    Parameters
    ----------
    jobs, untimed, unsized : int
        The number of jobs, of jobs with an unknown time, and of jobs with an unknown size.
    seconds, longest : float
        The time of all jobs one after another, and of the longest job.
    size : float
        The size of all outputs in bytes.
    """

    jobs: int = 0
    untimed: int = 0
    unsized: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    size: float = 0.0

    def text(self, cores: int) -> str:
        """Return the forecast as a part of a line.

        Examples
        --------
        >>> Forecast(97, 0, 0, 4800.0, 120.0, 3e8).text(2)
        '97 jobs, about 40 minutes on 2 cores, 0.3 GB'
        >>> Forecast(97, 7, 1, 4800.0, 120.0, 3e8).text(2)
        '97 jobs, at least 40 minutes on 2 cores, at least 0.3 GB; the time of 7 jobs is unknown'
        >>> Forecast(3, 3, 3).text(2)
        '3 jobs of unknown time: no run has measured them'
        """
        count = f"{self.jobs:,} job{'s' * (self.jobs != 1)}"
        if not self.jobs:
            return "no job"
        if self.untimed == self.jobs:
            return f"{count} of unknown time: no run has measured them"
        time = f"{_duration(self.wall_seconds(cores))} on {cores} core{'s' * (cores != 1)}"
        size = f", {'at least ' * bool(self.unsized)}{_size(self.size)}" if self.unsized < self.jobs else ""
        rest = f"; the time of {self.untimed:,} job{'s' * (self.untimed != 1)} is unknown" if self.untimed else ""
        return f"{count}, {'at least' if self.untimed else 'about'} {time}{size}{rest}"

    def wall_seconds(self, cores: int) -> float:
        """Return the expected time on some cores."""
        if not self.jobs:
            return 0.0
        return START_SECONDS + max((self.seconds + JOB_SECONDS * self.jobs) / cores, self.longest)

    def __add__(self, other: Forecast) -> Forecast:
        """Return the forecast of two groups of jobs together."""
        sums = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Forecast(**{**sums, "longest": max(self.longest, other.longest)})


def forecast(records: JobRecords, jobs: Collection[JobDescription]) -> Forecast:
    """Return the forecast of some planned jobs.

    An earlier run of the same job gives its time, else the median of the most similar jobs. The time of a training
    grows with its examples and epochs.
    """
    if not jobs:
        return Forecast()
    known = _Measurements(records)
    times = [time for job in jobs if (time := known.seconds(job)) is not None]
    sizes = [size for job in jobs if (size := known.size(job)) is not None]
    unknown = (len(jobs) - len(times), len(jobs) - len(sizes))
    return Forecast(len(jobs), *unknown, sum(times), max(times, default=0.0), sum(sizes))


class _Work:
    """The amount of work of a job, and the keys of similar jobs, the most similar first."""

    def __init__(self, job: JobDescription | JobRecord) -> None:
        self.amount = 1.0
        self.keys: tuple[tuple[str, ...], ...] = ((job.rule,), (job.rule.partition("_")[0],))
        with suppress(*_UNREADABLE):
            spec = json.loads(next((param for param in job.params if param.startswith("{")), ""))
            arm = spec.get("arm", spec)
            if "model" in arm:
                kinds = [arm[part]["kind"] for part in ("topology", "privacy", "aggregation") if part in arm]
                model = (job.rule, str(arm["model"]))
                self.keys = ((*model, *map(str, kinds)), model, *self.keys)
            if job.rule == "train":
                examples = max(int(found[1]) for path in job.inputs if (found := _EXAMPLES.search(path)))
                amount = float(examples * arm["training"]["epochs"] * arm["topology"].get("rounds", 1))
                self.amount = amount if 1 <= amount < 1e15 else 1.0


class _Measurements:
    """The measurements of finished jobs, by their outputs and by the keys of similar jobs."""

    def __init__(self, records: JobRecords) -> None:
        self._rates: dict[str | tuple[str, ...], list[float]] = {}
        self._sizes: dict[str | tuple[str, ...], list[float]] = {}
        own = [read_record(job.outputs[-1]) for job in records.jobs]
        # Records of this machine are the first: they describe the last run of a job.
        books = ((records.path, records.book), *read_other_books(records.path, ROOT))
        for record in (*filter(None, own), *(record for path, book in books for record in _read(book, path))):
            self._add(record)

    def _add(self, record: JobRecord) -> None:
        work = _Work(record)
        keys: list[str | tuple[str, ...]] = [*record.outputs, *work.keys]
        for key in keys:
            if record.seconds is not None:
                self._rates.setdefault(key, []).append(record.seconds / work.amount)
            if record.bytes is not None:
                self._sizes.setdefault(key, []).append(record.bytes)

    def seconds(self, job: JobDescription) -> float | None:
        """Return the expected time of a job, None if no similar job has a measurement."""
        work = _Work(job)
        if own := self._rates.get(job.outputs[-1]):
            return own[0] * work.amount
        found = next((self._rates[key] for key in work.keys if key in self._rates), None)
        return median(found) * work.amount if found else None

    def size(self, job: JobDescription) -> float | None:
        """Return the expected size of the outputs of a job, None if no similar job has a measurement."""
        if (size := total_size(job.outputs)) is not None:
            return size
        if own := self._sizes.get(job.outputs[-1]):
            return own[0]
        found = next((self._sizes[key] for key in _Work(job).keys if key in self._sizes), None)
        return median(found) if found else None


def _read(book: RecordBook, path: Path) -> Iterator[JobRecord]:
    """Yield the records of a book; the costs beside it have the times of trainings, also for books without them."""
    costs: dict[tuple[str, ...], float] = {}
    with suppress(OSError, csv.Error, *_UNREADABLE), path.with_name("costs.csv").open(encoding="utf-8") as file:
        costs = {(row["arm"], f"seed{row['seed']}"): float(row["seconds"]) for row in csv.DictReader(file)}
    for record in {id(record): record for record in book.records.values()}.values():
        cost = costs.get(Path(next(iter(record.outputs))).parts[-3:-1]) if record.rule == "train" else None
        seconds = record.seconds if record.seconds is not None else measured({"seconds": cost})[0]
        yield JobRecord(
            record.rule, record.command, record.params, record.inputs, record.outputs, seconds, record.bytes
        )


def _duration(seconds: float) -> str:
    """Return a rounded time in words.

    Examples
    --------
    >>> [_duration(seconds) for seconds in (0.2, 45, 100, 2400, 9000)]
    ['1 second', '45 seconds', '2 minutes', '40 minutes', '2.5 hours']
    """
    if seconds < 90:
        value, unit = f"{max(round(seconds), 1)}", "second"
    elif seconds < 5400:
        value, unit = f"{round(seconds / 60)}", "minute"
    else:
        value, unit = f"{seconds / 3600:.1f}", "hour"
    return f"{value} {unit}{'s' * (value != '1')}"


def _size(size: float) -> str:
    """Return a rounded size.

    Examples
    --------
    >>> [_size(size) for size in (3e8, 2.5e6, 0)]
    ['0.3 GB', '3 MB', '1 MB']
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(-(-size // 1e6), 1):.0f} MB"
