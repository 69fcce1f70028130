"""A real Slurm of one node on loopback, for the duration of a command.

``python tests/long/slurm_node.py COMMAND...`` starts munged, slurmctld and slurmd, waits until the node is idle, runs
the command with ``SLURM_CONF`` set, and then stops Slurm and removes its files, also after an error, Ctrl-C or SIGTERM.
All files are in a temporary folder: another Slurm of the machine does not change. The exit status is that of the
command; 77: Slurm cannot run on this machine, and standard error has the reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

CANNOT = 77
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("munge", "sbatch", "scancel", "sinfo", "squeue", "srun")
# A user's path often lacks the daemons' folders.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
START_SECONDS, STOP_SECONDS = 60, 30
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# No cgroups, so that Slurm also runs in a container: it measures the memory of a job every five seconds instead, and
# kills a job above its limit. No accounting: it needs a database.
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def obstacle() -> str:
    """Return the reason why Slurm cannot start on this machine; empty without one."""
    missing = [program for program in (*DAEMONS, *CLIENTS) if not shutil.which(program, path=SEARCH)]
    if missing:
        return f"not installed: {', '.join(missing)} (on Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "slurmd must be started by root"
    return ""


@contextlib.contextmanager
def slurm_node() -> Iterator[dict[str, str]]:
    """Start Slurm, yield the environment for its commands, and stop it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-node-"))
    # All users need munged's socket in this folder; only its owner can read the key.
    folder.chmod(0o755)
    daemons: list[subprocess.Popen[bytes]] = []
    environment = _environment(folder)

    def start(name: str, *arguments: str) -> None:
        program = shutil.which(name, path=SEARCH)
        assert program
        with (folder / f"{name}.log").open("wb") as log:
            daemons.append(
                # In a new session: Ctrl-C in the terminal must not stop the daemons before the jobs.
                subprocess.Popen(
                    [program, *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def wait_for(state: str, is_reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_reached():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
                logs = [f"--- {path.name}\n{_tail(path)}" for path in sorted(folder.glob("*.log"))]
                raise RuntimeError("\n".join([f"Slurm did not start: no {state}", *logs]))
            time.sleep(0.2)

    def query(*command: str) -> str:
        with contextlib.suppress(subprocess.SubprocessError):
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
        return ""

    try:
        _write_configuration(folder)
        # --force: other users' permission to write to the temporary folder is a warning, not an error.
        munge_files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "seed")]
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge_files)
        wait_for("munged", lambda: query("munge", "-n", "-S", f"{folder}/munge.socket") != "")
        start("slurmctld", "-D", "-f", environment["SLURM_CONF"])
        start("slurmd", "-D", "-f", environment["SLURM_CONF"])
        wait_for("idle node", lambda: query("sinfo", "-h", "-o", "%T") == "idle")
        yield environment
    finally:
        _stop(daemons, environment)
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with the configuration of this Slurm, and without variables of another."""
    foreign = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SCANCEL_")
    ours = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    path = os.pathsep.join([str(folder / "bin"), SEARCH])
    return {**ours, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}


def _write_configuration(folder: Path) -> None:
    for name in ("bin", "state", "spool"):
        (folder / name).mkdir()
    # Snakemake's executor removes SLURM_CONF from the environment of srun inside a job.
    srun = folder / "bin" / "srun"
    real = shlex.quote(shutil.which("srun", path=SEARCH) or "srun")
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(folder / "slurm.conf"))} exec {real} "$@"\n')
    srun.chmod(0o755)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (first, second)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().split(".")[0],
            controller_port=ports[0],
            node_port=ports[1],
            cpus=len(os.sched_getaffinity(0)),
            memory=memory,
        )
    )


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _stop(daemons: list[subprocess.Popen[bytes]], environment: dict[str, str]) -> None:
    """Cancel all jobs, stop the daemons in reverse order, and kill the remaining processes."""
    _ignore_signals()
    if len(daemons) == len(DAEMONS):
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "--partition=main"], env=environment, capture_output=True, timeout=10)
            deadline = time.monotonic() + STOP_SECONDS
            while (
                time.monotonic() < deadline
                and subprocess.run(["squeue", "-h"], env=environment, capture_output=True, timeout=10).stdout.strip()
            ):
                time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    # Jobs and their step daemons are no children of the daemons, but their environments have the configuration's path.
    mark = f"SLURM_CONF={environment['SLURM_CONF']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _exit_on_signal(number: int, _: object) -> NoReturn:
    _ignore_signals()
    sys.exit(128 + number)


def _ignore_signals() -> None:
    # A second Ctrl-C must not interrupt the removal.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def main(command: list[str]) -> int:
    """Run ``command`` beside a Slurm node and return its exit status."""
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    reason = obstacle()
    if reason:
        print(f"slurm_node: {reason}", file=sys.stderr)
        return CANNOT
    for each in SIGNALS:
        signal.signal(each, _exit_on_signal)
    # Linux sends SIGTERM when the parent process ends, also after a kill.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    # In a new session: after any interrupt of this script, the command gets exactly one SIGINT.
    with slurm_node() as environment, subprocess.Popen(command, env=environment, start_new_session=True) as running:
        try:
            status = running.wait()
            return status if status >= 0 else 128 - status
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(STOP_SECONDS)
                running.kill()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, RuntimeError) as error:
        sys.exit(f"slurm_node: {error}")
