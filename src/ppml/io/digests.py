"""Publishable digests of data: plain for public data sets, keyed for private ones.

A plain digest of private examples confirms a guess: an adversary with all examples but one tries each candidate
for the last. So the digest of a private data set is an HMAC under a key that never leaves the machine: equal content
has equal digests on this machine, and the digests reveal nothing to readers elsewhere.
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
"""Path of the key of this project folder; git ignores it."""

KEY_BYTES = 32


def content_digest(paths: Sequence[str | Path], *, public: bool) -> str:
    """Return a digest of the contents of files, 16 hexadecimal digits.

    Parameters
    ----------
    paths : sequence of path
        The files; their order counts.
    public : bool
        Whether everybody may have the data of the files.
    """
    total = hashlib.sha256()
    for path in paths:
        total.update(Path(path).read_bytes())
    return publishable_digest(total.hexdigest(), public=public)[:16]


def publishable_digest(sha256: str, *, public: bool) -> str:
    """Return the publishable form of a SHA-256 in hexadecimal digits: itself, or its HMAC under the local key.

    Raises
    ------
    UserError
        The key is damaged.
    OSError
        The key cannot be read or written.
    """
    return sha256 if public else hmac.new(digest_key(), sha256.encode(), hashlib.sha256).hexdigest()


def digest_key() -> bytes:
    """Return the key of this project folder, 32 bytes from the operating system, created at its first use."""
    if not KEY.exists():
        _make_key()
    key = KEY.read_bytes()
    if len(key) != KEY_BYTES:
        raise UserError(
            f"{KEY}: has {len(key)} bytes, {KEY_BYTES} are needed; move it away, and the next run makes a new one"
        )
    return key


def _make_key() -> None:
    KEY.parent.mkdir(parents=True, exist_ok=True)
    temporary = KEY.with_name(f"{KEY.name}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # Of two concurrent jobs, the first wins: a link never replaces an existing file.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, KEY)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
