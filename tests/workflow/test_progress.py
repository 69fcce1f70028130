"""The progress line: its text with a fake clock, and the output of a real run of Snakemake."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_ppml import LogHandler
from snakemake_logger_plugin_ppml.progress import (
    EXCERPT_LINES,
    Progress,
    duration,
    excerpt,
    short_error,
    short_reason,
    to_ascii,
)

SOURCES = Path(__file__).parents[2] / "src"


class Clock:
    """A clock under the control of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(clock)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def make_handler(clock: Clock, stream: io.StringIO, **settings: Any) -> LogHandler:
    """Return a handler that writes to ``stream``, with Snakemake's default settings and ``settings``."""
    defaults = dict.fromkeys(
        ("printshellcmds", "nocolor", "quiet", "debug_dag", "verbose", "show_failed_logs", "stdout", "dryrun"), False
    )
    with contextlib.redirect_stderr(stream):
        handler = LogHandler(SimpleNamespace(**defaults | settings), None)  # type: ignore[arg-type]
    handler.progress.clock = clock
    return handler


@pytest.fixture
def handler(clock: Clock, stream: io.StringIO) -> LogHandler:
    return make_handler(clock, stream)


def send(handler: LogHandler, message: str | None = None, level: int = logging.INFO, **data: Any) -> None:
    """Send a message or event as Snakemake does."""
    record = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    vars(record).update(data)
    handler.emit(record)


def start_job(handler: LogHandler, jobid: int, rule: str, log: tuple[str, ...] = (), **wildcards: str) -> None:
    """Send the event of a started job."""
    data: dict[str, Any] = {"jobid": jobid, "rule_name": rule, "wildcards": wildcards, "log": list(log)}
    send(handler, event=LogEvent.JOB_INFO, reason="Missing output files: a, b", shellcmd="train it", **data)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (252.9, "4:12"), (3852, "1:04:12")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_line_shows_count_times_and_running_jobs(progress: Progress, clock: Clock) -> None:
    progress.plan({"train": 4})
    assert progress.line() == "  0 % 0/4 jobs · 0:00 elapsed"
    progress.start(1, "train", "train dp/seed0")
    clock.now += 60
    progress.finish(1)
    progress.start(2, "train", "train dp/seed1")
    assert progress.line(bar=8) == " 25 % ━━────── 1/4 jobs · 1:00 elapsed, about 3:00 left · train dp/seed1"
    progress.fail(2)
    assert " · 1 failed · " in progress.line()
    assert "left" not in progress.line(), "after a failure, no time left is known"
    progress.start(3, "train", "train dp/seed2")
    assert "left" in progress.line()


def test_time_left_divides_by_the_parallelism(progress: Progress, clock: Clock) -> None:
    progress.plan({"train": 8})
    for jobid in (1, 2):
        progress.start(jobid, "train", "train")
    clock.now += 100
    for jobid in (1, 2):
        progress.finish(jobid)
    assert progress.time_left() == pytest.approx(6 * 100 / 2)


def test_time_left_uses_durations_by_rule(progress: Progress, clock: Clock) -> None:
    progress.plan({"prepare": 1, "train": 2, "report": 1})
    for jobid, (rule, seconds) in enumerate([("prepare", 20), ("train", 100)]):
        assert progress.time_left() is None, "one quick first step is not enough"
        progress.start(jobid, rule, rule)
        clock.now += seconds
        progress.finish(jobid)
    assert progress.time_left() == pytest.approx(100 + (20 + 100) / 2)
    progress.start(2, "train", "train")
    clock.now += 30
    assert progress.time_left() == pytest.approx(100 - 30 + (20 + 100) / 2)


def test_only_a_complete_run_shows_100_percent(clock: Clock) -> None:
    progress = Progress(clock, total=1000, done=999)
    assert progress.percent == 99
    assert Progress(clock).line() == "  0 % 0/0 jobs · 0:00 elapsed"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"done": 60}, "done: 60 jobs in 0:00"),
        ({"done": 40}, "stopped: 40 of 60 jobs done in 0:00"),
        ({"done": 40, "interrupted": True}, "interrupted: 40 of 60 jobs done in 0:00"),
    ],
)
def test_summary(clock: Clock, state: dict[str, Any], text: str) -> None:
    assert Progress(clock, total=60, **state).summary() == text


def test_successful_second_attempt_is_no_failure(progress: Progress) -> None:
    progress.plan({"train": 1})
    progress.start(1, "train", "train")
    progress.fail(1)
    assert progress.summary() == "stopped: 1 of 1 job failed, 0 done in 0:00"
    progress.start(1, "train", "train")
    progress.finish(1)
    assert progress.summary() == "done: 1 job in 0:00"


