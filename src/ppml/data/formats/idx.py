"""Arrays in the format of MNIST's files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppml.errors import UserError

GZIP = b"\x1f\x8b"
"""The first bytes of a packed file."""
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Type code in an IDX file -> type of its values."""


def read_idx(path: Path) -> NDArray[np.generic]:
    """Return the array of an IDX file: two zeros, the type, the number of axes, their lengths, the values.

    http://yann.lecun.com/exdb/mnist describes the format. The reader of torchvision takes unpacked files, and a
    temporary one may not fit on the disk. A file without gzip is read as it is.

    Raises
    ------
    UserError
        The file is no IDX file.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content.startswith(GZIP) else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is no complete gzip file ({error}); pack it again") from None
    try:
        zeros, code, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
        if zeros or not axes:
            raise ValueError("it does not begin with two zeros, a type and a number of axes")
        start, kind = 4 + 4 * axes, np.dtype(_IDX_TYPES[code])
        if len(content) != (needed := start + math.prod(shape) * kind.itemsize):
            raise ValueError(f"it has {len(content)} bytes, and shape {'x'.join(map(str, shape))} needs {needed}")
        return np.frombuffer(content, kind, offset=start).reshape(shape)
    except KeyError:
        raise UserError(f"{path}: is no IDX file (type {code} is unknown); give one in the format of MNIST") from None
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: is no IDX file ({error}); give one in the format of MNIST's files") from None
