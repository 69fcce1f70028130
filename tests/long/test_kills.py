"""A hundred kills at random times: after each, one more run gives the bytes of an undisturbed run.

``PPML_KILLS`` sets the number of kills. A tenth of the killed runs train all arms, the others one arm, so that the test
takes at most an hour on two cores.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

from tests.workflow.kills import (
    kill_job,
    kill_workflow,
    lose_power,
    lose_unwritten_files,
    remove_runs,
)
from tests.workflow.project import Project

KILLS = int(os.environ.get("PPML_KILLS", "100"))
ARMS = ("centralized", "dp", "local", "fl", "fl_shards", "fl_dirichlet", "fl_he", "fl_dp", "fl_dp_he")
WAYS = (kill_workflow, kill_job, lose_power)


def choose_arms(kill: int, rng: random.Random) -> list[str]:
    """Return the arms that a killed run trains."""
    return list(ARMS) if kill % 10 == 0 else [rng.choice(ARMS)]


def test_run_after_kill_gives_same_bytes(tmp_path: Path) -> None:
    first = Project(tmp_path)
    first.complete()
    expected = first.reproducible_files()
    assert len(expected) > 150
    undisturbed: dict[tuple[str, ...], float] = {}
    failures, lost, resumed = [], [], 0
    for kill in range(KILLS):
        rng = random.Random(kill)
        arms, way = choose_arms(kill, rng), rng.choice(WAYS)
        key = tuple(arms)
        if key not in undisturbed:
            remove_runs(first, arms)
            undisturbed[key] = _timed_run(first)
        remove_runs(first, arms)
        started = time.monotonic()
        run, moment = first.start(), rng.uniform(0.5, undisturbed[key])
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(moment)
        if run.poll() is None:
            way(run, rng)
        run.communicate()
        if way is lose_power:
            lose_unwritten_files(first, rng)
        disturbed = time.monotonic() - started
        again = time.monotonic()
        status, output = first.run()
        seconds = disturbed + time.monotonic() - again - undisturbed[key]
        same = first.reproducible_files() == expected
        lost.append(seconds)
        resumed += sum("resuming after round" in log.read_text() for log in _logs(first, arms))
        if status or not same:
            failures.append(f"kill {kill}: {way.__name__} after {moment:.1f} s, {key}: status {status}\n{output}")
        print(f"kill {kill}: {way.__name__} after {moment:.1f} s; lost {seconds:.1f} s; same {same}", flush=True)
    print(
        f"{KILLS} kills, {len(failures)} failures, {statistics.median(lost):.1f} s lost at the median, "
        f"{resumed} trainings resumed"
    )
    assert not failures, "\n".join(failures)


def _timed_run(project: Project) -> float:
    started = time.monotonic()
    project.complete()
    return time.monotonic() - started


def _logs(project: Project, arms: list[str]) -> list[Path]:
    folder = project.output_folder("logs") / "train"
    return [path for arm in arms for path in folder.glob(f"{arm}-seed*.log")]