def test_ascii_line_has_same_length() -> None:
    line = "━━── 1/2 jobs · a — b…"
    assert to_ascii(line).isascii()
    assert len(to_ascii(line)) == len(line), "the line must still fit"


def test_excerpt(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    assert excerpt(log) == []
    log.write_text("\n".join(f"epoch {i}" for i in range(30)) + "\n\n")
    assert excerpt(log) == [f"epoch {i}" for i in range(30 - EXCERPT_LINES, 30)]
    log.write_text("epoch 1\nerror: of an attempt before\nepoch 1\nerror: epsilon is 9\n  see config.yaml\n")
    assert excerpt(log) == ["error: epsilon is 9", "  see config.yaml"]
    log.write_bytes(b"\x1b[31mred\x1b[0m \xff\n")
    assert excerpt(log) == ["red �"]


def test_short_error() -> None:
    place = 'MissingInputException in rule a in file "Snakefile", line 3:'
    assert short_error(f"{place}\nMissing input files\n") == f"{place}\nMissing input files"
    assert short_error("LockException:\nError: Directory cannot be locked.") == "Directory cannot be locked."
    user_error = 'UserError in file "Snakefile", line 4:\nepsilon is 9\n  File "a.py", line 1, in check'
    assert short_error(user_error) == "epsilon is 9"
    assert short_error('Traceback (most recent call last):\n\n  File "a.py", line 1\n\nKeyError: 1') == "KeyError: 1"


def test_short_reason() -> None:
    others = "Input files updated by another job: c"
    reason = f"Missing output files: a, b; {others}; Code has changed since last execution"
    assert short_reason(reason) == "missing output files; code has changed"
    assert short_reason(others) == "input files updated by another job"


def test_plain_log_gets_few_lines(handler: LogHandler, stream: io.StringIO, clock: Clock) -> None:
    send(handler, "Assuming unrestricted shared filesystem usage.")
    send(handler, "Workflow has started!", event=LogEvent.WORKFLOW_STARTED)
    send(handler, "Provided cores: 2", event=LogEvent.RESOURCES_INFO)
    send(handler, "Job stats", event=LogEvent.RUN_INFO, stats={"train": 99, "all": 1, "total": 100})
    for jobid in range(100):
        start_job(handler, jobid, "train")
        clock.now += 10
        send(handler, event=LogEvent.JOB_FINISHED, job_id=jobid)
        send(handler, event=LogEvent.PROGRESS, done=jobid + 1, total=100)
    handler.close()
    handler.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "100 jobs: 99 train, 1 all"
    assert lines[1] == " 10 % 10/100 jobs | 1:40 elapsed, about 15:00 left"
    assert lines[-1] == "done: 100 jobs in 16:40"
    assert len(lines) == 11


def test_warnings_and_errors_are_shown_once(handler: LogHandler, stream: io.StringIO) -> None:
    for _ in range(2):
        send(handler, "old metadata", logging.WARNING)
        send(handler, "WorkflowError:\nno such rule", logging.ERROR, event=LogEvent.ERROR)
    send(handler, "chatter")
    handler.close()
    assert stream.getvalue().splitlines() == ["warning: old metadata", "error: no such rule"]


def test_messages_without_a_run_are_shown(handler: LogHandler, stream: io.StringIO) -> None:
    send(handler, "Unlocked working directory.")
    handler.close()
    assert stream.getvalue() == "Unlocked working directory.\n"


def test_dry_run_lists_jobs_and_totals(stream: io.StringIO, clock: Clock) -> None:
    handler = make_handler(clock, stream, dryrun=True)
    send(handler, event=LogEvent.WORKFLOW_STARTED)
    for _ in range(2):
        send(handler, event=LogEvent.RUN_INFO, stats={"train": 1, "total": 1})
    start_job(handler, 1, "train", arm="dp", seed="0")
    handler.close()
    assert stream.getvalue().splitlines() == ["train dp/seed0  (missing output files)", "1 job: 1 train"]


def test_killed_job_and_missing_output_are_named(handler: LogHandler, stream: io.StringIO) -> None:
    send(handler, event=LogEvent.WORKFLOW_STARTED)
    send(handler, event=LogEvent.RUN_INFO, stats={"train": 2, "total": 2})
    start_job(handler, 1, "train", seed="0")
    start_job(handler, 2, "train", seed="1")
    text = "RuleException:\nCalledProcessError in file \"Snakefile\", line 3:\nCommand 'set -e; train it' returned "
    send(handler, text + "non-zero exit status 137.", logging.ERROR, event=LogEvent.ERROR)
    send(handler, level=logging.ERROR, event=LogEvent.JOB_ERROR, jobid=1, shellcmd="train it")
    text = "MissingOutputException in rule train:\nJob 2  completed successfully, but some output files are missing.\n"
    send(handler, f"{text}out/a (missing locally, parent dir contents: )", logging.ERROR, event=LogEvent.ERROR)
    handler.close()
    assert stream.getvalue().splitlines()[1:] == [
        "FAILED train seed0 - no log",
        "    killed, perhaps because memory ran out",
        "FAILED train seed1 - no log",
        "    did not write out/a",
        "stopped: 2 of 2 jobs failed, 0 done in 0:00",
    ]


def test_terminal_gets_one_line_in_place(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    handler = make_handler(clock, stream)
    send(handler, event=LogEvent.WORKFLOW_STARTED)
    send(handler, event=LogEvent.RUN_INFO, stats={"train": 4, "total": 4})
    start_job(handler, 1, "train", arm="a_rather_long_name_of_an_arm", seed="0")
    send(handler, "careful", logging.WARNING)
    handler.close()
    drawn = stream.getvalue()
    assert "\r\x1b[Kwarning: careful\n\r  0 %" in drawn, "a message clears the line, which is then drawn again"
    assert drawn.endswith("\r\x1b[Kstopped: 0 of 4 jobs done in 0:00\n")
    shown = [part.removesuffix("\x1b[K") for part in drawn.split("\r") if " % " in part]
    assert shown[-1].endswith("…")
    assert max(map(len, shown)) == 49
    assert "\x1b[3" not in drawn


def test_invalid_event_does_not_stop_the_workflow(handler: LogHandler, stream: io.StringIO) -> None:
    send(handler, event=LogEvent.JOB_INFO)
    send(handler, event=LogEvent.RUN_INFO, stats=None)
    send(handler, "Error in rule a", logging.ERROR, event=LogEvent.JOB_ERROR)
    stream.close()
    send(handler, "nowhere to go", logging.ERROR)
    handler.close()


def test_verbose_keeps_the_output_of_snakemake(stream: io.StringIO, clock: Clock) -> None:
    handler = make_handler(clock, stream, verbose=True)
    send(handler, "message", logging.ERROR)
    assert not handler.writes_to_stream
    assert make_handler(clock, stream).writes_to_stream
    assert stream.getvalue() == ""


SNAKEFILE = """
rule all:
    input: expand("{arm}-{seed}.txt", arm=["dp", "fl_dp"], seed=[0, 1])

rule train:
    output: "{arm}-{seed}.txt"
    log: "logs/{arm}-{seed}.log"
    shell:
        "(echo epoch 1; if [ {wildcards.arm}{wildcards.seed} = $BAD ]; then "
        "echo 'error: epsilon is 9'; echo 'see config.yaml'; exit 1; fi; touch {output}) > {log} 2>&1"
"""


def snakemake(folder: Path, *options: str, bad: str = "none") -> subprocess.CompletedProcess[str]:
    """Run Snakemake in ``folder`` with this package as its logger."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"BAD": bad, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "ppml", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_real_run(tmp_path: Path) -> None:
    failing = snakemake(tmp_path, "--keep-going", bad="fl_dp1")
    assert failing.returncode == 1
    lines = failing.stderr.splitlines()
    assert lines[0] == "5 jobs: 4 train, 1 all"
    assert lines[1:4] == [
        "FAILED train fl_dp/seed1 — log: logs/fl_dp-1.log",
        "    error: epsilon is 9",
        "    see config.yaml",
    ]
    assert re.fullmatch(r"stopped: 1 of 5 jobs failed, 3 done in 0:\d\d; full log: \.snakemake/log/.*", lines[-1])
    assert len(lines) == 5, failing.stderr
    assert "Traceback" not in failing.stderr

    dry = snakemake(tmp_path, "--dry-run")
    assert dry.stdout.splitlines()[0] == "train fl_dp/seed1  (missing output files)"
    assert dry.stdout.splitlines()[-1] == "2 jobs: 1 train, 1 all"

    assert snakemake(tmp_path).stderr.splitlines()[-1].startswith("done: 2 jobs in 0:0")
    assert snakemake(tmp_path).stderr.splitlines() == ["everything is up to date: nothing to be done"]
