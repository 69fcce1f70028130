"""Bring what is published: every file that ``data.dvc`` and ``artifacts.dvc`` name, from a DVC remote.

``dvc pull`` brings all or nothing. Where the remote lacks one file, it stops before the first is in its place, and
``dvc checkout`` then removes the whole folder, with whatever else lies in it. So DVC reads the configuration, connects
and names the objects; here, files are fetched and put in their places one by one. What can be had is there afterwards,
Snakemake finds the rest missing, and a file that was never published stays as it is.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runlock import RunLock
from store import (
    ABSENT,
    DAMAGED,
    DVC_FILES,
    OTHERWISE,
    TRACKED,
    Cache,
    Lists,
    Published,
    RemoteError,
    Store,
    count_files,
    md5,
    open_repo,
    read_list,
    some_lines,
    tracked,
)

from ppml.errors import UserError
from ppml.records.files import atomic
from ppml.stages.runner import describe_os_error

_LIST = re.compile(r"\bmd5: ([0-9a-f]{32}\.dir)\b")


@dataclass
class Here:
    """The published files, by what is in their places.

    Parameters
    ----------
    same : list of Published
        The published file.
    absent : list of Published
        Nothing.
    older : list of Published
        What an earlier commit published.
    changed : list of Published
        Something that no commit has: the user's work.
    """

    same: list[Published] = field(default_factory=list)
    absent: list[Published] = field(default_factory=list)
    older: list[Published] = field(default_factory=list)
    changed: list[Published] = field(default_factory=list)

    @property
    def wanted(self) -> list[Published]:
        """The files to put in place."""
        return self.absent + self.older

    def require_unchanged(self) -> None:
        """Raise a :class:`UserError` if there is work of the user in a place of a published file."""
        if self.changed:
            raise UserError(
                f"{count_files(self.changed)} here differ from what is published; so that nothing is lost, nothing was "
                f"pulled:\n{some_lines(file.path for file in self.changed)}\n"
                "To keep them, just go on: `make results`. To have what is published instead, move them away or delete "
                "them, and `make pull` again."
            )

    def uncached(self, cache: Cache) -> set[str]:
        """Return the objects of the wanted files that the cache lacks."""
        return {file.digest for file in self.wanted if not cache.has(file.digest)}

    @classmethod
    def look(cls, root: Path, files: Iterable[Published], cache: Cache) -> Here:
        """Compare what is in the places of ``files``."""
        here, earlier = cls(), None
        for file in files:
            path = root / file.path
            if path.is_file():
                found = md5(path)
                if found == file.digest:
                    here.same.append(file)
                    continue
                if earlier is None:
                    earlier = _published_before(root, cache)
                (here.older if Published(file.path, found) in earlier else here.changed).append(file)
            else:
                (here.changed if path.exists() or path.is_symlink() else here.absent).append(file)
        return here


def _published_before(root: Path, cache: Cache) -> set[Published]:
    """Return the files of every version of the lists that a commit has, as far as the cache knows them.

    To be in the cache is not enough: files get there before they are committed, and without a commit nobody finds them.
    """
    files: set[Published] = set()
    for folder in TRACKED:
        command = ["git", "log", "--all", "--patch", "--format=", "--", f"{folder}.dvc"]
        log = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
        for name in set(_LIST.findall(log)):
            files.update(read_list(folder, cache.content(name) or b"[]"))
    return files


def pull(root: Path) -> int:
    """Put every published file in its place that can be had, and say what came; return the exit status.

    The status is 0 also where the remote lacks files, since `make results` computes them; it is 1 where files that are
    there could not be fetched, since the next try may bring them.

    Raises
    ------
    UserError
        Nothing was put in place; the message says why.
    """
    lists = Lists(tracked(root))
    if not lists.names:
        raise UserError(f"nothing is published yet: there is no {' and no '.join(DVC_FILES)}; {OTHERWISE}")
    with open_repo(root) as repo:
        cache, store = Cache(repo), None
        lists.read(cache.content)
        here = Here.look(root, lists.files, cache)
        if lists.unknown or here.uncached(cache):
            store = Store(repo)
            lists.read(store.content)
            if not lists.contents:
                raise store.nothing()
            here = Here.look(root, lists.files, cache)
        here.require_unchanged()
        reasons = store.fetch(here.uncached(cache), cache) if store else {}
        # Someone may have worked here meanwhile.
        Here.look(root, here.wanted, cache).require_unchanged()
        came = [file for file in here.wanted if file.digest not in reasons]
        for file in came:
            _put(root / file.path, cache.path(file.digest))
        if not reasons:
            # A list is in the cache only with every file that it names: DVC counts on that.
            for folder, content in lists.contents.items():
                cache.take(lists.names[folder], partial(_write, content))
    return _report(lists, here, came, reasons, store)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _put(place: Path, source: Path) -> None:
    try:
        with atomic(place) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        raise UserError(
            f"{place} cannot be written: {error.strerror}; what came is kept, so `make pull` goes on"
        ) from None


def _report(
    lists: Lists, here: Here, came: Sequence[Published], reasons: Mapping[str, str], store: Store | None
) -> int:
    """Say what came and what did not; return the exit status."""
    size = len(lists.files)
    if came:
        replaced = len(set(came) & set(here.older))
        text = f"pulled {count_files(came)} from {store or 'the cache'}"
        print(text + (f", {replaced} in place of an earlier version" if replaced else ""))
    lost = [file for file in here.wanted if file.digest in reasons]
    if not lost and not lists.unknown:
        print(f"all {size} published files are here: `make results` now has nothing to do but what changed since")
        return 0
    # Whatever is in the remote and did not come may come next time.
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
