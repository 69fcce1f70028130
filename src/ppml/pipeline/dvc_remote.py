"""The lists of tracked files, the objects in DVC's cache, and their transfer from and to the default remote.

DVC reads the configuration, connects, names the objects and transfers them. Three properties of its ``push`` and
``pull`` (measured with DVC 3.67) need checks of this module:

- ``push`` takes a folder for sent if the remote has its list, and an object if a part of it exists, for instance after
  a broken connection over SSH.
- ``fetch`` compares no bytes with the name of the object.
- ``fetch`` writes through links in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.fs.callbacks import TqdmCallback
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB

from ppml.errors import UserError
from ppml.pipeline.safe_paths import follow, is_plain, same_places

TRACKED = ("data", "artifacts")
"""The folders that DVC tracks, at the top level."""
DVC_FILES = tuple(f"{folder}.dvc" for folder in TRACKED)
"""The files in git that name the lists of the tracked files."""
MAX_LINES = 10
"""The largest number of files in a message."""
SITE_CACHE = ".dvc-site"
"""The folder of DVC's file states; `.dvc/config` names it for DVC in the top folder."""
GIVEN = "ppml-given-by-from"
"""The name of a remote that a command line gives. The settings of a user's remote of this name would join it."""
COMMAND = "`.venv/bin/dvc remote add --local -d NAME URL` (docs/sharing.md)"

_SECRET = re.compile("pass|token|secret|access_key|account_key|credential|connection_string")


class RemoteError(UserError):
    """A remote that cannot be used; the message names it, the reason and its configuration file, and no secret."""


@dataclass(frozen=True, order=True)
class TrackedFile:
    """A file that DVC tracks: its path from the top level, and the MD5 of its bytes, the name of its object."""

    path: str
    digest: str


# --- the project and its lists ---------------------------------------------------------------------------------------


@contextmanager
def open_repo(root: Path, url: str = "") -> Iterator[Repo]:
    """Open the project for DVC, with a private folder for DVC's file states.

    Parameters
    ----------
    root : Path
        The folder of the project.
    url : str
        The address of the remote, in place of the default remote.

    Raises
    ------
    UserError
        DVC's settings cannot be read.
    """
    with ExitStack() as stack:
        folder = private_folder(root, SITE_CACHE)
        if folder is None:
            # Without stored states, DVC reads the files once more.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "repo").mkdir(mode=0o700)
        os.environ["DVC_SITE_CACHE_DIR"] = str(folder)
        try:
            given = {"core": {"remote": GIVEN}, "remote": {GIVEN: {"url": url}}} if url else None
            repo = stack.enter_context(Repo(str(root), config=given))
        except DvcException as error:
            # DVC's message quotes the invalid line, which may contain a password.
            why = re.sub(r" \('.*'\)", "", str(error))
            raise UserError(f".dvc/config, .dvc/config.local or DVC's settings of the user: {why}") from None
        yield repo


def private_folder(root: Path, name: str) -> Path | None:
    """Return a folder below ``root`` that no other user may change; create it if it is absent.

    DVC unpickles its files, so a user with write access to them could run code as this user. DVC's default is a folder
    that every user of the machine may write to (CVE-2025-69872), and DVC creates folders with these permissions.

    Returns
    -------
    Path or None
        None if the folder cannot be created, is a link, or belongs to another user.
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
            # Another user may have written these files.
            for child in (folder / "repo").iterdir():
                if child.is_symlink():
                    child.unlink()
                elif child.is_dir():
                    shutil.rmtree(child)
    except OSError:
        return None
    return folder.absolute()


def tracked_lists(root: Path) -> dict[str, str]:
    """Return, for each folder with a ``.dvc`` file, the name of the object that lists its files.

    Raises
    ------
    UserError
        A ``.dvc`` file cannot be read.
    """
    paths = {folder: root / f"{folder}.dvc" for folder in TRACKED}
    return {folder: list_name(path.name, path.read_bytes()) for folder, path in paths.items() if path.is_file()}


def list_name(name: str, content: bytes) -> str:
    """Return the name of the list in a ``.dvc`` file, or raise a :class:`UserError`."""
    try:
        # A valid file has a few lines.
        (out,) = yaml.safe_load(content[:4096].decode("utf-8"))["outs"]
        if f"{out['path']}.dvc" != name:
            raise ValueError(out["path"])
        return _object_name(out["md5"], ".dir")
    except (yaml.YAMLError, LookupError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{name} cannot be read; in the middle of a merge, take one side: git checkout --ours {name}, or --theirs"
        ) from None


def read_list(folder: str, content: bytes) -> list[TrackedFile]:
    """Return the files in the list of a folder.

    Raises
    ------
    UserError
        The content is not a list, or names a file outside of the folder, or one place twice.

    Examples
    --------
    >>> read_list("data", b'[{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "raw/mnist/a.gz"}]')
    [TrackedFile(path='data/raw/mnist/a.gz', digest='d41d8cd98f00b204e9800998ecf8427e')]
    """
    try:
        files = [
            TrackedFile(_path(folder, entry["relpath"]), _object_name(entry["md5"])) for entry in json.loads(content)
        ]
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}.dvc: the list of its files is damaged: {error!r:.200}") from None
    twice = same_places(file.path for file in files)
    if twice:
        raise UserError(f"{folder}.dvc: the list of its files names one place twice: {twice[0]} and {twice[1]}")
    return files


def _path(folder: str, name: Any) -> str:
    """Return the path of a file of a folder, or raise a :class:`ValueError` if it may lie outside of the folder."""
    if not is_plain(name):
        raise ValueError(f"{str(name)[:100]!r} is outside of {folder}/, or not a plain file name")
    return f"{folder}/{name}"


def _object_name(text: Any, suffix: str = "") -> str:
    """Return the name of an object, which becomes part of paths, or raise a :class:`ValueError`."""
    if not (isinstance(text, str) and re.fullmatch("[0-9a-f]{32}" + re.escape(suffix), text)):
        raise ValueError(f"{str(text)[:100]!r} is not the name of an object")
    return text


def md5(path: Path) -> str:
    """Return the MD5 of a file, the name of its object in DVC."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# --- objects ---------------------------------------------------------------------------------------------------------


