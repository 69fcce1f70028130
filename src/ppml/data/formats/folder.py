"""Pictures in files: a folder, or an archive, with a folder for each class."""

from __future__ import annotations

import errno
import io
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import PARTS, FolderDataset
from ppml.config.splits import OfficialSplit
from ppml.data.formats.pictures import fit_pictures
from ppml.data.picture_listing import list_folder
from ppml.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
MODES = {1: "L", 3: "RGB"}
"""Channels -> mode of Pillow."""
MAX_PICTURE_BYTES = 64 * 2**20
"""The size of the largest file that is opened as a picture."""
ORDER_SEED = 0
MAX_PIXELS = 64 * 2**20


@dataclass(frozen=True)
class _File:
    """One file of a folder or an archive.

    Parameters
    ----------
    name : str
        The path below the folder, or in the archive.
    size : int
        The number of bytes.
    read : callable
        Returns the content.
    problem : str
        The reason why it is no plain file; empty if it is one.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    problem: str = ""


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
    parts = PARTS if isinstance(spec.split, OfficialSplit) else ("",)
    with _opened(source) as files:
        visible = [file for file in files if not _is_hidden(file.name)]
        pictures = [file for file in visible if file.name.lower().endswith(SUFFIXES)]
        others = [file.name for file in visible if not file.name.lower().endswith(SUFFIXES)]
        places = _placed(spec, source, pictures)
        _require_classes(spec, source, set(places), others)
        _warn_of_others(source, others)
        rows = _rows(spec, parts, pictures, places)
        found: dict[str, NDArray[Any]] = {}
        for part in parts:
            count = sum(place[0] == part for place in places)
            found[f"{part or 'train'}_images"] = np.empty((count, *_decoded_shape(spec)), dtype=np.uint8)
            found[f"{part or 'train'}_labels"] = np.empty(count, dtype=np.int64)
        # In the order of the archive: a packed one is read from its start for each step back.
        for file, (part, cls), row in zip(pictures, places, rows, strict=True):
            found[f"{part or 'train'}_images"][row] = _decode(spec, source, file)
            found[f"{part or 'train'}_labels"][row] = spec.classes.index(cls)
    if not spec.resize:
        for part in parts:
            found[f"{part or 'train'}_images"] = fit_pictures(spec, found[f"{part or 'train'}_images"])
    return found


def _rows(
    spec: FolderDataset, parts: Sequence[str], pictures: Sequence[_File], places: Sequence[tuple[str, str]]
) -> list[int]:
    """Return the position of each picture in its part."""
    rows = [0] * len(pictures)
    for part in parts:
        chosen = [number for number, place in enumerate(places) if place[0] == part]
        chosen.sort(key=lambda number: (spec.classes.index(places[number][1]), pictures[number].name))
        # Folders have no order across classes, and the first examples of a subset shall have all of them.
        for row, place in enumerate(np.random.default_rng(ORDER_SEED).permutation(len(chosen))):
            rows[chosen[place]] = row
    return rows


def _decoded_shape(spec: FolderDataset) -> tuple[int, ...]:
    """Return the shape of one decoded picture: as in the files, or already resized."""
    if spec.resize:
        return spec.shape
    channels, height, width = spec.stored_shape
    return (channels, width, height) if spec.transpose else (channels, height, width)


@contextmanager
def _opened(source: Path) -> Iterator[list[_File]]:
    """Yield the files of a folder or an archive."""
    if source.is_dir():
        yield [_File(name, path.stat().st_size, path.read_bytes) for name, path in list_folder(source)]
        return
    try:
        # By its start: the search for the end of a zip archive also finds one inside a .tar archive.
        with source.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            with zipfile.ZipFile(source) as archive:
                yield [_of_zip(archive, entry) for entry in archive.infolist() if not entry.is_dir()]
        else:
            with tarfile.open(source) as tar:
                members = tar.getmembers()
                _require_end(tar)
                yield [_of_tar(tar, member) for member in members if not member.isdir()]
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{source}: is no complete archive ({_line(error)}); give a whole one: .tar, .tar.gz, .tar.xz or .zip"
        ) from None
    except (OSError, ValueError) as error:
        # Raised for damaged content as well; an error of the system has another number. EINVAL: before the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{source}: is no complete archive ({_line(error)}); give a whole one") from None


def _of_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _File:
    problem = "is encrypted; pack it without a password" if entry.flag_bits & 1 else ""
    if stat.S_ISLNK(entry.external_attr >> 16):
        problem = "is a link; pack the file itself"
    return _File(entry.filename, entry.file_size, partial(archive.read, entry), problem)


def _require_end(tar: tarfile.TarFile) -> None:
    """Raise an error unless an archive has its end mark, and its rest can be unpacked, which checks its sum.

    The module takes a damaged header, or the end of the file, for the end of the archive.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end mark")
    while tar.fileobj.read(2**20):
        pass


def _of_tar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> _File:
    def read() -> bytes:
        file = tar.extractfile(member)
        return file.read() if file else b""

    problem = "" if member.isfile() else "is a link or a device; pack the file itself, for instance with --dereference"
    return _File(member.name, member.size, read, problem)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _shown(name: str) -> str:
    """Return a name for a message of one line."""
    return name if name.isprintable() else repr(name)


