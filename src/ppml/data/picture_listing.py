"""The listing of a user's folder of pictures, by which a changed folder is decoded again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ppml.errors import UserError
from ppml.io.digests import publishable_digest


def listing_digest(folder: Path) -> str:
    """Return a keyed digest of the names, sizes and times of all files below a folder.

    Raises
    ------
    UserError
        The folder does not exist, or a part of it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"data.define: {folder} is no folder; name the folder that has a folder for each class")
    total = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                status = path.stat()
                total.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); grant permission") from None
    return publishable_digest(total.hexdigest(), published=False)[:16]
