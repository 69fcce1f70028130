"""Objects of a DVC remote and of DVC's cache, and their transfer in both directions.

DVC reads the configuration, connects and names the objects, but transfers only whole folders: its fetch stops at the
first missing object, and its push trusts its memory of earlier ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from fsspec import Callback  # type: ignore[import-untyped]

from ppml.errors import UserError
from ppml.io.atomic import atomic_write
from ppml.pipeline.safe_paths import follow, is_plain, same_places

TRACKED = ("data", "artifacts")
"""The folders that DVC tracks, at the top level."""
DVC_FILES = tuple(f"{folder}.dvc" for folder in TRACKED)
"""The files in git that name their objects."""
SHOWN = 10
"""How many files a message names."""
AT_ONCE = 8
"""How many files are on their way at a time."""
ABSENT = "not in the remote"
DAMAGED = "damaged in the remote"
LARGEST_LIST = 64 * 2**20
"""Bytes that the list of a folder's files may have: half a million files."""
SITE_CACHE = ".dvc-site"
"""The folder of DVC's memory of files; `.dvc/config` names it for DVC in the top folder."""
OTHERWISE = "`make results` computes everything"
COMMAND = "`.venv/bin/dvc remote add --local -d NAME URL` (docs/sharing.md)"

_SECRET = re.compile("pass|token|secret|access_key|account_key|credential|connection_string")


class RemoteError(UserError):
    """A remote that cannot be used; the message names it, the reason and an alternative, and contains no secret."""


@dataclass(frozen=True, order=True)
class TrackedFile:
    """A file that DVC tracks.

    Parameters
    ----------
    path : str
        Relative to the top level.
    digest : str
        MD5 of its bytes, the name of its object.
    """

    path: str
    digest: str


# --- published files -------------------------------------------------------------------------------------------------


@contextmanager
def open_repo(root: Path) -> Iterator[Repo]:
    """Open the project for DVC, with a private folder for its memory of files.

    Raises
    ------
    UserError
        DVC's settings cannot be read.
    """
    with ExitStack() as stack:
        folder = private_folder(root, SITE_CACHE)
        if folder is None:
            # It remembers nothing, then, and reads the files once more.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "repo").mkdir(mode=0o700)
        os.environ["DVC_SITE_CACHE_DIR"] = str(folder)
        try:
            repo = stack.enter_context(Repo(str(root)))
        except DvcException as error:
            # The line may hold a password.
            why = re.sub(r" \('.*'\)", "", str(error))
            raise UserError(f".dvc/config, .dvc/config.local or DVC's settings of the user: {why}") from None
        yield repo


def private_folder(root: Path, name: str) -> Path | None:
    """Return a folder below ``root`` that no other user may change, made if it is not there.

    DVC unpickles its files, so a user with write access there could run code as this user. Its own choice is a folder
    that every user of the machine may write to (CVE-2025-69872), and where it makes a folder, that is open to all.

    Returns
    -------
    Path or None
        None where it cannot be made, is a link, or belongs to another user.
    """
    folder, was_open = root / name, False
    try:
        for part in (folder, folder / "repo"):
            if not os.path.lexists(part):
                part.mkdir(mode=0o700)
            found = part.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                return None
            was_open = was_open or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
            if found.st_mode & 0o077:
                part.chmod(0o700)
        if was_open:
            # Another user may have put these files there.
            for child in (folder / "repo").iterdir():
                if child.is_symlink():
                    child.unlink()
                elif child.is_dir():
                    shutil.rmtree(child)
    except OSError:
        return None
    return folder.absolute()


def tracked(root: Path) -> dict[str, str]:
    """Return each folder that has a ``.dvc`` file, and the name of the object that lists its files.

    Raises
    ------
    UserError
        A ``.dvc`` file cannot be read.
    """
    found = {}
    for folder in TRACKED:
        if (root / f"{folder}.dvc").is_file():
            found[folder] = _read_dvc(root / f"{folder}.dvc")[0]
    return found


def tracked_size(root: Path) -> int:
    """Return how many bytes the tracked files have together, as the ``.dvc`` files say; no file has more."""
    return sum(_read_dvc(root / name)[1] for name in DVC_FILES if (root / name).is_file())


