"""How a stage is started: one thread, and one line instead of a traceback for what the user can mend."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable

from ppml.errors import UserError
from ppml.stages.threads import one_thread


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
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        sys.exit(1)


def describe_os_error(error: OSError) -> str:
    """Return one line that names the file and what can be done."""
    advice = {
        errno.ENOSPC: "free space on that disk, or set `folders` in the configuration to another one",
        errno.EDQUOT: "free space in that quota, or set `folders` in the configuration to another disk",
        errno.EACCES: "grant write permission, or set `folders` in the configuration to a folder that is yours",
        errno.EROFS: "set `folders` in the configuration to a disk that can be written",
        errno.ENOENT: "the workflow makes this file: run `make results`",
    }.get(error.errno or 0)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}" + (f"; {advice}" if advice else "")
