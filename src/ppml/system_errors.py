"""One line for an error of the operating system: what was done, the file, the cause, and the remedy that fits."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from ppml.io.atomic import UNFINISHED


class Doing(Enum):
    """What a program was doing with a file when the operating system refused; the value ends ``"cannot be "``."""

    READ = "read"
    LIST = "listed"
    WRITE = "written"
    MAKE = "made"
    REMOVE = "removed"
    MOVE = "moved"
    START = "started"
    USE = "used"


# Functions of the standard library that an error comes out of. The innermost one with a name that is known decides.
_DOING = {
    Doing.READ: ("read_text", "read_bytes", "readlink", "file_digest", "sendfile"),
    Doing.LIST: ("iterdir", "glob", "rglob", "_walk", "walk", "scandir", "listdir", "_iterate_directories"),
    Doing.WRITE: ("write_text", "write_bytes", "touch", "copyfileobj", "mkstemp", "_mkstemp_inner", "symlink_to"),
    Doing.MAKE: ("mkdir", "makedirs", "mkdtemp"),
    Doing.REMOVE: ("unlink", "rmdir", "rmtree", "_rmtree_safe_fd", "_rmtree_unsafe"),
    Doing.MOVE: ("rename", "replace", "move", "hardlink_to"),
    Doing.START: ("_execute_child",),
}
_BY_FUNCTION = {name: doing for doing, names in _DOING.items() for name in names}


_UNFINISHED = re.compile(rf"{re.escape(UNFINISHED)}[0-9a-f]+-(.+)")


def describe_os_error(error: OSError, *, makes: Callable[[str], bool] = lambda file: False) -> str:
    """Return one line: the file, what cannot be done with it, the cause, and what helps.

    What was being done is taken from the traceback of ``error``; the remedy also from how the file and its folders are
    now.

    Parameters
    ----------
    error : OSError
        One that was raised.
    makes : callable
        Tells of a file whether the workflow makes it.

    Examples
    --------
    >>> try:
    ...     Path("no-such-folder/a.txt").read_text()
    ... except OSError as error:
    ...     print(describe_os_error(error))
    no-such-folder/a.txt: cannot be read: No such file or directory; there is no folder no-such-folder
    """
    cause = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and cause.startswith("No usable temporary directory"):
        return f"no folder for temporary files can be used; set TMPDIR to one that can ({cause})"
    doing = _doing(error)
    file = _file(error)
    if file is not None and (unfinished := _UNFINISHED.fullmatch(Path(file).name)):
        # The name of the temporary file tells nobody anything.
        doing, file = Doing.WRITE, str(Path(file).with_name(unfinished[1]))
    if file is None:
        advice = _ADVICE[error.errno](doing, None) if error.errno in _ADVICE and error.errno != errno.ENOENT else ""
        return cause + (f"; {advice}" if advice else "")
    if error.errno == errno.ENOENT and doing in (Doing.READ, Doing.USE) and makes(file):
        advice = "the workflow makes this file: run `make results`"
    else:
        advice = _ADVICE[error.errno](doing, Path(file)) if error.errno in _ADVICE else ""
    return f"{file}: cannot be {doing.value}: {cause}" + (f"; {advice}" if advice else "")


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames that an error came through, the innermost first."""
    found: list[FrameType] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    yield from reversed(found)


def _doing(error: OSError) -> Doing:
    for frame in _frames(error):
        name = frame.f_code.co_name
        if name == "open" and isinstance(mode := frame.f_locals.get("mode"), str):
            return Doing.WRITE if set(mode) & set("wxa+") else Doing.READ
        if name in _BY_FUNCTION:
            return _BY_FUNCTION[name]
        if name == "atomic":
            return Doing.WRITE
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return Doing.WRITE
    return Doing.USE


def _file(error: OSError) -> str | None:
    """Return the file that an error is about: a full disk names none, but what was written to is at hand."""
    if error.filename is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes, os.PathLike)) else None
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EFBIG):
        return None
    for frame in _frames(error):
        for value in frame.f_locals.values():
            if (name := _written(value)) is not None:
                return name
    return None


def _written(value: Any) -> str | None:
    """Return the name of an object that is a file opened for writing."""
    name, mode = getattr(value, "name", None), getattr(value, "mode", None)
    if isinstance(name, str) and isinstance(mode, str) and set(mode) & set("wxa+"):
        return name
    return None


def _temporary(path: Path) -> bool:
    """Return whether a file is a temporary one: by its folder and its name, as projects may lie there, too."""
    try:
        below = path.absolute().relative_to(Path(tempfile.gettempdir()).absolute())
    except (OSError, ValueError):
        return False
    return bool(below.parts) and below.parts[0].startswith((tempfile.gettempprefix(), "ppml-"))


def _outputs() -> str:
    return "set `folders` in the configuration to"


