"""Publish data and artifacts: add them to DVC, send missing objects to the remote, and print what to commit.

Only a complete tree is published, since readers rely on it; and only public data sets.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from ppml.errors import UserError
from ppml.io.atomic import write_bytes
from ppml.pipeline.dvc_remote import (
    DVC_FILES,
    TRACKED,
    Cache,
    DirectoryManifests,
    Remote,
    count_files,
    open_repo,
    some_lines,
    tracked,
)
from ppml.pipeline.git import GitError, changed_files
from ppml.pipeline.plan import Plan
from ppml.pipeline.project import DEFAULT_CONFIG
from ppml.pipeline.published_files import is_publishable
from ppml.pipeline.run_lock import RunLock
from ppml.system_errors import describe_os_error


@dataclass(frozen=True)
class Checks:
    """Checks before anything is published.

    Parameters
    ----------
    unfinished : callable
        Configuration files -> a line for each result that is missing or stale.
    save_book : callable
        Configuration files -> writes the record book, so that a clone has the records of pulled files.
    """

    unfinished: Callable[[list[str]], list[str]]
    save_book: Callable[[list[str]], None]

    @classmethod
    def of_workflow(cls) -> Checks:
        """Return the checks of the workflow; they import Snakemake."""
        from ppml.pipeline.status import save_book, unfinished

        return cls(unfinished, save_book)


def require_published_folders(configfiles: list[str]) -> None:
    """Raise a :class:`UserError` unless the data are published and lie in the folders that DVC tracks."""
    plan = Plan.check({}, configfiles)
    if not plan.redistributable:
        contracts = {name: plan.config.dataset(name).contract for name in plan.datasets()}
        private = [name for name, contract in contracts.items() if not contract.redistributable]
        raise UserError(
            f"{', '.join(configfiles)} is not for publishing: the data of {', '.join(private)} are not published"
        )
    for key, folder in (("data", plan.paths.data), ("artifacts", plan.paths.artifacts)):
        if Path(folder).parts[:1] != (key,):
            why = f"the data are the fallback {plan.fallback}" if plan.fallback else f"folders.{key}: {folder}"
            raise UserError(f"{', '.join(configfiles)} is not for publishing: {why}; what is published lies in {key}/")


def unexpected(root: Path, repo: Repo) -> list[str]:
    """Return files in the folders that the workflow does not make from public data, except files that DVC ignores."""
    found = []
    for folder, names, files in (entry for top in TRACKED for entry in os.walk(root / top)):
        # A link leads to another folder, whose files would be published.
        links = [name for name in names if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in (*files, *links)):
            name = path.relative_to(root).as_posix()
            if path.is_symlink() or not is_publishable(name):
                found.append(name)
    return [name for name in found if not repo.dvcignore.is_ignored(repo.fs, str(root / name))]


def _about_links(root: Path, names: Sequence[str]) -> str:
    """Return a line about those of some files that are links into DVC's cache, empty if none is."""
    cache = (root / ".dvc/cache").resolve()
    links = [name for name in names if (root / name).is_symlink() and (root / name).resolve().is_relative_to(cache)]
    advice = "links into DVC's cache (cache.type) become files by: .venv/bin/dvc unprotect data artifacts"
    return f"\n{advice}" if links else ""


def add(root: Path, repo: Repo, cache: Cache) -> tuple[dict[str, str], dict[Path, bytes]]:
    """Add the folders to DVC's cache; return the name of each folder's list, and the ``.dvc`` files to be written.

    The ``.dvc`` files stay as they were: committed too early, they would name files that are not in the remote.

    Raises
    ------
    UserError
        A file did not get into the cache whole.
    """
    paths = [root / name for name in DVC_FILES]
    before = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        for _ in range(2):
            repo.add(list(TRACKED))
            lists = DirectoryManifests(tracked(root))
            lists.read(cache.content)
            # The check removes damaged objects, as after a power cut, so that they are added once more.
            damaged = lists.unknown + [file.path for file in lists.files if not cache.has(file.digest)]
            if not damaged:
                return lists.names, {path: path.read_bytes() for path in paths}
    except DvcException as error:
        raise UserError(f"dvc add: {error}") from None
    finally:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != content:
                write_bytes(path, content)
    raise UserError(f"{count_files(damaged)} did not get into .dvc/cache whole:\n{some_lines(damaged)}")


