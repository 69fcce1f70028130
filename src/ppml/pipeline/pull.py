"""Pull every file that ``data.dvc`` and ``artifacts.dvc`` name from a DVC remote.

``dvc pull`` pulls all files or none: if the remote lacks one, no file gets to its place, and ``dvc checkout`` then
removes the whole folder with all other files in it. So DVC only reads the configuration, connects and names the
objects; this module fetches and places the files one by one. The workflow makes the missing ones, and a file that was
never published stays as it is.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ppml.errors import UserError
from ppml.pipeline.dvc_remote import (
    ABSENT,
    DAMAGED,
    DVC_FILES,
    OTHERWISE,
    TRACKED,
    Cache,
    DirectoryManifests,
    Remote,
    RemoteError,
    TrackedFile,
    count_files,
    md5,
    open_repo,
    read_list,
    some_lines,
    tracked,
    tracked_size,
)
from ppml.pipeline.git import GitError, history, is_shallow
from ppml.pipeline.published_files import is_publishable
from ppml.pipeline.run_lock import RunLock
from ppml.pipeline.safe_paths import PlaceError, Places
from ppml.system_errors import describe_os_error

_LIST = re.compile(r"\bmd5: ([0-9a-f]{32}\.dir)\b")


@dataclass
class Here:
    """The published files by the present content of their places.

    Parameters
    ----------
    same : list of Published
        The published file.
    absent : list of Published
        Nothing.
    older : list of Published
        The version of an earlier commit.
    changed : list of Published
        A file that no commit has: the user's work.
    doubt : str
        Why some of these may be earlier versions all the same, empty if none is.
    """

    same: list[TrackedFile] = field(default_factory=list)
    absent: list[TrackedFile] = field(default_factory=list)
    older: list[TrackedFile] = field(default_factory=list)
    changed: list[TrackedFile] = field(default_factory=list)
    doubt: str = ""

    @property
    def wanted(self) -> list[TrackedFile]:
        """The files to put in place."""
        return self.absent + self.older

    def require_unchanged(self) -> None:
        """Raise a :class:`UserError` if there is work of the user in a place of a published file."""
        if self.changed:
            raise UserError(
                f"{count_files(self.changed)} here differ from what is published; so that nothing is lost, nothing was "
                f"pulled:\n{some_lines(file.path for file in self.changed)}\n{self.doubt}"
                "To keep them, just go on: `make results`. To have what is published instead, move them away or delete "
                "them, and `make pull` again."
            )

    def uncached(self, cache: Cache) -> set[str]:
        """Return the objects of the wanted files that the cache lacks."""
        return {file.digest for file in self.wanted if not cache.has(file.digest)}

    @classmethod
    def look(cls, root: Path, files: Iterable[TrackedFile], content_of: Callable[[str], bytes | None]) -> Here:
        """Compare the places of ``files``; ``content_of`` returns a manifest of an earlier commit."""
        here, earlier = cls(), Earlier(root, content_of)
        for file in files:
            path = root / file.path
            if path.is_file():
                found = md5(path)
                if found == file.digest:
                    here.same.append(file)
                else:
                    (here.older if earlier.has(TrackedFile(file.path, found)) else here.changed).append(file)
            else:
                (here.changed if path.exists() or path.is_symlink() else here.absent).append(file)
        if here.changed:
            here.doubt = earlier.doubt()
        return here


class Earlier:
    """The published files of all commits of all branches, read as far as necessary.

    The cache is not enough: files get there before they are committed, and only a commit names them.

    Parameters
    ----------
    root : Path
        The project.
    content_of : callable
        Name of a list -> its content, None where it cannot be had.
    """

    def __init__(self, root: Path, content_of: Callable[[str], bytes | None]) -> None:
        self._root = root
        self._content_of = content_of
        self._files: set[TrackedFile] = set()
        self._unread = self._lists()
        self._silence = ""

    def has(self, file: TrackedFile) -> bool:
        """Tell whether a commit published this content of this file, as far as that is known."""
        while file not in self._files:
            try:
                self._files.update(next(self._unread))
            except StopIteration:
                return False
        return True

    def _lists(self) -> Iterator[list[TrackedFile]]:
        try:
            named = [
                (folder, name) for folder in TRACKED for name in _LIST.findall(history(self._root, f"{folder}.dvc"))
            ]
        except GitError as error:
            self._silence = f"{error}"
            return
        for folder, name in dict.fromkeys(named):
            content = self._content_of(name)
            # Of a list that is damaged, nothing is known.
            with suppress(UserError):
                yield read_list(folder, content or b"[]")

    def doubt(self) -> str:
        """Return a line that says why an earlier version may not be known for one, empty if it is."""
        try:
            why = self._silence or ("the clone is shallow: git fetch --unshallow" if is_shallow(self._root) else "")
        except GitError as error:
            why = str(error)
        return f"Whether an earlier commit published them is not known: {why}.\n" if why else ""


def pull(root: Path) -> int:
    """Put every available published file in its place, and print the result; return the exit status.

    The status is 0 also where the remote lacks files, since `make results` computes them; it is 1 where files that are
    there could not be fetched, since the next try may bring them.

    Raises
    ------
    UserError
        Nothing was put in place; the message says why.
    """
    lists = DirectoryManifests(tracked(root))
    if not lists.names:
        raise UserError(f"nothing is published yet: there is no {' and no '.join(DVC_FILES)}; {OTHERWISE}")
    places = Places(root, is_publishable)
    with open_repo(root) as repo:
        cache, store = Cache(repo), None
        lists.read(cache.content)
        here = Here.look(root, _planned(lists, places), cache.content)
        if lists.unknown or here.uncached(cache):
            store = Remote(repo)
            lists.read(store.content)
            if not lists.contents:
                raise store.nothing()
            here = Here.look(root, _planned(lists, places), _either(cache, store))
        here.require_unchanged()
        reasons = store.fetch(here.uncached(cache), cache, tracked_size(root)) if store else {}
        # Someone may have worked here meanwhile.
        Here.look(root, here.wanted, _either(cache, store)).require_unchanged()
        came = [file for file in here.wanted if file.digest not in reasons and _put(places, file, cache, reasons)]
        if not reasons:
            # A list is in the cache only with every file that it names: DVC counts on that.
            for folder, content in lists.contents.items():
                cache.add(lists.names[folder], partial(_write, content))
    return _report(lists, here, came, reasons, store)


def _planned(lists: DirectoryManifests, places: Places) -> list[TrackedFile]:
    """Return the files that the lists name; raise a :class:`UserError` if one has no place here."""
    for file in lists.files:
        try:
            places.check(file.path)
        except PlaceError as error:
            folder = file.path.partition("/")[0]
            raise UserError(
                f"{folder}.dvc: nothing was pulled, since its list names a file without a place: {error}"
            ) from None
    return lists.files


def _either(cache: Cache, store: Remote | None) -> Callable[[str], bytes | None]:
    """Return a function that looks for a list in the cache and then in the remote."""

    def content_of(name: str) -> bytes | None:
        found = cache.content(name)
        return store.content(name) if found is None and store else found

    return content_of


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _put(places: Places, file: TrackedFile, cache: Cache, reasons: dict[str, str]) -> bool:
    """Put a file of the cache in its place; return False, and note why, if the cache has other bytes by now."""
    try:
        if places.put(file.path, cache.path(file.digest), lambda copy: md5(copy) == file.digest):
            return True
    except OSError as error:
        raise UserError(
            f"{file.path} cannot be written: {error.strerror}; what came is kept, so `make pull` goes on"
        ) from None
    reasons[file.digest] = "damaged in .dvc/cache"
    return False


def _report(
    lists: DirectoryManifests, here: Here, came: Sequence[TrackedFile], reasons: Mapping[str, str], store: Remote | None
) -> int:
    """Print the pulled and the missing files; return the exit status."""
    size = len(lists.files)
    if came:
        replaced = len(set(came) & set(here.older))
        text = f"pulled {count_files(came)} from {store or 'the cache'}"
        print(text + (f", {replaced} in place of an earlier version" if replaced else ""))
    lost = [file for file in here.wanted if file.digest in reasons]
    if not lost and not lists.unknown:
        print(f"all {size} published files are here: `make results` now has nothing to do but what changed since")
        return 0
    # Another attempt may fetch files that are in the remote.
    failed = not set(reasons.values()) <= {ABSENT, DAMAGED}
    if lost:
        what = f"could not be fetched from {store}" if failed else f"are not in {store}"
        lines = (file.path + _unless(reasons[file.digest], ABSENT) for file in lost)
        print(f"warning: {len(lost)} of {count_files(lists.files)} {what}:\n{some_lines(lines)}", file=sys.stderr)
    for folder in lists.unknown:
        print(f"warning: nothing of {folder}/ came: the list of its files is not in {store}", file=sys.stderr)
    again = "`make pull` goes on from here; " if failed else ""
    print(f"{again}`make results` computes just what is missing", file=sys.stderr)
    return int(failed)


def _unless(reason: str, usual: str) -> str:
    return f": {reason}" if reason != usual else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Pull into the project in the current folder."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(argv)
    # Libraries log the traceback of each error that is told in one line here.
    logging.disable()
    lock = RunLock()
    try:
        if not lock.take():
            raise UserError(lock.refusal())
        sys.exit(pull(Path.cwd()))
    except RemoteError as error:
        sys.exit(f"error: {error}\nWithout a remote, {OTHERWISE}")
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {describe_os_error(error)}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; what came is kept, so `make pull` goes on from there")


if __name__ == "__main__":
    main()
