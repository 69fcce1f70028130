"""What Snakemake knows of a file's bytes, computed once for as long as nothing touches the file.

With every output of a job it notes the SHA-256 of every input, and reads them all again for the next output: the job
that collects all runs has 225 outputs of 2,000 inputs, which took seven minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.io import _IOFile


def remember() -> None:
    """Let Snakemake keep checksums in this process; once is enough."""
    if not hasattr(_IOFile.checksum, "asked"):
        _IOFile.checksum = _remembering(_IOFile.checksum)


def _remembering(asked: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[object, ...], str | None] = {}

    async def checksum(
        self: Any, threshold: int | None = None, force: bool = False, algorithm: Any = None
    ) -> str | None:
        try:
            stat = Path(self.file).stat()
        except OSError:
            return await asked(self, threshold, force, algorithm)  # type: ignore[no-any-return]
        # The time of the last change of the inode cannot be set back, unlike that of the content.
        touched = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        key = (str(self.file), *touched, threshold, force, algorithm)
        if key not in known:
            known[key] = await asked(self, threshold, force, algorithm)
        return known[key]

    checksum.asked = asked  # type: ignore[attr-defined]
    return checksum
