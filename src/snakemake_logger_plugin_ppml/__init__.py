"""A logger plugin of Snakemake: one live progress line in place of many messages.

Select it with ``--logger ppml``, or with ``logger: ppml`` in a profile. Snakemake still writes its complete log below
``.snakemake/log``, and ``--verbose`` or ``--debug-dag`` restore its own output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import threading
from collections import Counter
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from .configuration import configuration_error
from .description import DESCRIPTION, target_error
from .progress import Progress, count_jobs, excerpt, fit, job_name, short_error, short_reason, to_ascii

__all__ = ["LogHandler"]

_RED, _YELLOW = "\x1b[31m", "\x1b[33m"
# A plain log gets a line after a tenth of the jobs and half a minute, and otherwise after ten minutes.
_PLAIN_PERCENT, _PLAIN_SECONDS, _LONGEST_SILENCE_SECONDS = 10, 30, 600
_MOST_REASONS = 5
_IGNORED = ("Building DAG of jobs", "Config file ")
_INTERRUPTIONS = ("Terminating processes on user request", "Will exit after finishing")
# Messages that repeat an earlier error.
_REPEATED_ERRORS = ("Exiting because a job execution failed", "At least one job did not complete successfully")


class LogHandler(LogHandlerBase):
    """Turn Snakemake's events into a progress line, failures with the end of their log, and a summary line."""

    def __post_init__(self) -> None:
        """Read the options of Snakemake and the properties of the terminal."""
        settings = self.common_settings
        self.progress = Progress()
        self._plain_snakemake = settings.verbose or settings.debug_dag
        self._quiet = {str(getattr(kind, "name", kind)).lower() for kind in settings.quiet or ()}
        self._stream = sys.stdout if settings.stdout else sys.stderr
        self._utf8 = (getattr(self._stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._color = self._live and not settings.nocolor and not os.environ.get("NO_COLOR")
        # The listener's thread emits, the ticker draws and the main thread closes.
        self._guard = threading.RLock()
        self._over = threading.Event()
        self._drawn = False
        self._shown: set[str] = set()
        self._held: list[str] | None = []
        self._exits: list[str] = []
        self._full_log = ""
        self._reasons: Counter[str] = Counter()
        self._last = (0, 0.0)

    @property
    def writes_to_stream(self) -> bool:
        """Whether this handler replaces Snakemake's own output."""
        return not self._plain_snakemake

    @property
    def writes_to_file(self) -> bool:
        """False: Snakemake writes its complete log itself."""
        return False

    @property
    def has_filter(self) -> bool:
        """True: under ``--quiet`` the default filter would hide the progress events."""
        return True

    @property
    def has_formatter(self) -> bool:
        """True: this handler writes every line."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """False."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one message or event of Snakemake; an error of this handler never harms the workflow."""
        if self._plain_snakemake:
            return
        with self._guard:
            try:
                self._take(record)
            except Exception:
                if record.levelno >= logging.WARNING:
                    with contextlib.suppress(Exception):
                        self._stream.write(f"{record.getMessage()}\n")

    def close(self) -> None:
        """Write the summary line and clear the terminal; Snakemake and the interpreter's exit both call this."""
        with self._guard:
            if not self._over.is_set() and not self._plain_snakemake:
                self._over.set()
                with contextlib.suppress(Exception):
                    self._conclude()
        super().close()

    def _take(self, record: logging.LogRecord) -> None:
        event, data = getattr(record, "event", None), vars(record)
        progress = self.progress
        if event == LogEvent.WORKFLOW_STARTED:
            self._held = None
        elif event == LogEvent.RUN_INFO:
            self._plan({rule: count for rule, count in data["stats"].items() if rule != "total"})
        elif event == LogEvent.JOB_INFO:
            self._start(data)
        elif event == LogEvent.JOB_FINISHED:
            progress.finish(data["job_id"])
        elif event == LogEvent.PROGRESS:
            # A checkpoint may have added jobs.
            progress.done, progress.total = data["done"], data["total"]
            self._show()
        elif event == LogEvent.JOB_ERROR:
            self._fail(data["jobid"], self._exit_status(data.get("shellcmd")))
        elif event in (None, LogEvent.ERROR):
            self._message(record.levelno, record.getMessage())

    def _plan(self, jobs: dict[str, int]) -> None:
        # A dry run sends the same numbers before and after the jobs.
        if self.progress.planned:
            return
        self.progress.plan(jobs)
        if self.common_settings.dryrun or self._quiet & {"progress", "all"}:
            return
        self._last = (0, self.progress.clock())
        if not self._live:
            self._print(self.progress.totals())
        threading.Thread(target=self._tick, daemon=True).start()
        self._show()

    def _start(self, data: dict[str, Any]) -> None:
        name = job_name(data["rule_name"], data["wildcards"] or {})
        command = str(data.get("shellcmd") or "").strip() if self.common_settings.printshellcmds else ""
        if self.common_settings.dryrun:
            known = next(filter(None, map(DESCRIPTION.reason, data.get("output") or ())), "")
            self._reasons.update([known] if known else [])
            reason = "" if "reason" in self._quiet else f"  ({known or short_reason(data['reason'])})"
            lines = [f"{name}{reason}"] + [f"    {command}"] * bool(command)
            if not self._quiet & {"rules", "all"}:
                self._print("\n".join(lines))
            return
        self.progress.start(data["jobid"], data["rule_name"], name, data["log"])
        if command:
            self._print(f"{name}: {command}")
        self._show()

    def _fail(self, jobid: int, detail: list[str]) -> None:
        job = self.progress.fail(jobid)
        if job is None or self.progress.interrupted:
            return
        where = f"log: {', '.join(job.logs)}" if job.logs else "no log"
        tail = next(filter(None, map(excerpt, job.logs)), [])
        self._print("\n    ".join([f"FAILED {job.name} — {where}", *detail, *tail]), _RED)

    def _exit_status(self, command: str | None) -> list[str]:
        """Return the meaning of an unusual exit status, from the error message before the failure of the job."""
        text = next((text for text in self._exits if command and command.strip() in text), None)
        if text is None:
            return []
        self._exits.remove(text)
        found = re.search(r"exit status (\d+)\.\s*$|died with .*", text, re.MULTILINE)
        status, code = (found[0].strip(" ."), found[1]) if found else ("", "1")
        if code == "130" or "SIGINT" in status:
            # Ctrl-C reaches the jobs too, sometimes before Snakemake.
            self.progress.interrupted = True
        if code == "137" or "SIGKILL" in status:
            return ["killed, perhaps because memory ran out"]
        return [] if code == "1" else [status]

    def _message(self, level: int, text: str) -> None:
        if level >= logging.WARNING:
            if any(echo in text for echo in _REPEATED_ERRORS) and (self.progress.failed or self.progress.interrupted):
                return
            if "CalledProcessError" in text and self.progress.running:
                # The failure of the job follows, with a better message.
                self._exits.append(text)
                return
            # In this case no failure of the job follows.
            missing = re.search(r"Job (\d+)\s+completed successfully, but.*", text, re.DOTALL)
            if missing and int(missing[1]) in self.progress.running:
                files = [line.strip().partition(" (missing")[0] for line in short_error(missing[0]).splitlines()[1:]]
                self._fail(int(missing[1]), [f"did not write {file}" for file in files])
                return
            before = level >= logging.ERROR and self._held is not None and not self.progress.planned
            better = (before and configuration_error(sys.argv[1:])) or target_error(text, sys.argv[1:])
            self._show_once(level, better or short_error(text))
        elif text.startswith(_INTERRUPTIONS):
            self.progress.interrupted = True
            self._print(text)
        elif again := re.match(r"Trying to restart job (\d+)", text):
            self._print(f"trying again: {self.progress.failed[int(again[1])].name}")
        elif text.startswith("Nothing to be done"):
            self._print("everything is up to date: nothing to be done")
        elif text.startswith("Complete log"):
            self._full_log = os.path.relpath(text.partition(": ")[2])
        elif self._held is not None and not text.startswith(_IGNORED):
            # Before a run this is noise; without one, as with --lint or --unlock, it is the result.
            self._held.append(text)

    def _show_once(self, level: int, text: str) -> None:
        error = level >= logging.ERROR
        if text in self._shown or ("all" in self._quiet and not error):
            return
        self._shown.add(text)
        self._print(f"{'error' if error else 'warning'}: {text}", _RED if error else _YELLOW)
        if error and not self.progress.running:
            self._held = None

    def _conclude(self) -> None:
        self._erase()
        for text in self._exits:
            self._show_once(logging.ERROR, short_error(text))
        if self._held:
            self._print("\n".join(self._held))
        # Under --quiet progress Snakemake sends no events of finished jobs.
        if not self.progress.planned or self._quiet & {"progress", "all"}:
            return
        if self.common_settings.dryrun:
            self._print("\n".join([self.progress.totals(), *self._describe_reasons()]))
            return
        text = self.progress.summary()
        self._print(text if text.startswith("done") or not self._full_log else f"{text}; full log: {self._full_log}")

    def _describe_reasons(self) -> list[str]:
        """Return a line with the most frequent reasons of a dry run."""
        common = self._reasons.most_common(_MOST_REASONS)
        rest = len(self._reasons) - len(common)
        texts = [f"{reason} ({count_jobs(count)})" for reason, count in common]
        return [f"reasons: {'; '.join(texts)}" + f"; and {rest} more" * bool(rest)] if texts else []

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            with self._guard, contextlib.suppress(Exception):
                self._show()

    def _show(self) -> None:
        """Redraw the line of a terminal, or add a due line to a plain log."""
        progress = self.progress
        if self._over.is_set() or not progress.planned or self._quiet & {"progress", "all"}:
            return
        if self._live:
            width = self._width()
            line = fit(progress.line(bar=20 if width >= 110 else 10 if width >= 60 else 0), width - 1)
            self._write(f"\r{line}\x1b[K")
            self._drawn = True
            return
        percent, seconds = progress.percent - self._last[0], progress.clock() - self._last[1]
        due = percent >= _PLAIN_PERCENT and seconds >= _PLAIN_SECONDS and progress.percent < 100
        if due or seconds >= _LONGEST_SILENCE_SECONDS:
            self._last = (progress.percent, progress.clock())
            self._print(fit(progress.line(), 160))

    def _width(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            if columns := os.get_terminal_size(self._stream.fileno()).columns:
                return columns
        return shutil.get_terminal_size().columns

    def _print(self, text: str, color: str = "") -> None:
        """Write lines above the progress line."""
        redraw = self._drawn
        self._erase()
        self._write(f"{color}{text}\x1b[0m\n" if color and self._color else f"{text}\n")
        if redraw:
            self._show()

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        if not self._utf8:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            text = to_ascii(text).encode(encoding, "replace").decode(encoding)
        self._stream.write(text)
        self._stream.flush()
