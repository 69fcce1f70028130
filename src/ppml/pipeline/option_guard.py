"""What Snakemake is asked to do, looked at before it does it: nothing may count as made that was not made.

Options come from the command line, from a profile of the project, the user or the environment, or from a program. They
are all in Snakemake's settings by the time that it plans a run, and are looked at there.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job
from snakemake.settings.types import PersistenceBackend, RerunTrigger

from ppml.errors import UserError

LARGEST_COMPARED = 10**12
"""Bytes up to which files are compared by content, as in profiles/default: 1TB."""
WHY = "here content decides what is up to date, never a time or a promise"


class Preparation(Protocol):
    """What is done to the folder before jobs run, as by :class:`provenance.Provenance`."""

    def prepare(self) -> None:
        """Do it."""

    def adoptions(self) -> Iterable[object]:
        """Return what of it is worth a line each in a dry run, in which nothing is written."""


def guard(workflow: Any, preparation: Preparation | None) -> None:
    """Have Snakemake's workflow refuse options that weaken what decides, and prepare the folder before it runs jobs.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow
        The workflow that is being read.
    preparation : Preparation or None
        What is done before jobs are planned that will run; None where another run is at work in the folder.
    """
    execute, prepare_dag = workflow.execute, workflow._prepare_dag

    def guarded(executor_plugin: Any, *arguments: Any, **options: Any) -> Any:
        """Run jobs, or show which."""
        common = executor_plugin.common_settings
        if common.touch_exec:
            _refuse("--touch", "it would record as made what was not; to have something made again: --forcerun")
        if workflow.is_main_process:
            for option, why in weaker_execution(workflow.execution_settings):
                _refuse(option, why)
            if preparation:
                Job.check_protected_output = require_not_frozen
                _prepare(preparation, dryrun=common.dryrun_exec)
        return execute(executor_plugin, *arguments, **options)

    def looked_at(*arguments: Any, **options: Any) -> Any:
        """Plan what is to be done."""
        if workflow.is_main_process:
            for option, why in weaker_plan(workflow.dag_settings, workflow.workflow_settings):
                _refuse(option, why)
        return prepare_dag(*arguments, **options)

    workflow.execute, workflow._prepare_dag = guarded, looked_at


def _prepare(preparation: Preparation, *, dryrun: bool) -> None:
    if dryrun:
        for adoption in preparation.adoptions():
            print(f"a run does this first: {adoption}", file=sys.stderr)
        return
    try:
        preparation.prepare()
    except UserError as error:
        sys.exit(f"error: {error}")


async def require_not_frozen(job: Job) -> None:
    """Raise a :class:`WorkflowError` if an output that would be made again is one that its owner has write-protected.

    A hard link or a symbolic link into DVC's cache is write-protected, too, but its name alone is given up: Snakemake
    removes it before the job runs, and the cache keeps its file.
    """
    for file in map(str, job.output):
        with suppress(FileNotFoundError):
            found = os.lstat(file)
            if stat.S_ISREG(found.st_mode) and not found.st_mode & stat.S_IWUSR and found.st_nlink == 1:
                raise WorkflowError(
                    f"{file} would be made again, and is write-protected; to allow it: chmod u+w {shlex.quote(file)}, "
                    "or where DVC protected it: .venv/bin/dvc unprotect data artifacts"
                )


def weaker_plan(dag: Any, settings: Any) -> Iterator[tuple[str, str]]:
    """Yield each option by which less would decide whether a job has to run, and why it is refused."""
    missing = RerunTrigger.all() - set(dag.rerun_triggers)
    if missing:
        names = ", ".join(sorted(str(trigger) for trigger in missing))
        yield "--rerun-triggers", f"it leaves out {names}; {WHY}"
    if dag.max_checksum_file_size < LARGEST_COMPARED:
        yield (
            "--max-checksum-file-size",
            f"of files above {dag.max_checksum_file_size} bytes the time would decide; {WHY}",
        )
    if dag.trust_io_cache:
        yield "--trust-io-cache", f"what lies here may have changed since; {WHY}"
    if settings.consider_ancient:
        yield "--consider-ancient", f"changes of these inputs would not count; {WHY}"
    if settings.persistence_backend is not PersistenceBackend.FILE:
        yield "--persistence-backend", "the record book is made of the records in .snakemake/metadata"


def weaker_execution(settings: Any) -> Iterator[tuple[str, str]]:
    """Yield each option by which a run would leave a wrong record or none, and why it is refused."""
    if settings.ignore_incomplete:
        yield (
            "--ignore-incomplete",
            "what an interrupted job has left would count as made; without it, it is made again",
        )
    if not settings.keep_metadata:
        yield "--drop-metadata", "nobody would know how the files were made, and the next run would make them again"
    if settings.no_hooks:
        yield "--no-hooks", "a hook checks that the pinned packages are installed, and another saves the record book"


def _refuse(option: str, why: str) -> None:
    sys.exit(f"error: {option} is refused (on the command line, or in a profile: SNAKEMAKE_PROFILE, --profile): {why}")
