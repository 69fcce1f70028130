"""What a run of Snakemake has done so far, and how that reads: plain state and text, without a terminal."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

EXCERPT_LINES = 15
_TAIL_BYTES = 64 * 1024
_ASCII = str.maketrans({"━": "#", "─": ".", "·": "|", "—": "-", "…": "~"})
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TRACE = re.compile(r'\s*File ".*", line \d+, in ')


@dataclass(frozen=True)
class Job:
    """A job that was started: its rule, what a person calls it, its log files and the time of its start."""

    rule: str
    name: str
    logs: tuple[str, ...]
    started: float


@dataclass
class Progress:
    """The jobs of one run.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds. Tests replace it.
    """

    clock: Callable[[], float] = time.monotonic
    planned: dict[str, int] = field(default_factory=dict)
    total: int = 0
    done: int = 0
    running: dict[int, Job] = field(default_factory=dict)
    failed: dict[int, Job] = field(default_factory=dict)
    interrupted: bool = False
    _durations: dict[str, list[float]] = field(default_factory=dict)
    _begun: float | None = None
    _first_job: float | None = None
    _busy: float = 0.0
    _ending: bool = False

    def plan(self, jobs: Mapping[str, int]) -> None:
        """Take over the number of jobs per rule."""
        self.planned = dict(jobs)
        self.total = sum(jobs.values())
        self._begun = self.clock()

    def start(self, jobid: int, rule: str, name: str, logs: Iterable[str] = ()) -> Job:
        """Note that a job starts, perhaps once more after a failure."""
        job = Job(rule, name, tuple(logs), self.clock())
        if self._first_job is None:
            self._first_job = job.started
        self._ending = False
        self.failed.pop(jobid, None)
        self.running[jobid] = job
        return job

    def finish(self, jobid: int) -> None:
        """Note that a job has succeeded."""
        if (job := self._end(jobid)) is not None:
            self.done += 1
            self._durations.setdefault(job.rule, []).append(self.clock() - job.started)

    def fail(self, jobid: int) -> Job | None:
        """Note that a job has failed; return it unless it was not running."""
        if (job := self._end(jobid)) is not None:
            self.failed[jobid] = job
            # Snakemake starts nothing new from here on, unless it was told to keep going: then the next start says so.
            self._ending = True
        return job

    def _end(self, jobid: int) -> Job | None:
        if (job := self.running.pop(jobid, None)) is not None:
            self._busy += self.clock() - job.started
        return job

    @property
    def percent(self) -> int:
        """The share of jobs done, rounded down so that only a complete run shows 100."""
        return 100 * self.done // max(self.total, 1)

    @property
    def elapsed(self) -> float:
        """Seconds since the jobs were known."""
        return 0.0 if self._begun is None else self.clock() - self._begun

    def time_left(self) -> float | None:
        """Estimate the seconds left from the mean durations per rule and the parallelism seen so far.

        Returns
        -------
        float or None
            None without evidence: while the rules seen to finish stand for less than half of all jobs (a quick first
            step says nothing about the long ones after it), and while a failure is ending the run.
        """
        known = sum(self.planned.get(rule, 0) for rule in self._durations)
        if self._ending or not known or 2 * known < self.total or self._first_job is None:
            return None
        mean = {rule: sum(times) / len(times) for rule, times in self._durations.items()}
        overall = sum(map(sum, self._durations.values())) / sum(map(len, self._durations.values()))
        now = self.clock()
        ages = [(job.rule, now - job.started) for job in self.running.values()]
        parallelism = (self._busy + sum(age for _, age in ages)) / max(now - self._first_job, 1e-9)
        if parallelism <= 0:
            return None
        waiting = Counter(self.planned)
        waiting.subtract({rule: len(times) for rule, times in self._durations.items()})
        waiting.subtract(Counter(job.rule for job in (*self.running.values(), *self.failed.values())))
        # Jobs that a checkpoint added later belong to no planned rule.
        waiting[""] += max(self.total - sum(self.planned.values()), 0)
        work = sum(mean.get(rule, overall) * max(count, 0) for rule, count in waiting.items())
        rests = [max(mean.get(rule, overall) - age, 0.0) for rule, age in ages]
        return max((work + sum(rests)) / parallelism, *rests, 0.0)

    def line(self, bar: int = 0) -> str:
        """Return the progress line: done and total, the times, what is running now; ``bar`` is the width of a bar."""
        filled = bar * self.done // max(self.total, 1)
        parts = [
            f"{self.percent:3d} % {'━' * filled}{'─' * (bar - filled)}{' ' * bool(bar)}{self.done}/{self.total} jobs"
        ]
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        left = self.time_left()
        # To five seconds: more digits would only flicker.
        estimate = "" if left is None else f", about {duration(5 * max(-(-left // 5), 1))} left"
        parts.append(f"{duration(self.elapsed)} elapsed{estimate}")
        if self.running:
            parts.append(", ".join(job.name for job in self.running.values()))
        return " · ".join(parts)

    def totals(self) -> str:
        """Return the number of jobs and of which rules, in the order of the workflow."""
        return f"{count_jobs(self.total)}: " + ", ".join(f"{count} {rule}" for rule, count in self.planned.items())

    def summary(self) -> str:
        """Return the last line of a run."""
        took = f"in {duration(self.elapsed)}"
        if self.failed and not self.interrupted:
            return f"stopped: {len(self.failed)} of {count_jobs(self.total)} failed, {self.done} done {took}"
        if self.interrupted or self.done < self.total:
            word = "interrupted" if self.interrupted else "stopped"
            return f"{word}: {self.done} of {count_jobs(self.total)} done {took}"
        return f"done: {count_jobs(self.done)} {took}"


def count_jobs(count: int) -> str:
    """Return for instance ``1 job`` or ``60 jobs``."""
    return f"{count} job{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Return for instance ``4:12`` or ``1:04:12``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def job_name(rule: str, wildcards: Mapping[str, object]) -> str:
    """Return the rule and its wildcards: ``train fl_dp/seed1`` for ``arm=fl_dp, seed=1``."""
    # A bare number says nothing without the name of its wildcard.
    values = [f"{key}{value}" if str(value).isdigit() else str(value) for key, value in wildcards.items()]
    return f"{rule} {'/'.join(values)}".rstrip()


def short_reason(reason: str) -> str:
    """Return Snakemake's reason for a job without its lists of files, which fill screens."""
    parts = [part.split(":")[0].split(" since last execution")[0].strip(" .") for part in reason.split(";")]
    # Nearly every job has this reason as well; it tells something only where it is the only one.
    parts = [part for part in parts if part and part != "Input files updated by another job"] or parts
    return "; ".join(part[:1].lower() + part[1:] for part in parts)