def _read_dvc(path: Path) -> tuple[str, int]:
    """Return the name of the object that lists the files of a folder, and their size together."""
    try:
        # A valid file has a few lines.
        (out,) = yaml.safe_load(path.read_bytes()[:4096].decode("utf-8"))["outs"]
        if out["path"] != path.stem:
            raise ValueError(out["path"])
        size = out["size"]
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            raise ValueError(size)
        return _name(out["md5"], ".dir"), size
    except (yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path.name} cannot be read; in the middle of a merge, take one side: "
            f"git checkout --ours {path.name}, or --theirs"
        ) from None


def read_list(folder: str, content: bytes) -> list[TrackedFile]:
    """Return the files that an object with a list names.

    Raises
    ------
    UserError
        It is no list, names a file that is outside of the folder, or one place twice.

    Examples
    --------
    >>> read_list("data", b'[{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "raw/mnist/a.gz"}]')
    [Published(path='data/raw/mnist/a.gz', digest='d41d8cd98f00b204e9800998ecf8427e')]
    """
    try:
        files = [TrackedFile(_path(folder, entry["relpath"]), _name(entry["md5"])) for entry in json.loads(content)]
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}.dvc: the list of its files is damaged: {error!r:.200}") from None
    twice = same_places(file.path for file in files)
    if twice:
        raise UserError(f"{folder}.dvc: the list of its files names one place twice: {twice[0]} and {twice[1]}")
    return files


def _path(folder: str, name: Any) -> str:
    """Return the path of a file of a folder, or raise a :class:`ValueError` if it may lie outside of it."""
    if not is_plain(name):
        raise ValueError(f"{str(name)[:100]!r} is outside of {folder}/, or no plain name of a file")
    return f"{folder}/{name}"


def _name(text: Any, suffix: str = "") -> str:
    """Return the name of an object, which becomes part of paths, or raise a :class:`ValueError`."""
    if not (isinstance(text, str) and re.fullmatch("[0-9a-f]{32}" + re.escape(suffix), text)):
        raise ValueError(f"{str(text)[:100]!r} is no name of an object")
    return text


def md5(path: Path) -> str:
    """Return the MD5 of a file, by which DVC names its object."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class Cache:
    """DVC's cache in ``.dvc/cache``: objects, named by the MD5 of their bytes."""

    def __init__(self, repo: Repo) -> None:
        self._objects = repo.cache.local
        self._root = Path(repo.root_dir)

    def path(self, name: str) -> Path:
        """Return where an object lies, or would.

        Raises
        ------
        PlaceError
            A folder on the way is a link: the object would be written elsewhere.
        """
        path = Path(self._objects.oid_to_path(name))
        # Where the settings of this user say that the cache lies elsewhere, the way there is theirs.
        top = self._root if path.is_relative_to(self._root) else Path(self._objects.path)
        return follow(top, path.relative_to(top).as_posix())

    def has(self, name: str) -> bool:
        """Return whether an object exists, and remove a damaged one."""
        path = self.path(name)
        if path.is_symlink() or (path.is_file() and md5(path) != _sum(name)):
            path.unlink()
        return path.is_file()

    def content(self, name: str) -> bytes | None:
        """Return a small object, None if it is not there."""
        return self.path(name).read_bytes() if self.has(name) else None

    def add(self, name: str, write: Callable[[Path], object]) -> bool:
        """Add an object that ``write`` writes; return False if its bytes do not match its name."""
        path = self.path(name)
        try:
            with atomic_write(path) as temporary:
                write(temporary)
                if md5(temporary) != _sum(name):
                    raise ValueError(name)
        except ValueError:
            return False
        # DVC never looks again at the bytes of an object that cannot be written.
        self._objects.protect(str(path))
        return True


def _sum(name: str) -> str:
    return name.removesuffix(".dir")


# --- a remote -------------------------------------------------------------------------------------------------------


