"""Small pictures in folders and archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ppml.config.datasets import FolderDataset, parse_dataset

CLASSES = ("cat", "dog")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2")


def pixels(number: int, height: int = 4, width: int = 6, channels: int = 3) -> NDArray[np.uint8]:
    """Return the pixels of a picture, ``(height, width, channels)``, others for each number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encode(values: Any, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """Return the file of a picture."""
    content = io.BytesIO()
    picture = Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
    (picture.convert(mode) if mode else picture).save(content, form, **options)
    return content.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into an archive, of the kind that its name tells."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    packing = "" if path.suffix == ".tar" else path.suffix[1:]
    with tarfile.open(path, f"w:{packing}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def folder_spec(shape: tuple[int, int, int] = (3, 4, 6), **keys: Any) -> FolderDataset:
    """Return a data set of pictures in folders; the place is given to the reader."""
    content = {"kind": "folder", "folder": "/pictures", "classes": list(CLASSES), "split": {"kind": "random"}}
    spec = parse_dataset({**content, "shape": list(shape), **keys})
    assert isinstance(spec, FolderDataset)
    return spec
