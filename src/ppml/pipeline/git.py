"""Read-only git commands, and the reason of a failure in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from ppml.errors import UserError

TIMEOUT_SECONDS = 60.0
"""Seconds for a git command, which reads two small files of every commit."""
QUIET = {
    # Git must not wait for a password, a pager or a lock.
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_PAGER": "cat",
    "GIT_OPTIONAL_LOCKS": "0",
    # Messages are compared.
    "LC_ALL": "C",
}
NO_HOOKS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
"""Options against programs in the repository's settings, which could hang."""
REMEDIES = {
    "dubious ownership": "if you trust this folder: git config --global --add safe.directory {root}",
    "not a git repository": "work in a clone: git clone",
}


class GitError(UserError):
    """Git failed; the message is one line with the reason and a remedy."""


def ask_git(root: Path, *arguments: str) -> str:
    """Return the output of a git command.

    Parameters
    ----------
    root : Path
        The working folder of the command.
    *arguments : str
        The command, which must be read-only.

    Raises
    ------
    GitError
        Git is not installed, failed, or did not end in time.
    """
    command = ["git", *NO_HOOKS, *arguments]
    try:
        # A new session is a process group, so that the children of git can be killed, too.
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
                output, errors = git.communicate(timeout=TIMEOUT_SECONDS)
            except BaseException as error:
                os.killpg(git.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    why = f"no answer within {TIMEOUT_SECONDS:g} seconds; it waits for input or a lock"
                    raise GitError(f"git {arguments[0]}: {why}: git {' '.join(arguments)}") from None
                raise
    except FileNotFoundError:
        raise GitError(f"git {arguments[0]}: git is not installed, or its folder is not in PATH; install it") from None
    except OSError as error:
        raise GitError(f"git {arguments[0]}: git cannot be started: {error.strerror}") from None
    if git.returncode:
        raise GitError(f"git {arguments[0]}: {_reason(errors, root) or f'it ended with status {git.returncode}'}")
    return output


def _reason(errors: str, root: Path) -> str:
    """Return the error of git in one line, with a remedy."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    reason = next((line for line in lines if re.match("fatal|error", line)), next(iter(lines), ""))
    reason = re.sub("^(fatal|error): ", "", reason).rstrip(".")
    return "; ".join([reason, *(text.format(root=root) for sign, text in REMEDIES.items() if sign in reason)])


def is_shallow(root: Path) -> bool:
    """Return whether the clone lacks older commits."""
    return ask_git(root, "rev-parse", "--is-shallow-repository").strip() == "true"


def changed_files(root: Path, *paths: str) -> list[str]:
    """Return a line for each file at ``paths`` that is untracked or differs from the last commit."""
    return ask_git(root, "status", "--porcelain", "--", *paths).splitlines()


def history(root: Path, path: str) -> str:
    """Return the changes of a file in all commits of the clone, as patches."""
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-show-signature")
    return ask_git(root, "log", "--all", "--patch", *plain, "--format=", "--", path)
