"""The progress of a run of Snakemake, as state and as text."""

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
    """A started job: its rule, its name, its log files and the time of its start."""

    rule: str
    name: str
    logs: tuple[str, ...]
    started: float


@dataclass
class Progress:
    """The jobs of one run; ``clock`` returns the time in seconds."""

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
        """Set the number of jobs per rule."""
        self.planned = dict(jobs)
        self.total = sum(jobs.values())
        self._begun = self.clock()

    def start(self, jobid: int, rule: str, name: str, logs: Iterable[str] = ()) -> Job:
        """Record the start of a job, perhaps again after a failure."""
        job = Job(rule, name, tuple(logs), self.clock())
        if self._first_job is None:
            self._first_job = job.started
        self._ending = False
        self.failed.pop(jobid, None)
        self.running[jobid] = job
        return job

    def finish(self, jobid: int) -> None:
        """Record the success of a job."""
        if (job := self._end(jobid)) is not None:
            self.done += 1
            self._durations.setdefault(job.rule, []).append(self.clock() - job.started)

    def fail(self, jobid: int) -> Job | None:
        """Record the failure of a job, and return the job; None if it was not running."""
        if (job := self._end(jobid)) is not None:
            self.failed[jobid] = job
            # Snakemake now starts no new job, except with --keep-going: then the next start resets this.
            self._ending = True
        return job

    def _end(self, jobid: int) -> Job | None:
        if (job := self.running.pop(jobid, None)) is not None:
            self._busy += self.clock() - job.started
        return job

    @property
    def percent(self) -> int:
        """The fraction of finished jobs, rounded down so that only a complete run shows 100."""
        return 100 * self.done // max(self.total, 1)

    @property
    def elapsed(self) -> float:
        """Seconds since :meth:`plan`."""
        return 0.0 if self._begun is None else self.clock() - self._begun

    def time_left(self) -> float | None:
        """Estimate the seconds left from the mean durations per rule and the parallelism seen so far.

        Returns
        -------
        float or None
            None while the rules with a finished job have less than half of all jobs (a quick first step is no evidence
            for the long ones), and while a failure ends the run.
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
        # Jobs that a checkpoint has added belong to no planned rule.
        waiting[""] += max(self.total - sum(self.planned.values()), 0)
        work = sum(mean.get(rule, overall) * max(count, 0) for rule, count in waiting.items())
        rests = [max(mean.get(rule, overall) - age, 0.0) for rule, age in ages]
        return max((work + sum(rests)) / parallelism, *rests, 0.0)

    def line(self, bar: int = 0) -> str:
        """Return the progress line: finished jobs, times and running jobs; ``bar`` is the width of a bar."""
        filled = bar * self.done // max(self.total, 1)
        parts = [
            f"{self.percent:3d} % {'━' * filled}{'─' * (bar - filled)}{' ' * bool(bar)}{self.done}/{self.total} jobs"
        ]
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        left = self.time_left()
        # Rounded to five seconds, so that it does not flicker.
        estimate = "" if left is None else f", about {duration(5 * max(-(-left // 5), 1))} left"
        parts.append(f"{duration(self.elapsed)} elapsed{estimate}")
        if self.running:
            parts.append(", ".join(job.name for job in self.running.values()))
        return " · ".join(parts)

    def totals(self) -> str:
        """Return the number of jobs, in total and by rule."""
        return f"{count_jobs(self.total)}: " + ", ".join(f"{count} {rule}" for rule, count in self.planned.items())

    def summary(self) -> str:
        """Return the summary line of a run."""
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
    # A number needs the name of its wildcard.
    values = [f"{key}{value}" if str(value).isdigit() else str(value) for key, value in wildcards.items()]
    return f"{rule} {'/'.join(values)}".rstrip()


def short_reason(reason: str) -> str:
    """Return Snakemake's reason for a job without its long lists of files."""
    parts = [part.split(":")[0].split(" since last execution")[0].strip(" .") for part in reason.split(";")]
    # Nearly every job also has this reason: keep it only if it is the only one.
    parts = [part for part in parts if part and part != "Input files updated by another job"] or parts
    return "; ".join(part[:1].lower() + part[1:] for part in parts)


def short_error(message: str) -> str:
    """Return an error message of Snakemake without traceback and class name."""
    lines = message.rstrip().splitlines()
    if "Traceback (most recent call last):" in lines:
        # Only the last line of an unexpected exception is a message.
        lines = lines[: lines.index("Traceback (most recent call last):")] or lines[-1:]
    # Snakemake shows the source of a syntax error, or None.
    lines = [line for line in lines if line.strip() not in ("", "None") and not _TRACE.match(line)]
    if len(lines) > 1 and re.fullmatch(r"(\w+:)|UserError in .*", lines[0]):
        lines = lines[1:]
    return re.sub(r"^error: ", "", "\n".join(lines), flags=re.IGNORECASE)


def excerpt(path: str | Path, limit: int = EXCERPT_LINES) -> list[str]:
    """Return the end of a log file: from its last line ``error: ...``, or else its last lines."""
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
    """Replace the special characters of this package one for one, for an encoding other than UTF-8."""
    return text.translate(_ASCII)