class Remote:
    """The default remote.

    Parameters
    ----------
    repo : Repo
        The project, as DVC sees it.

    Raises
    ------
    RemoteError
        No remote is set, or it cannot be reached.
    """

    def __init__(self, repo: Repo) -> None:
        name = str(repo.config["core"].get("remote") or "")
        settings: Mapping[str, Any] = repo.config["remote"].get(name.lower(), {})
        if not settings:
            what = f"the default remote {name} is not defined" if name else "no DVC remote is set"
            raise RemoteError(f"{what}; to set one: {COMMAND}")
        self._title = f"{name} ({settings['url']})"
        self._secrets = [
            # A shorter text is no secret, and a part of many words.
            value
            for key, value in settings.items()
            if _SECRET.search(key) and isinstance(value, str) and len(value) > 3
        ]
        self._origin = _origin(repo, name)
        keyfile = settings.get("keyfile")
        # Connecting says no more than "no such file".
        if keyfile and not Path(keyfile).expanduser().is_file():
            raise self.error(f"its keyfile {keyfile} does not exist")
        try:
            remote = repo.cloud.get_remote()
            self._objects = remote.odb
            self._files = remote.odb.fs
            # SSH connects here. HTTP and WebDAV return False for any error; reading a manifest gives the reason.
            self._exists = self._files.exists(remote.path)
        except Exception as error:
            raise self.error(self.reason(error)) from None

    def __str__(self) -> str:
        return self.clean(self._title)

    def clean(self, text: str) -> str:
        """Return ``text`` without passwords and tokens."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        # The text before the last @ is a user name in ssh://, else perhaps a token; so is the text after ?.
        text = re.sub(r"(?<!ssh)://\S+@|(?<=ssh)://[^/@:\s]*:\S*@", "://***@", text)
        return re.sub(r"(://[^\s?]*)\?[^\s)]*", r"\1?***", text)

    def reason(self, error: BaseException) -> str:
        """Return in one line why something failed."""
        status = getattr(error, "status", None)
        text = f"{status} {getattr(error, 'message', '')}" if status else getattr(error, "strerror", None) or str(error)
        return self.clean(next(iter(text.strip().splitlines()), "") or type(error).__name__)

    def error(self, reason: str) -> RemoteError:
        """Return the error for a remote that cannot be used."""
        return RemoteError(
            f"the DVC remote {self}: {reason.rstrip('.')}.\nIt is set in {self._origin}; to set another one: {COMMAND}"
        )

    def nothing(self) -> RemoteError:
        """Return the error for a remote without any object of this commit."""
        if self._exists:
            return self.error("nothing of this commit is there; who made it must `make publish`")
        return self.error("there is no such folder")

    def content(self, name: str) -> bytes | None:
        """Return a small object, None if it is not there.

        Raises
        ------
        RemoteError
            The remote cannot be reached, or does not let this user read.
        """
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "list"
                self._get(name, path, LARGEST_LIST)
                return path.read_bytes()
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self.error(self.reason(error)) from None

    def _get(self, name: str, path: Path, largest: int) -> None:
        """Bring an object; raise a :class:`TooLargeError` as soon as it has more bytes than it may."""
        self._files.get_file(self._objects.oid_to_path(name), str(path), callback=_AtMost(largest))
        if path.stat().st_size > largest:
            raise TooLargeError(largest)

    def fetch(self, names: Iterable[str], cache: Cache, largest: int) -> dict[str, str]:
        """Bring objects of at most so many bytes into the cache; return, for each that did not come, why."""

        def take(name: str) -> bool:
            return cache.add(name, lambda path: self._get(name, path, largest))

        def bring(name: str) -> str:
            try:
                # A transfer may have damaged the object.
                whole = take(name) or take(name)
            except FileNotFoundError:
                return ABSENT
            except Exception as error:
                return self.reason(error)
            return "" if whole else DAMAGED

        return _each(bring, sorted(names), "fetched")

    def missing(self, names: Collection[str], cache: Cache) -> list[str]:
        """Return those objects of the cache that are not in the remote, or not whole.

        DVC remembers pushed objects, and takes a folder for complete if its manifest exists; this method asks for each.
        """
        try:
            there = sorted(self._objects.oids_exist(set(names)))
            about = self._files.info([self._objects.oid_to_path(name) for name in there], return_exceptions=True)
        except Exception as error:
            raise self.error(self.reason(error)) from None
        whole = set()
        for name, found in zip(there, about, strict=True):
            # An upload that broke off leaves a part of the file on some servers.
            if isinstance(found, Mapping) and found.get("size") in (None, cache.path(name).stat().st_size):
                whole.add(name)
        return sorted(set(names) - whole)

    def send(self, names: Sequence[str], cache: Cache) -> str:
        """Take objects of the cache to the remote; return why that failed, empty if it did not."""

        def make(folder: str) -> str:
            return self._attempt(lambda: self._files.makedirs(folder, exist_ok=True))

        def put(name: str) -> str:
            target = self._objects.oid_to_path(name)
            failed = self._attempt(lambda: self._files.put_file(str(cache.path(name)), target))
            return failed or self._attempt(lambda: self._objects.protect(target))

        folders = sorted({self._files.parent(self._objects.oid_to_path(name)) for name in names})
        for work, items, done in ((make, folders, ""), (put, names, "sent")):
            # The first alone: what may not be written says so once. Then the others, and what failed once more, alone:
            # some servers refuse one of two requests at a time (423 Locked).
            failed = work(items[0]) or next(filter(None, map(work, _each(work, items[1:], done))), "")
            if failed:
                return failed
        return ""

    def _attempt(self, action: Callable[[], object]) -> str:
        try:
            action()
        except FileNotFoundError:
            # A WebDAV server that only reads says of a folder that it is there already, and then that it is not.
            return "no folder can be made there"
        except Exception as error:
            return self.reason(error)
        return ""


class TooLargeError(ValueError):
    """An object has more bytes than allowed, so its content does not match its name."""

    def __init__(self, largest: int) -> None:
        super().__init__(f"it has more than {largest:,} bytes, and is not what its name stands for")


class _AtMost(Callback):  # type: ignore[misc]
    """Ends a transfer that brings more bytes than it may: a disk is full sooner than a server is empty."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self._largest = largest

    def set_size(self, size: int | None) -> None:
        """Check the announced size."""
        super().set_size(size)
        self._require(size or 0)

    def relative_update(self, inc: int = 1) -> None:
        """Check the received size."""
        super().relative_update(inc)
        self._require(self.value)

    def absolute_update(self, value: int) -> None:
        """Check the received size."""
        super().absolute_update(value)
        self._require(value)

    def _require(self, size: int) -> None:
        if size > self._largest:
            raise TooLargeError(self._largest)


