"""Commands on a checkout of the project, by the code of this checkout."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ppml.errors import UserError

WORKFLOW_PACKAGES = ("snakemake", "dvc")
"""Packages of the extra ``workflow`` without which no command on a checkout runs."""


def run_in_checkout(module: str, arguments: Sequence[str]) -> None:
    """Replace this process by a module of the package in the current folder.

    An installed wheel may be older or newer than the checkout, whose results and records belong to its own code.

    Raises
    ------
    UserError
        The current folder is no checkout, or a package is missing.
    """
    source = Path.cwd() / "src"
    if not (Path("Snakefile").is_file() and (source / "ppml").is_dir()):
        raise UserError(
            f"{Path.cwd()}: is no checkout of the project; start the command in the folder of the Snakefile"
        )
    absent = [name for name in WORKFLOW_PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f"the package {absent[0]} is not installed; pip install 'ppml-comparison[workflow]'")
    others = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *([others] if others else [])])
    os.execv(sys.executable, [sys.executable, "-B", "-m", module, *arguments])
