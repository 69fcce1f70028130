"""Arrays in a .npz file of NumPy."""

from __future__ import annotations

import errno
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.suggestions import shorten, suggestion
from ppml.errors import UserError

SHOWN = 20
"""Names that a message shows at most."""
LONGEST_HEADER = 2**20
"""Bytes before the values of an array at most."""
_read_header_2_0 = np.lib.format.read_array_header_2_0


def read_npz(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """Return the arrays with ``names``; no other array of the file is read, and no Python object.

    Raises
    ------
    UserError
        The file is damaged, has no array of a name, or the array holds objects.
    """
    if not path.stat().st_size:
        raise UserError(f"{path}: has 0 bytes; give the complete file")
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise UserError(f"{path}: is no .npz file; save the arrays with numpy.savez_compressed")
    try:
        with zipfile.ZipFile(path) as archive:
            stored = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            return [_read_array(path, archive, stored, name) for name in names]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, LZMAError, NotImplementedError, RuntimeError) as error:
        # An error of the system, for instance of a disk, has another number. EINVAL: a position before the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{path}: is no .npz file that can be read ({' '.join(str(error).split())}); give the complete file"
        ) from None


def _read_array(path: Path, archive: zipfile.ZipFile, stored: Mapping[str, zipfile.ZipInfo], name: str) -> NDArray[Any]:
    if name not in stored:
        named = shorten([*map(repr, stored)], SHOWN) or "none"
        raise UserError(
            f"{path}: has no array {name!r}; {suggestion(name, stored)}it has {named}; name them "
            "in train_arrays and test_arrays"
        )
    size = stored[name].file_size
    try:
        with archive.open(stored[name]) as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header_2_0
            shape, _, dtype = read_header(file)
            # An array of objects is a pickle, and reading one may run any code.
            if dtype.hasobject:
                raise UserError(f"{path}: the array {name!r} holds objects of Python; save numbers")
            needed = math.prod(shape) * dtype.itemsize
            # Before the memory is taken.
            if not 0 <= size - needed <= LONGEST_HEADER:
                raise ValueError(f"it has {size} bytes, and shape {'x'.join(map(str, shape))} needs {needed}")
        with archive.open(stored[name]) as file:
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return found
    except (ValueError, SyntaxError, TypeError, TokenError) as error:
        raise UserError(
            f"{path}: the array {name!r} cannot be read ({' '.join(str(error).split())}); save it again"
        ) from None
