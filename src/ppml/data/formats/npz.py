"""Arrays in a .npz file of NumPy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.errors import UserError


def read_npz(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """Return the arrays with ``names``; no other array of the file is read, and no Python object.

    Raises
    ------
    UserError
        The file is damaged, has no array of a name, or the array holds objects.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise UserError(f"{path}: is no .npz file; save the arrays with numpy.savez_compressed")
            found = []
            for name in names:
                if name not in content.files:
                    raise UserError(
                        f"{path}: has no array {name!r}; it has {', '.join(content.files) or 'none'}; name them in "
                        "train_arrays and test_arrays"
                    )
                found.append(content[name])
            return found
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path}: is no .npz file that can be read ({' '.join(str(error).split())})") from None
