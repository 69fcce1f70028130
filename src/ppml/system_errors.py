"""One-line descriptions of operating-system errors: operation, file, cause and remedy."""

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

from ppml.io.atomic import TEMP_PREFIX, atomic_write


class Operation(Enum):
    """File operation that the operating system refused; the value completes ``"cannot be "``."""

    READ = "read"
    LIST = "listed"
    WRITE = "written"
    MAKE = "made"
    REMOVE = "removed"
    MOVE = "moved"
    START = "started"
    USE = "used"


# Operation by function of the standard library. The innermost known function on the traceback decides.
_FUNCTIONS = {
    Operation.READ: ("read_text", "read_bytes", "readlink", "file_digest", "sendfile"),
    Operation.LIST: ("iterdir", "glob", "rglob", "_walk", "walk", "scandir", "listdir", "_iterate_directories"),
    Operation.WRITE: ("write_text", "write_bytes", "touch", "copyfileobj", "mkstemp", "_mkstemp_inner", "symlink_to"),
    Operation.MAKE: ("mkdir", "makedirs", "mkdtemp"),
    Operation.REMOVE: ("unlink", "rmdir", "rmtree", "_rmtree_safe_fd", "_rmtree_unsafe"),
    Operation.MOVE: ("rename", "replace", "move", "hardlink_to"),
    Operation.START: ("_execute_child",),
}
_BY_FUNCTION = {name: operation for operation, names in _FUNCTIONS.items() for name in names}


_UNFINISHED = re.compile(rf"{re.escape(TEMP_PREFIX)}[0-9a-f]+-(.+)")


def describe_os_error(error: OSError, *, makes: Callable[[str], bool] = lambda file: False) -> str:
    """Return one line with the file, the refused operation, the cause, and a remedy.

    The operation follows from the traceback of ``error``; the remedy also from the present state of the file and its
    folders.

    Parameters
    ----------
    error : OSError
        A raised error.
    makes : callable
        Returns whether the workflow makes a file.

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
        return f"no folder for temporary files can be used; set TMPDIR to a writable folder ({cause})"
    operation = _operation(error)
    file = _file(error)
    if file is not None and (unfinished := _UNFINISHED.fullmatch(Path(file).name)):
        # Name the target file instead of the temporary file.
        operation, file = Operation.WRITE, str(Path(file).with_name(unfinished[1]))
    if file is None:
        advice = _ADVICE[error.errno](operation, None) if error.errno in _ADVICE and error.errno != errno.ENOENT else ""
        return cause + (f"; {advice}" if advice else "")
    if error.errno == errno.ENOENT and operation in (Operation.READ, Operation.USE) and makes(file):
        advice = "the workflow makes this file: run `make results`"
    else:
        advice = _ADVICE[error.errno](operation, Path(file)) if error.errno in _ADVICE else ""
    return f"{file}: cannot be {operation.value}: {cause}" + (f"; {advice}" if advice else "")


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of the traceback, the innermost first."""
    found: list[FrameType] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    yield from reversed(found)


def _operation(error: OSError) -> Operation:
    for frame in _frames(error):
        name = frame.f_code.co_name
        if name == "open" and isinstance(mode := frame.f_locals.get("mode"), str):
            return Operation.WRITE if set(mode) & set("wxa+") else Operation.READ
        if name in _BY_FUNCTION:
            return _BY_FUNCTION[name]
        if name == atomic_write.__name__:
            return Operation.WRITE
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return Operation.WRITE
    return Operation.USE


def _file(error: OSError) -> str | None:
    """Return the file of an error; a full disk names none, so take the file that was open for writing."""
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
    """Return the name of a file object that is open for writing, else None."""
    name, mode = getattr(value, "name", None), getattr(value, "mode", None)
    if isinstance(name, str) and isinstance(mode, str) and set(mode) & set("wxa+"):
        return name
    return None


def _temporary(path: Path) -> bool:
    """Return whether a file is temporary, by its folder and its name, since projects may be in that folder, too."""
    try:
        below = path.absolute().relative_to(Path(tempfile.gettempdir()).absolute())
    except (OSError, ValueError):
        return False
    return bool(below.parts) and below.parts[0].startswith((tempfile.gettempprefix(), "ppml-"))


def _outputs() -> str:
    return "set `folders` in the configuration to"


