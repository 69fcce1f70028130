"""Pull the files that ``data.dvc`` and ``artifacts.dvc`` list from a DVC remote or a bundle.

DVC fetches the objects; this module puts them in place. Three properties of ``dvc pull`` (measured with DVC 3.67)
forbid its use: it refuses all files if the folder has an unpublished result, replaces uncommitted work that is in its
cache, and writes through links.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ppml.errors import UserError
from ppml.jobs.runner import run
from ppml.pipeline.dvc_remote import (
    DVC_FILES,
    TRACKED,
    Objects,
    RemoteError,
    TrackedFile,
    count_files,
    md5,
    open_repo,
    some_lines,
    tracked_lists,
)
from ppml.pipeline.git import GitError, history, is_shallow
from ppml.pipeline.published_files import is_publishable
from ppml.pipeline.pull_source import fetch_bundle, is_bundle, remote_address
from ppml.pipeline.safe_paths import PlaceError, Places
from ppml.pipeline.workflow_lock import WorkflowLock

_LIST = re.compile(r"\bmd5: ([0-9a-f]{32}\.dir)\b")


def pull(root: Path, source: str = "") -> None:
    """Put every published file in its place, and print the result.

    Parameters
    ----------
    root : Path
        The folder of the project.
    source : str
        The path or address of a bundle or of a remote; empty for the default remote.

    Raises
    ------
    UserError
        Some files did not come. Nothing was put in place, unless the message names the absent files.
    """
    lists = tracked_lists(root)
    if not lists:
        raise UserError(
            f"nothing is published yet: there is no {' and no '.join(DVC_FILES)}; `make results` computes everything"
        )
    places = Places(root, is_publishable)
    bundled = is_bundle(source)
    with open_repo(root, "" if bundled else remote_address(source)) as repo:
        objects = Objects(repo)
        if bundled:
            fetch_bundle(root, source, objects, lists)
        files = list_files(objects, lists, places)
        found = {file: digest_at(root / file.path) for file in files}
        wanted = [file for file in files if found[file] != file.digest]
        require_published(root, objects, {file: digest for file in wanted if (digest := found[file]) is not None})
        reason = objects.fetch({file.digest for file in wanted})
        came = [file for file in wanted if objects.has(file.digest)]
        # The user may have changed files during the transfer.
        require_unchanged([file for file in came if digest_at(root / file.path) != found[file]])
        for file in came:
            put(places, file, objects)
        if came:
            replaced = sum(found[file] is not None for file in came)
            print(f"pulled {count_files(came)}" + (f", {replaced} in place of an earlier version" if replaced else ""))
        if absent := set(wanted) - set(came):
            error = objects.remote.error(f"{len(absent)} of {count_files(files)} did not come: {reason}")
            raise RemoteError(f"{error}\n`make pull` tries again:\n{some_lines(file.path for file in absent)}")
    print(f"all {len(files)} published files are in place: `make results` computes only later changes")


def list_files(objects: Objects, lists: Mapping[str, str], places: Places) -> list[TrackedFile]:
    """Return the published files, which all have a place in this project.

    Raises
    ------
    UserError
        A list is not available, or names a file without a place.
    """
    reason = objects.fetch(lists.values())
    absent = [folder for folder, name in lists.items() if not objects.has(name)]
    if absent and not objects.remote.exists and "not in the remote" in reason:
        reason = "there is no such folder"
    if absent:
        raise objects.remote.error(f"the list of {'/ and '.join(absent)}/ did not come: {reason}")
    files = objects.files(lists)
    for file in files:
        try:
            places.check(file.path)
        except PlaceError as error:
            folder = file.path.partition("/")[0]
            raise UserError(f"{folder}.dvc: nothing was pulled, since its list is invalid: {error}") from None
    return files


def digest_at(path: Path) -> str | None:
    """Return the MD5 of a file, None for an empty place, and another text for a folder or a broken link."""
    if path.is_file():
        return md5(path)
    return "not a file" if path.exists() or path.is_symlink() else None


def require_published(root: Path, objects: Objects, changed: Mapping[TrackedFile, str]) -> None:
    """Raise a :class:`UserError` if no commit has the present content of a file: it is the user's work.

    An object in the cache is not enough: DVC adds objects before the commit that makes them available to others.
    ``changed`` has, for each published file, the MD5 of the present content of its place.
    """
    if not changed:
        return
    earlier: set[TrackedFile] = set()
    doubt = ""
    try:
        lists = [(folder, name) for folder in TRACKED for name in _LIST.findall(history(root, f"{folder}.dvc"))]
        doubt = "the clone is shallow: git fetch --unshallow" if is_shallow(root) else ""
        try:
            objects.fetch({name for _, name in lists})
        except RemoteError:
            doubt = doubt or "no remote has their lists"
        for folder, name in lists:
            # An invalid list shows no published files.
            with suppress(UserError):
                earlier.update(objects.files({folder: name}))
    except GitError as error:
        doubt = str(error)
    mine = [file for file, digest in changed.items() if TrackedFile(file.path, digest) not in earlier]
    require_unchanged(mine, f"Whether an earlier commit published them is not known: {doubt}.\n" if doubt else "")


def require_unchanged(changed: Collection[TrackedFile], doubt: str = "") -> None:
    """Raise a :class:`UserError` if the user's work is in the places of published files."""
    if changed:
        raise UserError(
            f"{count_files(changed)} differ from the published files; nothing was pulled, so that no work is lost:\n"
            f"{some_lines(file.path for file in changed)}\n{doubt}"
            "To keep them, continue with `make results`. To have the published files instead, move or delete them, and "
            "`make pull` again."
        )


def put(places: Places, file: TrackedFile, objects: Objects) -> None:
    """Copy an object into the place of its file, whole or not at all."""
    try:
        whole = places.put(file.path, objects.path(file.digest), lambda copy: md5(copy) == file.digest)
    except OSError as error:
        raise UserError(
            f"{file.path} cannot be written: {error.strerror}; the fetched files are kept: `make pull` again"
        ) from None
    if not whole:
        raise UserError(f"{file.path} was damaged in .dvc/cache; `make pull` again")


def main(argv: Sequence[str] | None = None) -> None:
    """Pull into the project in the current folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", default="", dest="source", metavar="PATH-OR-URL", help="a bundle, or a remote")
    source = parser.parse_args(argv).source
    # Libraries log a traceback for each error; the message has the reason in one line.
    logging.disable()
    try:
        WorkflowLock().require()
        pull(Path.cwd(), source)
    except RemoteError as error:
        raise UserError(f"{error}\nWithout the remote, `make results` computes everything that is absent") from None
    except KeyboardInterrupt:
        raise UserError("interrupted; the fetched files are kept: `make pull` again") from None


if __name__ == "__main__":
    run(main)