def _is_hidden(name: str) -> bool:
    """Return whether a file, or a folder above it, has a hidden name."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _placed(spec: FolderDataset, source: Path, pictures: Sequence[_File]) -> list[tuple[str, str]]:
    """Return part (empty without the official split) and class of each picture."""
    official = isinstance(spec.split, OfficialSplit)
    depth = 3 if official else 2
    layout = "train/CLASS/PICTURE and test/CLASS/PICTURE" if official else "CLASS/PICTURE"
    # Some systems write an accented letter as two signs.
    classes = {normalize("NFC", cls): cls for cls in spec.classes}
    paths = [PurePosixPath(normalize("NFC", file.name)).parts for file in pictures]
    for file, path in zip(pictures, paths, strict=True):
        if ".." in path or path[0] == "/":
            raise UserError(f"{source}: the name {_shown(file.name)} leads out of the archive; pack it again")
        if file.problem:
            raise UserError(f"{source}: {_shown(file.name)} {file.problem}")
    # An archive often has one folder above all others.
    if source.is_file() and len({path[0] for path in paths}) == 1 and {len(path) for path in paths} == {depth + 1}:
        paths = [path[1:] for path in paths]
    for file, path in zip(pictures, paths, strict=True):
        if len(path) != depth or (official and path[0] not in PARTS):
            raise UserError(f"{source}: {_shown(file.name)} does not lie at {layout}; move it, or state another split")
        if path[-2] not in classes:
            raise UserError(
                f"{source}: {_shown(file.name)} lies in the folder {path[-2]!r}, which is no class; allowed: "
                f"{', '.join(spec.classes)}"
            )
    repeated, times = Counter(paths).most_common(1)[0] if paths else ((), 1)
    if times > 1:
        raise UserError(f"{source}: {_shown('/'.join(repeated))} occurs twice; pack it once")
    return [(path[0] if official else "", classes[path[-2]]) for path in paths]


def _require_classes(spec: FolderDataset, source: Path, found: set[tuple[str, str]], others: Sequence[str]) -> None:
    """Raise an error for the first class without a picture for training; a test may lack a class."""
    official = isinstance(spec.split, OfficialSplit)
    first = "train" if official else ""
    for cls in spec.classes:
        if (first, cls) in found:
            continue
        place = "/".join(part for part in (first, cls) if part)
        reason = f"allowed endings: {', '.join(SUFFIXES)}; add pictures, or leave the class out"
        if nested := [name for name in others if name.lower().endswith(ARCHIVES)]:
            reason = f"{_shown(nested[0])} is an archive, which is not opened; unpack it"
        elif Path(source, place).is_symlink():
            reason = f"{place} is a link, which is not followed; put the folder itself there"
        raise UserError(f"{source}: class {cls!r} has no picture in {place}; {reason}")
    if official and not any(part == "test" for part, _ in found):
        raise UserError(f"{source}: has no picture below test; add the folder, or state another split")


def _warn_of_others(source: Path, names: Sequence[str]) -> None:
    if names:
        print(f"{source}: {len(names)} files are no pictures and are not read, the first one is {_shown(names[0])}")


def _decode(spec: FolderDataset, source: Path, file: _File) -> NDArray[np.uint8]:
    """Return one picture, shape ``(channels, height, width)``."""
    from PIL import Image, UnidentifiedImageError

    place = f"{source}: {_shown(file.name)}"
    if not file.size:
        raise UserError(f"{place} has 0 bytes; replace it")
    # Before it is read: the content of an archive may unpack to any size.
    if file.size > MAX_PICTURE_BYTES:
        raise UserError(f"{place} has {file.size} bytes; at most {MAX_PICTURE_BYTES} are allowed")
    content = file.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
                _check_picture(spec, place, picture)
                pixels = _pixels(picture, MODES[spec.shape[0]])
    except UnidentifiedImageError:
        raise UserError(f"{place} is no PNG or JPEG picture; replace it") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        OverflowError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{place} cannot be decoded ({_line(error)}); replace it") from None
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return fit_pictures(spec, pixels[None])[0] if spec.resize else pixels


def _check_picture(spec: FolderDataset, place: str, picture: Any) -> None:
    """Raise a :class:`UserError` if a picture has another size or mode, before its pixels are decoded."""
    channels, height, width = _decoded_shape(spec)
    if not spec.resize and picture.size != (width, height):
        raise UserError(
            f"{place} has {picture.width}x{picture.height} pixels, and shape states {width}x{height} (width x height); "
            "crop it, or state resize"
        )
    if picture.width * picture.height > MAX_PIXELS:
        raise UserError(f"{place} has {picture.width}x{picture.height} pixels; at most {MAX_PIXELS} are read")
    if picture.mode != MODES[channels] and not spec.convert:
        raise UserError(
            f"{place} has mode {picture.mode}, and shape states {channels} channels, mode {MODES[channels]}; convert "
            "it, or state convert: true"
        )


def _pixels(picture: Any, mode: str) -> NDArray[np.uint8]:
    """Return the pixels in another mode."""
    if picture.mode.startswith("I"):
        from PIL import Image

        # Pillow takes all of 16 bits above 255 for white.
        picture = Image.fromarray((np.asarray(picture, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return np.asarray(picture.convert(mode), dtype=np.uint8)