def _full(operation: Operation, path: Path | None) -> str:
    if path is not None and _temporary(path):
        return f"free space in the folder for temporary files, {tempfile.gettempdir()}, or set TMPDIR to another folder"
    disk = f"the disk of {_nearest(path)}" if path is not None else "that disk"
    return f"free space on {disk}, or {_outputs()} another one"


def _over_quota(operation: Operation, path: Path | None) -> str:
    if path is not None and _temporary(path):
        return "free space in that quota, or set TMPDIR to a folder on another disk"
    return f"free space in that quota, or {_outputs()} another disk"


def _read_only(operation: Operation, path: Path | None) -> str:
    if path is not None and _temporary(path):
        return "set TMPDIR to a folder that can be written"
    return f"{_outputs()} a disk that can be written"


def _denied(operation: Operation, path: Path | None) -> str:
    if path is None:
        return ""
    for folder in reversed(path.absolute().parents):
        if folder.is_dir() and not os.access(folder, os.X_OK):
            return f"grant permission to enter the folder {folder}"
    match operation:
        case Operation.READ | Operation.USE:
            return "grant read permission, or name another file"
        case Operation.LIST:
            return "grant permission to read the folder"
        case Operation.START:
            # A name without a folder: a folder of PATH may forbid access.
            return "grant permission to execute it" if path.exists() else "install it, or put its folder into PATH"
    own = path.exists() and not os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    scope = "" if own else f" to the folder {_nearest(path.parent)}"
    elsewhere = "set TMPDIR to" if _temporary(path) else _outputs()
    return f"grant write permission{scope}, or {elsewhere} a folder that you own"


def _forbidden(operation: Operation, path: Path | None) -> str:
    if operation in (Operation.READ, Operation.LIST, Operation.START, Operation.USE):
        return "the system forbids it independent of permissions: check its mount options and attributes (lsattr)"
    return f"it belongs to another user, or may not change (lsattr); {_outputs()} a folder that you own"


def _missing(operation: Operation, path: Path | None) -> str:
    if path is None:
        return ""
    if operation is Operation.START:
        return "install it, or put its folder into PATH"
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which does not exist"
    if not path.parent.exists():
        return f"there is no folder {path.parent}"
    return "check the name"


def _is_folder(operation: Operation, path: Path | None) -> str:
    return "it is a folder, where a file is needed; move it elsewhere, or name another file"


def _not_folder(operation: Operation, path: Path | None) -> str:
    for one in reversed(path.absolute().parents) if path is not None else ():
        if one.exists() and not one.is_dir():
            return f"{one} is a file, where a folder is needed; move it elsewhere, or name another folder"
    return "it is a file, where a folder is needed; move it elsewhere, or name another folder"


def _too_long(operation: Operation, path: Path | None) -> str:
    return "use shorter names of arms, partitions and experiments, or shorter `folders`"


def _link_loop(operation: Operation, path: Path | None) -> str:
    return "the links form a circle; make one of them point to a file"


def _too_many_open(operation: Operation, path: Path | None) -> str:
    return "too many files are open at once; raise the limit (ulimit -n 4096), or use fewer cores"


def _hardware(operation: Operation, path: Path | None) -> str:
    return "the disk, or the network behind it, fails; look at the system's log (dmesg)"


def _stale(operation: Operation, path: Path | None) -> str:
    return "the network drive has lost the file; mount it again, and run again"


def _exists(operation: Operation, path: Path | None) -> str:
    if path is not None and path.is_symlink() and not path.exists():
        return f"it is a link to {path.readlink()}, which does not exist; make it, or name another folder"
    return _not_folder(operation, path)


def _busy(operation: Operation, path: Path | None) -> str:
    return "another program uses it; end that, and run again"


def _too_big(operation: Operation, path: Path | None) -> str:
    return "the file system, or a limit (ulimit -f), allows no file of this size"


def _no_memory(operation: Operation, path: Path | None) -> str:
    return "memory is short; use fewer cores, or end other programs"


_ADVICE: dict[int | None, Callable[[Operation, Path | None], str]] = {
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
    errno.ELOOP: _link_loop,
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
    """Return ``path`` if it is a folder, or the nearest of its folders that exists."""
    for one in (path, *path.parents):
        try:
            if stat.S_ISDIR(one.stat().st_mode):
                return one
        except OSError:
            continue
    return path