class Objects:
    """The objects in DVC's cache: files and lists, named by the MD5 of their bytes."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._root = Path(repo.root_dir)
        self._cache: HashFileDB = repo.cache.local

    @cached_property
    def remote(self) -> Remote:
        """The default remote, connected at the first use."""
        return Remote(self._repo)

    def path(self, name: str) -> Path:
        """Return the path of an object in the cache.

        Raises
        ------
        PlaceError
            A folder of the path is a link, so the object would be written to another folder.
        """
        path = Path(self._cache.oid_to_path(name))
        # The user's settings may name another cache; links on the way to it are the user's.
        top = self._root if path.is_relative_to(self._root) else Path(self._cache.path)
        return follow(top, path.relative_to(top).as_posix())

    def has(self, name: str) -> bool:
        """Return whether the cache has an object with the bytes of its name; remove a damaged one."""
        path = self.path(name)
        if path.is_symlink() or (path.is_file() and md5(path) != name.removesuffix(".dir")):
            path.unlink()
        return path.is_file()

    def files(self, lists: Mapping[str, str]) -> list[TrackedFile]:
        """Return the files in the lists that the cache has; raise a :class:`UserError` for an invalid list."""
        found = [(folder, self.path(name).read_bytes()) for folder, name in lists.items() if self.has(name)]
        return [file for folder, content in found for file in read_list(folder, content)]

    def fetch(self, names: Iterable[str]) -> str:
        """Bring the absent objects into the cache; return the reason if some are still absent.

        Raises
        ------
        RemoteError
            The remote cannot be reached.
        """
        absent = [name for name in names if not self.has(name)]
        if not absent:
            return ""
        # DVC's transfer ends at the first object that the remote lacks. If it seems to lack all of them, one request
        # gives the reason: HTTP reports each error as an absent file.
        available = list(self.remote.sizes(absent)) or absent[:1]
        errors = self.remote.copy(self.remote.objects, self._cache, available)
        # After some errors DVC keeps a part of the object, and it compares no bytes.
        if all(map(self.has, absent)):
            return ""
        reasons = [self.remote.reason(error) for error in errors if not isinstance(error, FileNotFoundError)]
        return reasons[0] if reasons else "not in the remote, or damaged in the remote"

    def send(self, names: Iterable[str]) -> int:
        """Send the objects that the remote lacks; return their number.

        Raises
        ------
        RemoteError
            The remote cannot be reached, refuses the objects, or has only a part of one.
        """
        absent = self._absent_in_remote(names)
        errors = self.remote.copy(self._cache, self.remote.objects, absent) if absent else []
        if errors:
            # Some WebDAV servers refuse simultaneous requests (423 Locked).
            errors = self.remote.copy(self._cache, self.remote.objects, self._absent_in_remote(absent), jobs=1)
        if errors:
            raise self.remote.error(f"it takes no files (is it read-only?): {self.remote.reason(errors[0])}")
        if self._absent_in_remote(absent):
            raise self.remote.error("some files did not arrive whole; `make publish` again")
        return len(absent)

    def _absent_in_remote(self, names: Iterable[str]) -> list[str]:
        """Return the objects that the remote lacks, or has with another size."""
        sizes = {name: self.path(name).stat().st_size for name in names}
        found = self.remote.sizes(sizes)
        return sorted(name for name, size in sizes.items() if name not in found or found[name] not in (None, size))


class Remote:
    """The default remote of a project.

    Attributes
    ----------
    objects : HashFileDB
        DVC's access to the objects in the remote.
    exists : bool
        Whether the folder of the remote exists.

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
            raise RemoteError(f"{what}: `make pull FROM=PATH-OR-URL` takes a bundle or a remote; to set one: {COMMAND}")
        self._title = settings["url"] if name == GIVEN else f"{name} ({settings['url']})"
        self._secrets = [
            # A text of three characters is part of many words.
            value
            for key, value in settings.items()
            if _SECRET.search(key) and isinstance(value, str) and len(value) > 3
        ]
        self._origin = _origin(repo, name)
        keyfile = settings.get("keyfile")
        # The error of the connection would not name the file.
        if keyfile and not Path(keyfile).expanduser().is_file():
            raise self.error(f"its keyfile {keyfile} does not exist")
        try:
            remote = repo.cloud.get_remote()
            self.objects: HashFileDB = remote.odb
            # SSH connects at this call. HTTP returns False after any error; the first transfer gives the reason.
            self.exists = bool(self.objects.fs.exists(remote.path))
        except Exception as error:
            raise self.error(self.reason(error)) from None

    def __str__(self) -> str:
        return self._clean(self._title)

    def _clean(self, text: str) -> str:
        """Return ``text`` without passwords and tokens."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        # The text before the last @ is a user name in ssh://, else perhaps a token; so is the text after ?.
        text = re.sub(r"(?<!ssh)://\S+@|(?<=ssh)://[^/@:\s]*:\S*@", "://***@", text)
        return re.sub(r"(://[^\s?]*)\?[^\s)]*", r"\1?***", text)

    def reason(self, error: BaseException) -> str:
        """Return the reason of an error, in one line and without secrets."""
        status = getattr(error, "status", None)
        text = f"{status} {getattr(error, 'message', '')}" if status else getattr(error, "strerror", None) or str(error)
        return self._clean(next(iter(text.strip().splitlines()), "") or type(error).__name__)

    def error(self, reason: str) -> RemoteError:
        """Return the error for a remote that cannot be used."""
        return RemoteError(
            f"the DVC remote {self}: {reason.rstrip('.')}.\nIt is set in {self._origin}; to set another one: {COMMAND}"
        )

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """Return the sizes of those objects that the remote has, None if the server gives no size.

        Raises
        ------
        RemoteError
            The remote cannot be reached.
        """
        names = sorted(names)
        sizes = {}
        try:
            found = self.objects.fs.info([self.objects.oid_to_path(name) for name in names], return_exceptions=True)
            for name, entry in zip(names, found, strict=True):
                if isinstance(entry, FileNotFoundError):
                    continue
                if isinstance(entry, Exception):
                    raise entry
                sizes[name] = entry.get("size")
        except Exception as error:
            raise self.error(self.reason(error)) from None
        return sizes

    def copy(
        self, source: HashFileDB, target: HashFileDB, names: Sequence[str], jobs: int | None = None
    ) -> list[BaseException]:
        """Copy objects, ``jobs`` at a time, over existing ones; return the errors."""
        errors: list[BaseException] = []
        paths = [source.oid_to_path(name) for name in names]
        try:
            with TqdmCallback(desc="Files", unit="file") as progress:
                target.add(
                    paths,
                    source.fs,
                    list(names),
                    check_exists=False,
                    batch_size=jobs,
                    callback=progress,
                    on_error=lambda _, error: errors.append(error),
                )
        except Exception as error:
            errors.append(error)
        return errors


def _origin(repo: Repo, name: str) -> str:
    """Return the place that gives a remote its address, a configuration file or the command."""
    if name == GIVEN:
        return "FROM"
    for level in ("local", "repo", "global", "system"):
        if "url" in repo.config.load_one(level)["remote"].get(name.lower(), {}):
            path = Path(repo.config.files[level])
            return str(path.relative_to(repo.root_dir)) if path.is_relative_to(repo.root_dir) else str(path)
    return ".dvc/config"


# --- messages --------------------------------------------------------------------------------------------------------


def count_files(files: Collection[object]) -> str:
    """Return the number of files, in words."""
    return f"{len(files)} file" + ("s" if len(files) != 1 else "")


def some_lines(lines: Iterable[str]) -> str:
    """Return the first lines, indented, and the number of the others."""
    lines = sorted(lines)
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n".join(f"  {line}" for line in [*lines[:MAX_LINES], *more])
