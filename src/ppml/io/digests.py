"""Digests of data that may be published: plain where the data are, keyed where they are not.

A plain digest of private records answers whether a guess of them is right: an adversary who knows all records but one
tries each candidate for the last. So what is said of data that are not a published data set is an HMAC under a key that
never leaves this machine: equal content still has equal digests here, and tells a reader elsewhere nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from ppml.errors import UserError

KEY = Path(".ppml/digest.key")
"""Where the key of this project folder lies; git ignores it."""

KEY_BYTES = 32


def content_digest(paths: Sequence[str | Path], *, published: bool) -> str:
    """Return 16 hexadecimal digits that stand for the contents of files.

    Parameters
    ----------
    paths : sequence of path
        The files, in an order that counts.
    published : bool
        Whether everybody can have the data that they are made of.
    """
    total = hashlib.sha256()
    for path in paths:
        total.update(Path(path).read_bytes())
    return shown_digest(total.hexdigest(), published=published)[:16]


def shown_digest(sha256: str, *, published: bool) -> str:
    """Return what may be published of a SHA-256 in hexadecimal digits: itself, or its HMAC under the local key.

    Raises
    ------
    UserError
        The key is damaged.
    OSError
        The key cannot be read or written.
    """
    return sha256 if published else hmac.new(digest_key(), sha256.encode(), hashlib.sha256).hexdigest()


def digest_key() -> bytes:
    """Return the key of this project folder, 32 bytes of the operating system's entropy, made when first needed."""
    if not KEY.exists():
        _make_key()
    key = KEY.read_bytes()
    if len(key) != KEY_BYTES:
        raise UserError(f"{KEY}: has {len(key)} bytes, {KEY_BYTES} are needed; delete it, and a new one is made")
    return key


def _make_key() -> None:
    KEY.parent.mkdir(parents=True, exist_ok=True)
    temporary = KEY.with_name(f"{KEY.name}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Of two jobs that make one at a time, the first wins: a link never replaces what is there.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, KEY)
    finally:
        temporary.unlink(missing_ok=True)
