"""Safe places of copied files: places of planned results, behind no link, with the expected bytes.

The record book and the lists of published files come from git and from a remote, and an attacker could write any path
into them. :class:`Places` checks each file of them before the copy.
"""

from __future__ import annotations

import shutil
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ppml.errors import UserError
from ppml.io.atomic import atomic_write

LONGEST_NAME = 1024
"""Maximum length of a file name, in characters; names of the workflow are shorter."""


class PlaceError(UserError):
    """A forbidden place; the message names it and the reason."""


class Places:
    """The places of planned results below one folder.

    Parameters
    ----------
    root : Path
        The folder. It may be a link, but no folder below it.
    planned : callable
        Name of a file in the source -> whether the workflow makes such a file.
    """

    def __init__(self, root: Path, planned: Callable[[str], bool]) -> None:
        self._root = root
        self._planned = planned

    def check(self, name: str) -> Path:
        """Return the place of the file ``name``, given relative to the root.

        Raises
        ------
        PlaceError
            The name is no plain relative path, no planned result, or a folder on the way is a link.
        """
        if not is_plain(name):
            raise PlaceError(f"{name[:100]!r} is not the plain name of a file in this folder")
        if not self._planned(name):
            raise PlaceError(f"{name[:200]} is no file that the workflow makes")
        return follow(self._root, name)

    def put(self, name: str, source: Path, has_the_bytes: Callable[[Path], bool]) -> bool:
        """Copy a file into the place of ``name``, whole or not at all; return whether it had the expected bytes.

        Parameters
        ----------
        name : str
            As for :meth:`check`.
        source : Path
            The file.
        has_the_bytes : callable
            Path of the copy -> whether it has the expected bytes; only then it replaces a file.

        Raises
        ------
        PlaceError
            As for :meth:`check`.
        OSError
            The file cannot be read or written.
        """
        place = self.check(name)
        if not stat.S_ISREG(source.stat().st_mode):
            return False
        try:
            with atomic_write(place) as temporary:
                shutil.copyfile(source, temporary)
                if not has_the_bytes(temporary):
                    raise _OtherBytes
        except _OtherBytes:
            return False
        return True


class _OtherBytes(Exception):
    """A copy has unexpected bytes."""


def is_plain(name: object) -> bool:
    """Return whether ``name`` is a plain relative path: no ``..``, no empty part, printable characters only.

    Examples
    --------
    >>> [is_plain(name) for name in ("runs/a/model.txt", "../a", "/a", "a//b", "a/./b", "a\\0", "", 3)]
    [True, False, False, False, False, False, False, False]
    """
    return (
        isinstance(name, str)
        and 0 < len(name) <= LONGEST_NAME
        and name.isprintable()
        and "\\" not in name
        and not set(name.split("/")) & {"", ".", ".."}
    )


def follow(root: Path, name: str) -> Path:
    """Return the path of a file below ``root``; raise a :class:`PlaceError` if a folder on the way is a link."""
    place = root
    for part in PurePosixPath(name).parts[:-1]:
        place = place / part
        if place.is_symlink():
            raise PlaceError(
                f"{name[:200]}: {place} is a link; to have the folder on another disk, set `folders`, or mount it"
            )
    return root / name


def same_places(names: Iterable[str]) -> list[str]:
    """Return the names with the same place on a file system without distinction of upper and lower case.

    Examples
    --------
    >>> same_places(["data/a", "data/A", "data/b"])
    ['data/A', 'data/a']
    """
    names = list(names)
    counts = Counter(map(_folded, names))
    return sorted(name for name in names if counts[_folded(name)] > 1)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
