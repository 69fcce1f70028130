"""Pictures in files: a folder, or an archive, with a folder for each class."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import PARTS, FolderDataset
from ppml.config.splits import OfficialSplit
from ppml.data.formats.pictures import fit_pictures
from ppml.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = {1: "L", 3: "RGB"}
"""Channels -> mode of Pillow."""
MAX_PICTURE_BYTES = 64 * 2**20
"""The size of the largest file that is opened as a picture."""
ORDER_SEED = 0
MAX_PIXELS = 64 * 2**20

Read = Callable[[], bytes]
"""Returns the content of a file."""
Picture = tuple[str, str, str, Read]
"""Part (empty without the official split), class, name for messages, and the content."""


def decode_folder(spec: FolderDataset, source: Path) -> dict[str, NDArray[Any]]:
    """Return the decoded pictures and labels of each part, ``train_images``, ``train_labels``, ``test_images``, ...

    Without the official split, all examples are in ``train_images`` and ``train_labels``. The order of the examples is
    a fixed shuffle of the classes and names.

    Parameters
    ----------
    spec : FolderDataset
        The data set.
    source : Path
        A folder, or an archive; no file is unpacked on the disk.

    Raises
    ------
    UserError
        A picture cannot be decoded, or has another size or mode; a class has no picture; a folder is no class.
    """
    official = isinstance(spec.split, OfficialSplit)
    with _opened(source) as files:
        named = [(name, read) for name, read in files if not _is_hidden(name)]
        pictures = sorted(_placed(spec, source, named, official), key=lambda one: one[:3])
        _require_classes(spec, source, pictures, PARTS if official else ("",))
        _warn_of_others(source, [name for name, _ in named if not name.lower().endswith(SUFFIXES)])
        found: dict[str, NDArray[Any]] = {}
        for part in PARTS if official else ("",):
            chosen = [picture for picture in pictures if picture[0] == part]
            chosen.sort(key=lambda one: (spec.classes.index(one[1]), one[2]))
            # Folders have no order across classes, and the first examples of a subset shall have all of them.
            chosen = [chosen[place] for place in np.random.default_rng(ORDER_SEED).permutation(len(chosen))]
            images = [_decode(spec, source, name, read) for _, _, name, read in chosen]
            # Pictures of other sizes are resized one by one.
            fitted = np.stack(images) if spec.resize else fit_pictures(spec, np.stack(images))
            found[f"{part or 'train'}_images"] = fitted
            found[f"{part or 'train'}_labels"] = np.array(
                [spec.classes.index(one[1]) for one in chosen], dtype=np.int64
            )
    return found


def list_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder, as ``class/name``, in order.

    Raises
    ------
    UserError
        The folder does not exist, or a folder in it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; name the folder that has a folder for each class")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


@contextmanager
def _opened(source: Path) -> Iterator[list[tuple[str, Read]]]:
    """Yield the files of a folder or an archive, with their names."""
    if source.is_dir():
        yield [(name, path.read_bytes) for name, path in list_folder(source)]
        return
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
                yield [(entry.filename, partial(archive.read, entry)) for entry in entries]
        else:
            with tarfile.open(source) as tar:
                # In the order of the archive: a packed one has no other access.
                contents = [(member.name, _read_member(tar, member)) for member in tar if member.isfile()]
            yield [(name, partial(bytes, content)) for name, content in contents]
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError) as error:
        raise UserError(f"{source}: is no complete archive ({error}); allowed: .tar, .tar.gz, .tar.xz, .zip") from None


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _placed(spec: FolderDataset, source: Path, files: Sequence[tuple[str, Read]], official: bool) -> Iterator[Picture]:
    """Yield each picture with its part and its class."""
    depth = 3 if official else 2
    layout = "train/CLASS/PICTURE and test/CLASS/PICTURE" if official else "CLASS/PICTURE"
    for name, read in files:
        if not name.lower().endswith(SUFFIXES):
            continue
        parts = PurePosixPath(name).parts
        # An archive often has one folder above all others.
        parts = parts[-depth:] if len(parts) == depth + 1 and source.is_file() else parts
        if len(parts) != depth or (official and parts[0] not in PARTS):
            raise UserError(f"{source}: {name} does not lie at {layout}; move it, or state another split")
        cls = parts[-2]
        if cls not in spec.classes:
            raise UserError(
                f"{source}: {name} lies in the folder {cls!r}, which is no class; allowed: {', '.join(spec.classes)}"
            )
        yield (parts[0] if official else "", cls, name, read)


def _require_classes(spec: FolderDataset, source: Path, pictures: Sequence[Picture], parts: Sequence[str]) -> None:
    """Raise an error for the first class without a picture for training; a test may lack a class."""
    found = {(part, cls) for part, cls, *_ in pictures}
    for cls in spec.classes:
        if (parts[0], cls) not in found:
            place = "/".join(part for part in (parts[0], cls) if part)
            raise UserError(
                f"{source}: class {cls!r} has no picture in {place}; allowed endings: {', '.join(SUFFIXES)}; add "
                "pictures, or leave the class out"
            )
    if "test" in parts and not any(part == "test" for part, _ in found):
        raise UserError(f"{source}: has no picture below test; add the folder, or state another split")


def _warn_of_others(source: Path, names: Sequence[str]) -> None:
    if names:
        print(f"{source}: {len(names)} files are no pictures and are not read, the first one is {names[0]}")


def _decode(spec: FolderDataset, source: Path, name: str, read: Read) -> NDArray[np.uint8]:
    """Return one picture, shape ``(channels, height, width)``."""
    from PIL import Image, UnidentifiedImageError

    place = f"{source}: {name}"
    channels, height, width = spec.stored_shape
    height, width = (width, height) if spec.transpose else (height, width)
    try:
        content = read()
        if not content:
            raise UserError(f"{place} has 0 bytes; replace it")
        if len(content) > MAX_PICTURE_BYTES:
            raise UserError(f"{place} has {len(content)} bytes; at most {MAX_PICTURE_BYTES} are allowed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
                if not spec.resize and picture.size != (width, height):
                    raise UserError(
                        f"{place} has {picture.width}x{picture.height} pixels, and shape states {width}x{height}; "
                        "crop it, or state resize"
                    )
                if picture.width * picture.height > MAX_PIXELS:
                    raise UserError(
                        f"{place} has {picture.width}x{picture.height} pixels; at most {MAX_PIXELS} are read"
                    )
                wanted = MODES[channels]
                if picture.mode != wanted and not spec.convert:
                    raise UserError(
                        f"{place} has mode {picture.mode}, and shape states {channels} channels, mode {wanted}; "
                        "convert it, or state convert: true"
                    )
                pixels = np.asarray(picture.convert(wanted), dtype=np.uint8)
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        if isinstance(error, PermissionError):
            raise
        raise UserError(f"{place} is no PNG or JPEG picture that can be decoded ({error}); replace it") from None
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return fit_pictures(spec, pixels[None])[0] if spec.resize else pixels
