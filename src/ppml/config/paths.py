"""Paths of folders as a user writes them: ``~`` and variables of the environment are expanded once."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

_VARIABLE = re.compile(r"(?:(?<=/)|(?<=^))\$(?P<part>[A-Za-z_]\w*)(?=/|$)|\$\{(?P<name>[^{}]*)\}", re.ASCII)
_PLACEHOLDER = re.compile(r"[{}]|<[a-z][a-z0-9_]*>")
"""Wildcards of Snakemake, and its names of other paths."""


def expand_path(text: str) -> str:
    """Return a path without ``~``, ``$NAME``, doubled slashes and a slash at the end.

    A path may begin with ``~`` or ``~user``. A part between slashes may be ``$NAME``, and ``${NAME}`` may stand
    anywhere. Elsewhere these signs are characters like others, also where a shell would replace them.

    Raises
    ------
    ValueError
        The path is empty, is an address, holds a control character, or names a user or a variable that does not exist.

    Examples
    --------
    >>> os.environ["SCRATCH"] = "/scratch/me"
    >>> expand_path("$SCRATCH/${SCRATCH}//runs/")
    '/scratch/me/scratch/me/runs'
    >>> expand_path("it's 5 $ ~ each")
    "it's 5 $ ~ each"
    """
    if not text.strip():
        raise ValueError("expected the path of a folder")
    if re.match(r"\w+://", text):
        raise ValueError("an address is not allowed; expected the path of a folder on this machine")
    path = _VARIABLE.sub(_value, _home(text))
    if any(unicodedata.category(sign) == "Cc" for sign in path):
        raise ValueError("a path with a line break, or another control character, is not allowed")
    return str(Path(path))


def expand_output_folder(text: str) -> str:
    """Return :func:`expand_path` for a folder that the workflow writes into.

    Raises
    ------
    ValueError
        As for :func:`expand_path`; or the path has a placeholder of Snakemake.
    """
    path = expand_input_file(text)
    # As a relative path it would be taken for an option.
    return str(Path(path).absolute()) if path.startswith("-") else path


def expand_input_file(text: str) -> str:
    """Return :func:`expand_path` for a file that a job of the workflow reads.

    Raises
    ------
    ValueError
        As for :func:`expand_path`; or the path has a placeholder of Snakemake.
    """
    path = expand_path(text)
    if found := _PLACEHOLDER.search(path):
        raise ValueError(f"the path {path} holds {found[0]}, which Snakemake replaces; use another name")
    return path


def _home(text: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        user = text[1:].partition("/")[0]
        raise ValueError(
            f"there is no user {user!r}; a folder whose name begins with '~' is written './{text}'"
        ) from None


def _value(found: re.Match[str]) -> str:
    name = found["part"] or found["name"] or ""
    value = os.environ.get(name, "")
    if not value:
        raise ValueError(f"the environment variable {name or '(no name)'} is not set, or is empty")
    return value
