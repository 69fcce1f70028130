"""Publish data and artifacts: add them to DVC, send absent objects to the remote, and print the command for git.

Only a complete tree is published, since readers rely on it; and only public data sets.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from ppml.errors import UserError
from ppml.io.atomic import write_bytes
from ppml.jobs.runner import run
from ppml.pipeline.dvc_remote import (
    DVC_FILES,
    TRACKED,
    Objects,
    count_files,
    open_repo,
    some_lines,
    tracked_lists,
)
from ppml.pipeline.git import GitError, changed_files
from ppml.pipeline.job_status import JobRecords
from ppml.pipeline.plan import Plan
from ppml.pipeline.published_configs import published_configurations
from ppml.pipeline.published_files import is_publishable, private_runs
from ppml.pipeline.status import job_records, read_plan, unfinished
from ppml.pipeline.workflow_lock import WorkflowLock


def require_public_data(plan: Plan, configfile: str) -> None:
    """Raise a :class:`UserError` unless the data are public, no fallback, and redistributable in figures."""
    if not plan.public:
        contracts = {name: plan.config.dataset(name).contract for name in plan.datasets()}
        private = [name for name, contract in contracts.items() if not contract.public]
        raise UserError(
            f"{configfile} is not for publishing: the data of {', '.join(private)} are not public; move its results to "
            "another folder (folders.artifacts), or state public: true in an entry of public data"
        )
    if plan.fallback:
        raise UserError(f"{configfile} is not for publishing: the data are the fallback {plan.fallback}")
    shown = {plan.dataset(arm) for arm, seed in plan.runs if plan.pictured({"arm": arm, "seed": str(seed)})}
    if kept := sorted(name for name in shown if not plan.config.dataset(name).redistributable):
        raise UserError(
            f"{configfile} is not for publishing: the figure predictions shows pictures of {', '.join(kept)}, which "
            "may not be passed on; remove the figure"
        )


def require_finished(records: Mapping[str, JobRecords]) -> None:
    """Raise a :class:`UserError` that names the missing and stale files of each configuration."""
    stale = {configfile: lines for configfile, own in records.items() if (lines := unfinished(own))}
    if stale:
        count = count_files([line for lines in stale.values() for line in lines])
        parts = [f"`make results CONFIG={configfile}`:\n{some_lines(lines)}" for configfile, lines in stale.items()]
        raise UserError("\n".join([f"{count} missing or stale, so nothing is published; first", *parts]))


def require_public_runs(root: Path, repo: Repo) -> None:
    """Raise a :class:`UserError` that names the runs on data that are not public, outside ``.dvcignore``."""
    runs = private_runs(root)
    if private := [run for run in runs if not repo.dvcignore.is_ignored(repo.fs, str(root / run / "config.json"))]:
        raise UserError(
            "results on data that are not public are not published; move these runs to another folder "
            f"(folders.artifacts of their configuration), or name them in .dvcignore:\n{some_lines(private)}"
        )


def unexpected(root: Path, repo: Repo) -> list[str]:
    """Return the files in the folders, except results of public data and files in ``.dvcignore``."""
    found = []
    for folder, names, files in (entry for top in TRACKED for entry in os.walk(root / top)):
        # DVC would publish the files of the target of a link.
        links = [name for name in names if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in (*files, *links)):
            name = path.relative_to(root).as_posix()
            if path.is_symlink() or not is_publishable(name):
                found.append(name)
    return [name for name in found if not repo.dvcignore.is_ignored(repo.fs, str(root / name))]


def _about_links(root: Path, names: Sequence[str]) -> str:
    """Return advice if some files are links into DVC's cache, else an empty text."""
    cache = (root / ".dvc/cache").resolve()
    links = [name for name in names if (root / name).is_symlink() and (root / name).resolve().is_relative_to(cache)]
    advice = "links into DVC's cache (cache.type) become files by: .venv/bin/dvc unprotect data artifacts"
    return f"\n{advice}" if links else ""


def add(root: Path, repo: Repo) -> tuple[dict[str, str], dict[Path, bytes]]:
    """Add the folders to DVC's cache; return the names of their lists, and the new content of the ``.dvc`` files.

    The ``.dvc`` files keep their content: a commit before the transfer would name objects that the remote lacks.
    """
    paths = [root / name for name in DVC_FILES]
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        repo.add(list(TRACKED))
        return tracked_lists(root), {path: path.read_bytes() for path in paths}
    except DvcException as error:
        raise UserError(f"dvc add: {error}") from None
    finally:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != content:
                write_bytes(path, content)


def publish(root: Path) -> None:
    """Publish ``data/`` and ``artifacts/``, with the results of all published configurations.

    Raises
    ------
    UserError
        The message names the reason; ``data.dvc`` and ``artifacts.dvc`` keep their content.
    """
    plans = {configfile: read_plan([configfile]) for configfile in published_configurations(root)}
    for configfile, plan in plans.items():
        require_public_data(plan, configfile)
    records = {configfile: job_records(plan) for configfile, plan in plans.items()}
    require_finished(records)
    with open_repo(root) as repo:
        others = unexpected(root, repo)
        if others:
            raise UserError(
                "only results of the public data sets of config/datasets.yaml are published; move other files "
                "to another folder (folders.data, folders.artifacts), or name them in .dvcignore:\n"
                f"{some_lines(others)}{_about_links(root, others)}"
            )
        require_public_runs(root, repo)
        # Check the remote and the .dvc files before the data are read.
        objects = Objects(repo)
        remote = objects.remote
        tracked_lists(root)
        # A clone needs the records of pulled files.
        for own in records.values():
            own.save_book()
        lists, contents = add(root, repo)
        files = objects.files(lists)
        digests = {file.digest for file in files}
        # DVC does not compare the bytes of write-protected objects, which a power cut may have damaged.
        damaged = [name for name in (*lists.values(), *digests) if not objects.has(name)]
        if damaged:
            raise UserError(f"{count_files(damaged)} of .dvc/cache were damaged and are removed; `make publish` again")
        sent = objects.send(digests)
        # A list in the remote promises its files, so the files are first.
        objects.send(lists.values())
        for path, content in contents.items():
            write_bytes(path, content)
    size = sum(objects.path(file.digest).stat().st_size for file in files)
    news = f"{sent} of {len(digests)} contents are new"
    print(f"published {count_files(files)}, {size / 1e6:,.1f} MB, in {remote}: {news}")
    print(what_to_commit(root))


def what_to_commit(root: Path) -> str:
    """Return the command for the commit, or the reason if git fails."""
    paths = [*DVC_FILES, "reports"]
    command = f"git add {' '.join(paths)} && git commit -m 'Publish results'"
    try:
        changed = changed_files(root, *paths)
    except GitError as error:
        return f"warning: whether the last commit names these files is not known ({error}); if it does not: {command}"
    if not changed:
        return "nothing to commit: the last commit names these files"
    return f"commit the new lists: {command}"


def main(argv: Sequence[str] | None = None) -> None:
    """Publish the project in the current folder."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args(argv)
    # Libraries log a traceback for each error; the message has the reason in one line.
    logging.disable()
    try:
        WorkflowLock().require()
        publish(Path.cwd())
    except KeyboardInterrupt:
        raise UserError(
            "interrupted; data.dvc and artifacts.dvc keep their content: `make publish` again sends the rest"
        ) from None


if __name__ == "__main__":
    run(main)
