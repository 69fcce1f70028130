"""The files of a user's folder of pictures, and the digest by which a changed folder is decoded again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ppml.errors import UserError
from ppml.io.digests import publishable_digest


def list_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder, as ``class/name``, in order; a link to a folder is not followed.

    Raises
    ------
    UserError
        The folder does not exist.
    OSError
        A folder in it cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; name the folder that has a folder for each class")
    found = [Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names]
    for path in sorted(found):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def listing_digest(folder: Path) -> str:
    """Return a keyed digest of the names, sizes and times of all files below a folder.

    Raises
    ------
    UserError
        The folder does not exist, or a part of it cannot be read.
    """
    total = hashlib.sha256()
    try:
        for name, path in list_folder(folder):
            status = path.stat()
            total.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); grant permission") from None
    return publishable_digest(total.hexdigest(), public=False)[:16]
