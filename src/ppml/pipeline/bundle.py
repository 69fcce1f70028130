"""A bundle: one archive with every object that the lists of a commit name, in the layout of a DVC remote.

The archive is an uncompressed tar, since objects hardly compress: a manifest, then the lists, then the files. An
unpacked bundle is the folder of a remote. A bundle from elsewhere may be hostile, so the reader accepts only files of
expected names and bytes, in a stream, and writes nothing outside of DVC's cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from ppml.errors import UserError
from ppml.io.atomic import atomic_write
from ppml.jobs.runner import run
from ppml.pipeline.dvc_remote import DVC_FILES, TRACKED, Objects, count_files, list_name, open_repo, some_lines
from ppml.pipeline.git import GitError, ask_git

MANIFEST = "manifest.json"
LARGEST_LIST = 2**26
"""The largest number of bytes of a manifest or of a list of files."""
_OBJECT = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)")
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**20


class BundleError(UserError):
    """A bundle that is not taken; the message has the reason."""


# --- writing ---------------------------------------------------------------------------------------------------------


def write_bundle(root: Path, folder: Path) -> Path:
    """Write the bundle of the last commit into ``folder``; the same commit makes the same bytes.

    Raises
    ------
    UserError
        Nothing is published, or DVC's cache lacks an object.
    """
    commit, lists = committed_lists(root)
    with open_repo(root) as repo:
        objects = Objects(repo)
        absent = [f"{folder}/ (its list)" for folder, name in lists.items() if not objects.has(name)]
        files = objects.files(lists)
        absent += [file.path for file in files if not objects.has(file.digest)]
        if absent:
            raise UserError(
                f"{count_files(absent)} of the commit are not in .dvc/cache, so no bundle is written; `make pull` "
                f"first:\n{some_lines(absent)}"
            )
        names = [*sorted(lists.values()), *sorted({file.digest for file in files})]
        manifest = {"commit": commit, "lists": lists, "files": len(files), "about": ABOUT}
        path = folder / f"ppml-{commit[:12]}.tar"
        with atomic_write(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            content = json.dumps(manifest, indent=1).encode()
            archive.addfile(_member(MANIFEST, len(content)), BytesIO(content))
            for name in names:
                source = objects.path(name)
                with source.open("rb") as file:
                    archive.addfile(_member(f"files/md5/{name[:2]}/{name[2:]}", source.stat().st_size), file)
    return path


ABOUT = (
    "The published files of this commit. In a clone of the repository at this commit: make pull FROM=THIS_FILE. "
    "Unpacked, in a folder or on a web server, it is a DVC remote: dvc remote add -d NAME URL, then dvc pull."
)
"""The text for a reader who opens the archive."""


def committed_lists(root: Path) -> tuple[str, dict[str, str]]:
    """Return the last commit, and the names of its lists by folder.

    Raises
    ------
    UserError
        Git fails, or the commit has no lists.
    """
    commit = ask_git(root, "rev-parse", "HEAD").strip()
    lists = {}
    for folder, name in zip(TRACKED, DVC_FILES, strict=True):
        try:
            lists[folder] = list_name(name, ask_git(root, "show", f"{commit}:./{name}").encode())
        except GitError as error:
            raise UserError(f"the last commit has no {name}: `make publish` and a commit first ({error})") from None
    return commit, lists


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return the entry of a file, which is the same on every machine and at every time."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


# --- reading ---------------------------------------------------------------------------------------------------------


def take_bundle(stream: IO[bytes], objects: Objects, lists: Mapping[str, str], largest: int) -> None:
    """Bring the objects of a bundle into DVC's cache, each after a check of its bytes.

    Parameters
    ----------
    stream : binary file
        The bundle; it is read once, from its beginning to its end.
    objects : Objects
        DVC's cache.
    lists : mapping of str to str
        The names of the lists in this clone, by folder.
    largest : int
        The largest possible size of a file, in bytes.

    Raises
    ------
    BundleError
        The bundle is damaged, incomplete, of another commit, or has anything else than the objects of the lists.
    """
    members = _members(stream)
    name, size = next(members, ("", 0))
    if name != MANIFEST:
        raise BundleError("it is no bundle of `make bundle`")
    _require_lists(_manifest(_read(stream, size)), lists)
    wanted, awaited = set(lists.values()), True
    for name, size in members:
        if awaited and all(map(objects.has, lists.values())):
            wanted |= {file.digest for file in objects.files(lists)}
            awaited = False
        found = _OBJECT.fullmatch(name)
        digest = "".join(found.groups()) if found else ""
        if digest not in wanted:
            raise BundleError(f"it has {name[:200]!r}, which the lists of this commit do not name")
        if size > (LARGEST_LIST if digest.endswith(".dir") else largest):
            raise BundleError(f"{name} has {size:,} bytes, more than all published files")
        _take(stream, size, digest, objects)
        wanted.discard(digest)
    if wanted := {name for name in wanted if not objects.has(name)}:
        raise BundleError(f"it lacks {count_files(wanted)} of the lists")


def _require_lists(manifest: Mapping[str, Any], lists: Mapping[str, str]) -> None:
    if manifest.get("lists") != dict(lists):
        commit = str(manifest.get("commit"))
        named = f"of commit {commit[:12]}" if re.fullmatch("[0-9a-f]{40,64}", commit) else "of no known commit"
        raise BundleError(f"it is {named}, and the lists of this clone are others; check out the commit of the bundle")


def _manifest(content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise BundleError("its manifest is damaged")
    return manifest


def _members(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Yield name and size of each member; the reader takes its bytes before the next one.

    Python's reader of archives keeps extended headers of any size in memory, and follows links; a bundle has neither.
    """
    while (block := _read(stream, _BLOCK)) != bytes(_BLOCK):
        try:
            entry = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError):
            raise BundleError("it is damaged, or no bundle of `make bundle`") from None
        if entry.type != tarfile.REGTYPE or entry.size < 0:
            raise BundleError(f"it has {entry.name[:200]!r}, which is no plain file")
        if entry.name == MANIFEST and entry.size > LARGEST_LIST:
            raise BundleError("its manifest is too large")
        yield entry.name, entry.size
        _read(stream, -entry.size % _BLOCK)


def _read(stream: IO[bytes], size: int) -> bytes:
    """Return exactly ``size`` bytes; a network returns fewer at once."""
    parts = []
    while size and (part := stream.read(min(size, _CHUNK))):
        parts.append(part)
        size -= len(part)
    if size:
        raise BundleError("it ends too early: the copy or the download is incomplete")
    return b"".join(parts)


def _take(stream: IO[bytes], size: int, digest: str, objects: Objects) -> None:
    """Write the next ``size`` bytes into DVC's cache as an object, or skip them if the cache has it."""
    parts = (_read(stream, min(_CHUNK, size - start)) for start in range(0, size, _CHUNK))
    if objects.has(digest):
        for _ in parts:
            pass
        return
    total = hashlib.md5(usedforsecurity=False)
    with atomic_write(objects.path(digest)) as temporary:
        with temporary.open("wb") as file:
            for part in parts:
                total.update(part)
                file.write(part)
        if total.hexdigest() != digest.removesuffix(".dir"):
            raise BundleError(f"files/md5/{digest[:2]}/{digest[2:]} has other bytes than its name says")
        # DVC protects the objects of its cache.
        temporary.chmod(0o444)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the bundle of the last commit into ``build/``."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args(argv)
    logging.disable()
    path = write_bundle(Path.cwd(), Path("build"))
    print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB; in a clone: make pull FROM=/path/to/{path.name}")


if __name__ == "__main__":
    run(main)
