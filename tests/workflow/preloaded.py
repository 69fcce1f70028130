"""Python commands in processes that a server forks after the import of Snakemake, which takes half of a dry run.

The server imports third-party packages alone: each project has its own copy of :mod:`ppml`. A test that sends signals
to a command, or reads its command line, starts a Python of its own (:meth:`~tests.workflow.project.Project.start`).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("snakemake.cli", "snakemake.report", "snakemake_executor_plugin_slurm", "pydantic", "yaml")
"""The packages that nearly every command imports."""
_CONTEXT = multiprocessing.get_context("forkserver")


def run_python(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a Python command and return its status and its output.

    Parameters
    ----------
    arguments : sequence of str
        ``-m`` and a module, or ``-c`` and code; then the command's own arguments.
    folder : Path
        The working directory.
    environment : mapping of str to str
        All environment variables; the command starts with the umask of this process.
    """
    _CONTEXT.set_forkserver_preload(list(PACKAGES))
    os.umask(umask := os.umask(0))
    with tempfile.NamedTemporaryFile() as output:
        start = (list(arguments), str(folder), dict(environment), umask, output.name)
        process = _CONTEXT.Process(target=_run, args=start)
        process.start()
        try:
            process.join()
        finally:
            process.kill()
        status = process.exitcode
        assert status is not None
        return status, Path(output.name).read_text()


def _run(arguments: list[str], folder: str, environment: dict[str, str], umask: int, output: str) -> None:
    """Become the command."""
    _redirect(output)
    os.umask(umask)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    kind, command, *sys.argv[1:] = arguments
    sys.argv[0] = kind
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    given = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [folder if kind == "-m" else "", *given, *installed]
    if kind == "-m":
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c", kind
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(command, "<string>", "exec"), names)


def _redirect(output: str) -> None:
    """Read from nothing, and write all output to a file."""
    sys.stdout.flush()
    for path, descriptors in ((os.devnull, (0,)), (output, (1, 2))):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        for descriptor in descriptors:
            os.dup2(file, descriptor)
        os.close(file)
