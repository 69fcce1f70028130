"""The start of a stage: the settings of every job, and one-line messages for errors that the user can correct."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ppml.errors import UserError
from ppml.jobs.job import Job
from ppml.jobs.record import record_job
from ppml.jobs.threads import make_deterministic, use_one_thread
from ppml.system_errors import describe_os_error


def run_stage(name: str, arguments: list[str]) -> None:
    """Import the stage ``name``, and run it with the options ``arguments`` as :func:`run` does."""
    # Libraries read the number of threads during their import.
    use_one_thread()
    stage = importlib.import_module(f"ppml.stages.{name}")
    if "torch" in sys.modules:
        make_deterministic()
    job = Job.parse(arguments)
    last = str(list(job.outputs.values())[-1]) if job.outputs else None
    with record_job(last, [job.spec_text, job.digest]), exit_on_error({*job.inputs.values(), *job.outputs.values()}):
        stage.run(job)


def run(main: Callable[[], None]) -> None:
    """Call the main function of a command as in :func:`printing`, with one thread."""
    use_one_thread()
    with printing():
        main()


@contextmanager
def printing() -> Iterator[None]:
    """Exit as :func:`exit_on_error` does, and silently if the reader of the output ends first, as ``head`` does.

    The status is then that of a program that the signal SIGPIPE ends. Lines for a closed output go nowhere.
    """
    _replace_closed_outputs()
    with exit_on_error():
        try:
            try:
                yield
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # The broken pipe may be another one, for instance to a remote.
            if _has_reader():
                raise
            # Python writes the rest of its buffer at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)


def _replace_closed_outputs() -> None:
    """Open the null device in place of an output that is closed, as by ``>&-``."""
    for name in ("stdout", "stderr"):
        # Python has None there: it has no method, and `print` with the file None writes to the other output.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (open until the end)


def _has_reader() -> bool:
    """Return whether another process can read the output, or may."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))


@contextmanager
def exit_on_error(files: Collection[Path] = ()) -> Iterator[None]:
    """Exit with status 1 and a line ``error: ...`` after an error in the block that the user can correct.

    Parameters
    ----------
    files : collection of Path
        The files of the job; an error about one of them names the command that makes it.
    """
    own_files = {path.absolute() for path in files}
    try:
        yield
    except (UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            message = describe_os_error(error, makes=lambda file: Path(file).absolute() in own_files)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
