"""The classes of torchvision.datasets, which read their own published files."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import TorchvisionDataset
from ppml.errors import UserError

PART_OPTIONS: Mapping[str, Any] = {
    "SVHN": lambda part: {"split": part},
}
"""Class -> options of a part, for the classes without the option ``train``."""
FOLDERS = {"EMNIST": "EMNIST/raw"}
"""Class -> the folder of its archive; the others have it at the top."""
_DAMAGED = (EOFError, OSError, pickle.UnpicklingError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


@contextmanager
def torchvision_folder(spec: TorchvisionDataset, files: Mapping[str, Path], parts: Sequence[str]) -> Iterator[Path]:
    """Provide a temporary folder beside the files, in which the class unpacks its archive once for all ``parts``.

    So no folder of a mirror changes. The folder has a new name each time: what an interrupted job left in one is never
    read.

    Raises
    ------
    UserError
        The files are not those of the class.
    """
    cls = _class(spec)
    # The class would download a file that is absent or has another content, and write it through the link.
    for name, md5 in {name: md5 for part in parts for name, md5 in _published(cls, part).items()}.items():
        if name not in files:
            raise UserError(f"files: torchvision.datasets.{spec.dataset} needs {name}, which is not listed; add it")
        with files[name].open("rb") as file:
            found = hashlib.file_digest(file, _md5).hexdigest()
        if found != md5:
            raise UserError(
                f"{files[name]}: has MD5 {found}, and torchvision.datasets.{spec.dataset} reads the file with {md5} "
                "only; give that file"
            )
    beside = next(iter(files.values())).parent
    with tempfile.TemporaryDirectory(dir=beside, prefix=".unpacked-") as folder:
        archive_folder = Path(folder, FOLDERS.get(spec.dataset, ""))
        archive_folder.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            (archive_folder / name).symlink_to(path.resolve())
        yield Path(folder)


def read_torchvision(spec: TorchvisionDataset, folder: Path, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pictures, as the class yields them, and the labels of one official part.

    The class checks its checksums of unpacked files as well.

    Parameters
    ----------
    spec : TorchvisionDataset
        The data set.
    folder : Path
        The folder of :func:`torchvision_folder`.
    part : {"train", "test"}
        The part.

    Raises
    ------
    UserError
        The class cannot read the files.
    """
    own = PART_OPTIONS.get(spec.dataset, lambda part: {"train": part == "train"})(part)
    try:
        # The archive is there and has its checksum, so nothing is downloaded.
        examples = _class(spec)(str(folder), download=True, **own, **spec.options)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, *_DAMAGED) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"torchvision.datasets.{spec.dataset}, {part}: the files cannot be read "
            f"({' '.join(str(error).split())}); correct files or options"
        ) from None
    pictures, labels = [], []
    for picture, label in examples:
        pictures.append(np.asarray(picture))
        labels.append(int(label))
    return np.stack(pictures), np.asarray(labels, dtype=np.int64)


def _class(spec: TorchvisionDataset) -> Any:
    from torchvision import datasets

    return getattr(datasets, spec.dataset)


def _published(cls: Any, part: str) -> dict[str, str]:
    """Return the name and the MD5 of each published file that a class reads for a part."""
    if hasattr(cls, "tgz_md5"):
        return {cls.filename: cls.tgz_md5}
    if hasattr(cls, "split_list"):
        _, name, md5 = cls.split_list[part]
        return {name: md5}
    return {cls.url.rsplit("/", 1)[1]: cls.md5}


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
