"""The start of a stage: the settings of every job, and one-line messages for errors that the user can correct."""

from __future__ import annotations

import importlib
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
    with record_job(last, [job.spec_text, job.digest]):
        run(lambda: stage.run(job), files={*job.inputs.values(), *job.outputs.values()})


def run(main: Callable[[], None], files: Collection[Path] = ()) -> None:
    """Call ``main``, and exit with status 1 and a line ``error: ...`` after an error that the user can correct.

    Parameters
    ----------
    main : callable
        The main function of a stage or a command.
    files : collection of Path
        The files of the job; an error about one of them names the command that makes it.
    """
    use_one_thread()
    with exit_on_error(files):
        main()


@contextmanager
def exit_on_error(files: Collection[Path] = ()) -> Iterator[None]:
    """Exit as :func:`run` does after an error in the block."""
    own_files = {path.absolute() for path in files}
    try:
        yield
    except (UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            message = describe_os_error(error, makes=lambda file: Path(file).absolute() in own_files)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
