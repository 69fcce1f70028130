"""The environment of jobs: their Python, code and data, and checks of its paths and packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import ppml
from ppml.config.model import Config
from ppml.errors import UserError
from ppml.ipc import parent_watch
from ppml.pipeline.code_snapshot import copy_code
from ppml.preflight import resolve_data
from ppml.project import LOCK_FILE
from ppml.system_errors import describe_os_error

ENV_FALLBACK = "PPML_FALLBACK"
"""The environment variable with the data set that replaces all others; empty without a replacement."""
ENV_CODE = "PPML_CODE"
"""The environment variable with the folder of the jobs' package."""


def set_job_environment(*, main: bool, copy: bool = True) -> Path:
    """Set the Python, the code and the parent process of jobs in their environment.

    Parameters
    ----------
    main : bool
        Whether this process plans the run. The process of a single job, perhaps on another machine, uses the same code.
    copy : bool
        Whether jobs run, and so need a copy of the code.

    Returns
    -------
    Path
        The folder of the jobs' package.

    Raises
    ------
    UserError
        A folder's name has a path separator, or the current folder is not writable.
    """
    for folder in (Path.cwd(), Path(sys.executable).parent):
        if os.pathsep in str(folder):
            raise UserError(
                f"the path {folder} has {os.pathsep!r}, which separates the folders of PATH and PYTHONPATH; move or "
                "rename the folder"
            )
    # Jobs find Python also in an environment that is not active.
    _prepend("PATH", Path(sys.executable).parent)
    os.environ[parent_watch.ENV_PARENT] = str(os.getpid())
    if not main:
        return Path(os.environ.get(ENV_CODE, ppml.__path__[0]))
    if not copy:
        return Path(ppml.__path__[0])
    try:
        code = copy_code(Path(ppml.__path__[0]))
    except OSError as error:
        raise UserError(
            f"{describe_os_error(error)}; the workflow keeps records below .snakemake in the current folder; for "
            "another one, use `snakemake -d FOLDER`"
        ) from None
    _prepend("PYTHONPATH", code.parent)
    os.environ[ENV_CODE] = str(code)
    return code


def _prepend(variable: str, folder: Path) -> None:
    others = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    os.environ[variable] = os.pathsep.join([str(folder), *others])


def resolve_fallback(config: Config, *, main: bool) -> str | None:
    """Return the data set that replaces all others, or None; ``main`` as for :func:`set_job_environment`."""
    if main or ENV_FALLBACK not in os.environ:
        os.environ[ENV_FALLBACK] = resolve_data(config, Path(config.folders.data) / "raw") or ""
    return os.environ[ENV_FALLBACK] or None


def require_pins(pins: Mapping[str, str]) -> None:
    """Raise a :class:`UserError` unless the installed packages are the pinned ones, which records of results name."""
    for name, pin in pins.items():
        installed = version(name).partition("+")[0]
        if installed not in [line.partition(";")[0].strip() for line in pin.split(" | ")]:
            raise UserError(
                f"{name} {installed} is installed, {LOCK_FILE.name} pins {pin}; run `make environment`, or pip "
                "as environment.yml does"
            )


def require_shell_safe_paths(*, executable: str = sys.executable) -> None:
    """Exit if a path has characters that a shell replaces inside double quotes: executors quote commands so."""
    for path in (str(Path.cwd()), executable):
        if found := sorted(set(path) & set('"$`\\')):
            sys.exit(
                f"error: the path {path} has {' '.join(found)}, which a shell replaces in commands for other machines; "
                "use another folder"
            )