def _origin(repo: Repo, name: str) -> str:
    """Return the configuration file that gives a remote its address."""
    for level in ("local", "repo", "global", "system"):
        if "url" in repo.config.load_one(level)["remote"].get(name.lower(), {}):
            path = Path(repo.config.files[level])
            return str(path.relative_to(repo.root_dir)) if path.is_relative_to(repo.root_dir) else str(path)
    return ".dvc/config"


def _each(work: Callable[[str], str], items: Sequence[str], done: str) -> dict[str, str]:
    """Call a function for each item, several at a time; return its non-empty messages by item."""
    said = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for count, (item, text) in enumerate(zip(items, pool.map(work, items), strict=True), 1):
                if text:
                    said[item] = text
                if done and sys.stderr.isatty():
                    print(f"\r{done} {count} of {len(items)}", end="", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            if done and items and sys.stderr.isatty():
                print(file=sys.stderr)
    return said


@dataclass
class DirectoryManifests:
    """The directory manifests of the tracked folders.

    Parameters
    ----------
    names : dict
        Folder -> name of the object with its list.
    contents : dict
        Folder -> content of that object, if available.
    """

    names: dict[str, str]
    contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> list[TrackedFile]:
        """The files that the lists name."""
        return [file for folder, content in self.contents.items() for file in read_list(folder, content)]

    @property
    def unknown(self) -> list[str]:
        """The folders without a list."""
        return [folder for folder in self.names if folder not in self.contents]

    def read(self, content_of: Callable[[str], bytes | None]) -> None:
        """Take up each list that ``content_of`` its name gives whole."""
        for folder, name in self.names.items():
            content = content_of(name)
            if content is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() == _sum(name):
                self.contents[folder] = content


def count_files(files: Collection[object]) -> str:
    """Return how many files there are, in words."""
    return f"{len(files)} file" + ("s" if len(files) != 1 else "")


def some_lines(lines: Iterable[str]) -> str:
    """Return the first lines, indented, and how many more there are."""
    lines = sorted(lines)
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:SHOWN], *more])