def short_error(message: str) -> str:
    """Return the message of an error of Snakemake without the traceback and the bare name of its class."""
    lines = message.rstrip().splitlines()
    if "Traceback (most recent call last):" in lines:
        # Of an exception that Snakemake did not foresee, only the last line is a message.
        lines = lines[: lines.index("Traceback (most recent call last):")] or lines[-1:]
    # Snakemake shows the source of a syntax error, and None where there is no source.
    lines = [line for line in lines if line.strip() not in ("", "None") and not _TRACE.match(line)]
    if len(lines) > 1 and re.fullmatch(r"(\w+:)|UserError in .*", lines[0]):
        lines = lines[1:]
    return re.sub(r"^error: ", "", "\n".join(lines), flags=re.IGNORECASE)


def excerpt(path: str | Path, limit: int = EXCERPT_LINES) -> list[str]:
    """Return the end of a log file: from its last line ``error: ...`` on if there is one, else its last lines."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL_BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [_CONTROL.sub("", line).rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    return lines[starts[-1] :][:limit] if starts else lines[-limit:]


def fit(text: str, width: int) -> str:
    """Cut a line to the width of the terminal."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def to_ascii(text: str) -> str:
    """Replace the characters that this package draws with, one for one, where the encoding is not UTF-8."""
    return text.translate(_ASCII)