def publish(root: Path, configfiles: list[str], checks: Checks) -> None:
    """Publish ``data/`` and ``artifacts/``, and print what to commit.

    Raises
    ------
    UserError
        Nothing was published, and ``data.dvc`` and ``artifacts.dvc`` are as they were.
    """
    require_published_folders(configfiles)
    unfinished = checks.unfinished(configfiles)
    if unfinished:
        raise UserError(
            f"{count_files(unfinished)} missing or stale, so nothing is published; `make results` first:\n"
            f"{some_lines(unfinished)}"
        )
    with open_repo(root) as repo:
        others = unexpected(root, repo)
        if others:
            raise UserError(
                "only what the workflow makes of the public data sets of src/ppml/config/datasets.py is published; "
                "keep anything else elsewhere (folders.data, folders.artifacts), or leave it out in .dvcignore:\n"
                f"{some_lines(others)}{_about_links(root, others)}"
            )
        # Before anything is read: where there is no remote, there is no need to.
        cache, store = Cache(repo), Remote(repo)
        tracked(root)
        checks.save_book(configfiles)
        names, contents = add(root, repo, cache)
        lists = DirectoryManifests(names)
        lists.read(cache.content)
        files = {file.digest for file in lists.files}
        sent = send(store, cache, sorted(files))
        # The lists after the files: where a list is, its files are.
        send(store, cache, sorted(names.values()))
        for path, content in contents.items():
            write_bytes(path, content)
    size = sum(cache.path(file.digest).stat().st_size for file in lists.files)
    news = f"{sent} of {len(files)} contents are new"
    print(f"published {count_files(lists.files)}, {size / 1e6:,.1f} MB, in {store}: {news}")
    print(what_to_commit(root))


def send(store: Remote, cache: Cache, names: Sequence[str]) -> int:
    """Send the objects of ``names`` that the remote lacks, check that they arrived, and return their number."""
    missing = store.missing(names, cache)
    failed = store.send(missing, cache) if missing else ""
    if failed:
        raise store.error(f"it takes no files (is it for reading only?): {failed}")
    left = store.missing(missing, cache) if missing else []
    if left:
        raise store.error(f"{count_files(left)} did not arrive whole; `make publish` again")
    return len(missing)


def what_to_commit(root: Path) -> str:
    """Return the line about uncommitted files, or about git if it does not answer."""
    paths = [*DVC_FILES, "reports"]
    command = f"git add {' '.join(paths)} && git commit -m 'Publish results'"
    try:
        changed = changed_files(root, *paths)
    except GitError as error:
        return f"warning: whether the last commit names these files is not known ({error}); if it does not: {command}"
    if not changed:
        return "nothing to commit: the last commit names these files"
    return f"now commit what names them: {command}"


def main(argv: Sequence[str] | None = None) -> None:
    """Publish the project in the current folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--configfile", nargs="+", default=[DEFAULT_CONFIG], help="as for Snakemake")
    arguments = parser.parse_args(argv)
    # Libraries log the traceback of each error that is told in one line here.
    logging.disable()
    try:
        lock = RunLock()
        if not lock.take():
            raise UserError(lock.refusal())
        publish(Path.cwd(), arguments.configfile, Checks.of_workflow())
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {describe_os_error(error)}")
    except KeyboardInterrupt:
        sys.exit(
            "error: interrupted; data.dvc and artifacts.dvc are as they were, and `make publish` goes on from there"
        )


if __name__ == "__main__":
    main()
