import os
import signal
import subprocess
import sys
import time

import pytest

from ppml.errors import UserError
from ppml.jobs.parallel_map import parallel_map

from .processes import alive, soon


def square_and_process(item):
    time.sleep(0.05)
    return item * item, os.getpid()


def refuse_three(item):
    if item == 3:
        raise UserError("three")
    return item


@pytest.mark.parametrize("workers", [1, 3])
def test_each_item_is_calculated_once_in_order(workers):
    found = parallel_map(square_and_process, [5, 3, 5, 8, 3, 1], workers, "squares")
    assert [(item, value) for item, (value, _) in found.items()] == [(5, 25), (3, 9), (8, 64), (1, 1)]
    processes = {process for _, process in found.values()}
    assert (processes == {os.getpid()}) if workers == 1 else (os.getpid() not in processes and len(processes) > 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_an_item_is_raised(workers):
    with pytest.raises(UserError, match=r"^three$"):
        parallel_map(refuse_three, range(20), workers, "numbers")


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_reported_at_intervals(workers, monkeypatch):
    monkeypatch.setattr("ppml.jobs.parallel_map.REPORT_SECONDS", 0.1)
    lines = []
    parallel_map(square_and_process, range(12), workers, "squares", lines.append)
    assert 1 <= len(lines) <= 7
    assert all(line.startswith("squares: ") and " of 12, about " in line for line in lines)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from ppml.jobs.parallel_map import parallel_map\n"
        "def calculate(item):\n"
        "    Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(60)\n"
        "parallel_map(calculate, range(2), 2, 'sleep')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    assert soon(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert soon(lambda: not any(map(alive, workers)), 60)
