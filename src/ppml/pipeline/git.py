"""Answers of git about this project, and the reason if git does not answer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from ppml.errors import UserError

PATIENCE_SECONDS = 60.0
"""How long git may take: it reads two small files of every commit."""
QUIET = {
    # It must not wait for a password, a page or a lock.
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_PAGER": "cat",
    "GIT_OPTIONAL_LOCKS": "0",
    # Messages are compared.
    "LC_ALL": "C",
}
NO_HOOKS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
"""Programs of the repository's settings, which could wait for ever, are not started."""
REMEDIES = {
    "dubious ownership": "if you trust this folder: git config --global --add safe.directory {root}",
    "not a git repository": "work in a clone: git clone",
}


class GitError(UserError):
    """Git does not answer; the message is one line with the reason and a remedy."""


def ask_git(root: Path, *arguments: str) -> str:
    """Return the output of a git command.

    Parameters
    ----------
    root : Path
        The folder that it runs in.
    *arguments : str
        The command, which must only read.

    Raises
    ------
    GitError
        It is not installed, ended with an error, or did not end.
    """
    command = ["git", *NO_HOOKS, *arguments]
    try:
        # In a new session, so that the children of git end with it.
        with subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, **QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as git:
            try:
                said, complaint = git.communicate(timeout=PATIENCE_SECONDS)
            except BaseException as error:
                os.killpg(git.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    why = f"no answer within {PATIENCE_SECONDS:g} seconds; look at what it waits for"
                    raise GitError(f"git {arguments[0]}: {why}: git {' '.join(arguments)}") from None
                raise
    except FileNotFoundError:
        raise GitError(f"git {arguments[0]}: git is not installed, or its folder is not in PATH; install it") from None
    except OSError as error:
        raise GitError(f"git {arguments[0]}: git cannot be started: {error.strerror}") from None
    if git.returncode:
        raise GitError(f"git {arguments[0]}: {_reason(complaint, root) or f'it ended with status {git.returncode}'}")
    return said


def _reason(complaint: str, root: Path) -> str:
    """Return the complaint of git in one line, with a remedy."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    said = next((line for line in lines if re.match("fatal|error", line)), next(iter(lines), ""))
    said = re.sub("^(fatal|error): ", "", said).rstrip(".")
    return "; ".join([said, *(text.format(root=root) for sign, text in REMEDIES.items() if sign in said)])


def is_shallow(root: Path) -> bool:
    """Tell whether the clone lacks older commits."""
    return ask_git(root, "rev-parse", "--is-shallow-repository").strip() == "true"


def changed_files(root: Path, *paths: str) -> list[str]:
    """Return a line for each file at ``paths`` that differs from the last commit, or that no commit has."""
    return ask_git(root, "status", "--porcelain", "--", *paths).splitlines()


def history(root: Path, path: str) -> str:
    """Return the changes of a file in all commits that the clone has, as patches."""
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-show-signature")
    return ask_git(root, "log", "--all", "--patch", *plain, "--format=", "--", path)
