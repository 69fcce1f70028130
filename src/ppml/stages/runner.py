"""How a stage is started: one thread, and one line instead of a traceback for what the user can mend."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from ppml.errors import UserError
from ppml.stages.threads import one_thread
from ppml.system_errors import describe_os_error


def run_stage(name: str, arguments: list[str]) -> None:
    """Import the stage ``name`` and run it with the options ``arguments``, as :func:`run` does."""
    # Before the libraries come, which read it once.
    one_thread()
    stage = importlib.import_module(f"ppml.stages.{name}")
    sys.argv = [str(stage.__file__), *arguments]
    run(stage.main)


def run(main: Callable[[], None]) -> None:
    """Run a stage and exit with status 1 and a line ``error: ...`` if it fails in a way that the user can mend."""
    one_thread()
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {describe_os_error(error, makes=_named_to_the_stage)}", file=sys.stderr)
        sys.exit(1)


def _named_to_the_stage(file: str) -> bool:
    """Return whether a file is one of those that the stage was given: the workflow makes each of them."""
    return Path(file).absolute() in {Path(option).absolute() for option in sys.argv[1:]}