def _full(doing: Doing, path: Path | None) -> str:
    if path is not None and _temporary(path):
        return f"free space in the folder for temporary files, {tempfile.gettempdir()}, or set TMPDIR to another folder"
    disk = f"the disk of {_nearest(path)}" if path is not None else "that disk"
    return f"free space on {disk}, or {_outputs()} another one"


def _over_quota(doing: Doing, path: Path | None) -> str:
    if path is not None and _temporary(path):
        return "free space in that quota, or set TMPDIR to a folder on another disk"
    return f"free space in that quota, or {_outputs()} another disk"


def _read_only(doing: Doing, path: Path | None) -> str:
    if path is not None and _temporary(path):
        return "set TMPDIR to a folder that can be written"
    return f"{_outputs()} a disk that can be written"


def _denied(doing: Doing, path: Path | None) -> str:
    if path is None:
        return ""
    for folder in reversed(path.absolute().parents):
        if folder.is_dir() and not os.access(folder, os.X_OK):
            return f"grant permission to enter the folder {folder}"
    match doing:
        case Doing.READ | Doing.USE:
            return "grant read permission, or name another file"
        case Doing.LIST:
            return "grant permission to read the folder"
        case Doing.START:
            # Of a name without a folder: one of PATH may not be entered.
            return "grant permission to execute it" if path.exists() else "install it, or put its folder into PATH"
    own = path.exists() and not os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    what = "" if own else f" to the folder {_nearest(path.parent)}"
    elsewhere = "set TMPDIR to" if _temporary(path) else _outputs()
    return f"grant write permission{what}, or {elsewhere} a folder that is yours"


def _forbidden(doing: Doing, path: Path | None) -> str:
    if doing in (Doing.READ, Doing.LIST, Doing.START, Doing.USE):
        return "the system forbids it whatever the permissions: look at its mount options and attributes (lsattr)"
    return f"it belongs to another user, or may not change (lsattr); {_outputs()} a folder that is yours"


def _missing(doing: Doing, path: Path | None) -> str:
    if path is None:
        return ""
    if doing is Doing.START:
        return "install it, or put its folder into PATH"
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which is not there"
    if not path.parent.exists():
        return f"there is no folder {path.parent}"
    return "check the name"


def _is_folder(doing: Doing, path: Path | None) -> str:
    return "a folder lies where a file should be; move it elsewhere, or name another file"


def _not_folder(doing: Doing, path: Path | None) -> str:
    for one in reversed(path.absolute().parents) if path is not None else ():
        if one.exists() and not one.is_dir():
            return f"{one} is a file, where a folder is needed; move it elsewhere, or name another folder"
    return "it is a file, where a folder is needed; move it elsewhere, or name another folder"


def _too_long(doing: Doing, path: Path | None) -> str:
    return "use shorter names of arms, partitions and experiments, or shorter `folders`"


def _circle(doing: Doing, path: Path | None) -> str:
    return "links lead to each other in a circle; make one of them point to a file"


def _too_many_open(doing: Doing, path: Path | None) -> str:
    return "too many files are open at once; raise the limit (ulimit -n 4096), or use fewer cores"


def _hardware(doing: Doing, path: Path | None) -> str:
    return "the disk, or the network behind it, fails; look at the system's log (dmesg)"


def _stale(doing: Doing, path: Path | None) -> str:
    return "the network drive has lost the file; mount it again, and run again"


def _exists(doing: Doing, path: Path | None) -> str:
    if path is not None and path.is_symlink() and not path.exists():
        return f"it is a link to {path.readlink()}, which is not there; make that, or name another folder"
    return _not_folder(doing, path)


def _busy(doing: Doing, path: Path | None) -> str:
    return "another program uses it; end that, and run again"


def _too_big(doing: Doing, path: Path | None) -> str:
    return "the file system, or a limit (ulimit -f), allows no file of this size"


def _no_memory(doing: Doing, path: Path | None) -> str:
    return "memory is short; use fewer cores, or end other programs"


_ADVICE: dict[int | None, Callable[[Doing, Path | None], str]] = {
    errno.ENOSPC: _full,
    errno.EDQUOT: _over_quota,
    errno.EROFS: _read_only,
    errno.EACCES: _denied,
    errno.EPERM: _forbidden,
    errno.ENOENT: _missing,
    errno.EISDIR: _is_folder,
    errno.ENOTDIR: _not_folder,
    errno.EEXIST: _exists,
    errno.ENAMETOOLONG: _too_long,
    errno.ELOOP: _circle,
    errno.EMFILE: _too_many_open,
    errno.ENFILE: _too_many_open,
    errno.EIO: _hardware,
    errno.ESTALE: _stale,
    errno.EBUSY: _busy,
    errno.ETXTBSY: _busy,
    errno.EFBIG: _too_big,
    errno.ENOMEM: _no_memory,
}


def _nearest(path: Path) -> Path:
    """Return ``path`` if it is there, or the nearest of its folders that is."""
    for one in (path, *path.parents):
        try:
            if stat.S_ISDIR(one.stat().st_mode):
                return one
        except OSError:
            continue
    return path
