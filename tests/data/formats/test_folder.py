"""Pictures in folders and archives: the decoded pixels, and one line for each fault."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ppml.data.formats import folder as reader
from ppml.data.formats.folder import decode_folder
from ppml.errors import UserError

from .pictures import ARCHIVES, CLASSES, encode, folder_spec, pixels, write_archive, write_folder
from .tables import one_line

FILES = {
    f"{cls}/{number}.png": encode(pixels(100 * place + number))
    for place, cls in enumerate(CLASSES)
    for number in range(5)
}
"""Five pictures for each of two classes."""
OFFICIAL = {"kind": "official"}


def one_class(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files, with one good picture of each class."""
    return {"cat/0.png": FILES["cat/0.png"], "dog/0.png": FILES["dog/0.png"], **files}


def as_set(images: NDArray[Any], labels: NDArray[Any]) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


# --- right pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_their_pixels_and_classes(height: int, width: int, channels: int, tmp_path: Path) -> None:
    files, expected = {}, []
    for place, cls in enumerate(CLASSES):
        for number in range(6):
            values = pixels(10 * place + number, height, width, channels)
            files[f"{cls}/{number}.PNG"] = encode(values)
            expected.append((values.transpose(2, 0, 1).tobytes(), place))
    found = decode_folder(folder_spec((channels, height, width)), write_folder(tmp_path / "pictures", files))
    assert found["train_images"].shape == (12, channels, height, width) and found["train_images"].dtype == np.uint8
    assert as_set(found["train_images"], found["train_labels"]) == sorted(expected)
    assert {*found["train_labels"][:6].tolist()} == {0, 1} and {*found} == {"train_images", "train_labels"}


@pytest.mark.parametrize("form", ["jpg", "jpeg", "JPG"])
def test_jpeg_is_as_pillow_decodes_it(form: str, tmp_path: Path) -> None:
    content = encode(pixels(1, 32, 32), "JPEG", quality=75)
    found = decode_folder(
        folder_spec((3, 32, 32)), write_folder(tmp_path, {f"{cls}/1.{form}": content for cls in CLASSES})
    )
    expected = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
    assert np.array_equal(found["train_images"], [expected, expected])


@pytest.mark.parametrize("ending", ARCHIVES)
@pytest.mark.parametrize("above", ["", "pictures/", "./", "./pictures/"])
@pytest.mark.parametrize("official", [False, True])
def test_archive_and_folder_have_the_same_order(ending: str, above: str, official: bool, tmp_path: Path) -> None:
    files = {f"{part}/{name}": FILES[name] for part in ("train", "test") for name in FILES} if official else FILES
    spec = folder_spec(split=OFFICIAL if official else {"kind": "random"})
    backwards = {f"{above}{name}": files[name] for name in reversed(files)}
    found = decode_folder(spec, write_archive(tmp_path / f"pictures{ending}", backwards))
    expected = decode_folder(spec, write_folder(tmp_path / "pictures", files))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert found["train_images"].shape == (10, 3, 4, 6) and ("test_images" in found) == official


def test_nothing_of_an_archive_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_archive(tmp_path / f"pictures{ending}", FILES) for ending in ARCHIVES]
    before = sorted(tmp_path.rglob("*"))
    for cls, name in (
        (tarfile.TarFile, "_extract_one"),
        (tarfile.TarFile, "makefile"),
        (zipfile.ZipFile, "_extract_member"),
    ):
        assert hasattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *arguments, **options: pytest.fail("a file is unpacked"))
    monkeypatch.setattr("tempfile._get_candidate_names", lambda: pytest.fail("a temporary file is made"))
    monkeypatch.chdir(tmp_path)
    for path in paths:
        assert len(decode_folder(folder_spec(), path)["train_labels"]) == 10
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar.gz"])
def test_hidden_and_other_files_are_left_out(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = {
        ".DS_Store": b"x",
        "__MACOSX/cat/._0.png": b"x",
        "cat/._0.png": b"x",
        ".git/a.png": b"x",
        "cat/.a/b.png": b"x",
    }
    others = {"cat/Thumbs.db": b"x", "README": b"x", "dog/0.bmp": b"x", "labels.csv": b"x"}
    files = {**FILES, **hidden, **others}
    source = write_folder(tmp_path / "a", files) if kind == "folder" else write_archive(tmp_path / f"a{kind}", files)
    assert len(decode_folder(folder_spec(), source)["train_labels"]) == 10
    assert "4 files are no pictures" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("stated", ["NFC", "NFD"])
def test_accented_class_is_found_in_both_spellings(form: Any, stated: Any, tmp_path: Path) -> None:
    files = {unicodedata.normalize(form, f"{cls}/0.png"): FILES["cat/0.png"] for cls in ("b\u00e4r", "dog")}
    spec = folder_spec(classes=[unicodedata.normalize(stated, "b\u00e4r"), "dog"])
    assert sorted(decode_folder(spec, write_archive(tmp_path / "a.tar", files))["train_labels"]) == [0, 1]


def test_test_may_lack_a_class(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in FILES.items()} | {"test/dog/1.png": FILES["dog/1.png"]}
    found = decode_folder(folder_spec(split=OFFICIAL), write_folder(tmp_path, files))
    assert found["test_labels"].tolist() == [1]


def test_rules_of_size_are_applied(tmp_path: Path) -> None:
    source = write_folder(tmp_path, FILES)
    plain = decode_folder(folder_spec(), source)["train_images"]
    swapped = decode_folder(folder_spec((3, 6, 4), transpose=True), source)["train_images"]
    assert np.array_equal(swapped, plain.transpose(0, 1, 3, 2))
    framed = decode_folder(folder_spec((3, 8, 10), border=2), source)["train_images"]
    assert np.array_equal(framed, np.pad(plain, ((0, 0), (0, 0), (2, 2), (2, 2))))
    both = decode_folder(folder_spec((3, 10, 8), border=2, transpose=True), source)["train_images"]
    assert np.array_equal(both, framed.transpose(0, 1, 3, 2))
    same = decode_folder(folder_spec(resize=[4, 6]), source)["train_images"]
    assert np.array_equal(same, plain)
    half = decode_folder(folder_spec((3, 4, 5), resize=[2, 3], border=1), source)["train_images"]
    assert half.shape == (10, 3, 4, 5) and not half[:, :, 0].any() and not half[..., -1].any()
    assert half[:, :, 1:-1, 1:-1].mean() == pytest.approx(plain.mean(), rel=0.05)


def test_pictures_of_many_sizes_are_resized(tmp_path: Path) -> None:
    files = {
        f"{cls}/{side}.png": encode(np.full((side, 2 * side, 3), side, np.uint8))
        for cls in CLASSES
        for side in (1, 4, 9, 50)
    }
    found = decode_folder(folder_spec((3, 8, 8), resize=[8, 8]), write_folder(tmp_path, files))["train_images"]
    # One colour keeps its colour.
    assert sorted(image[0, 0, 0] for image in found) == [1, 1, 4, 4, 9, 9, 50, 50]
    assert (found == found[:, :, :1, :1]).all()


MODES = {
    "palette": ("P", encode(pixels(1), mode="P")),
    "transparency": ("RGBA", encode(pixels(1, channels=4))),
    "transparent palette": ("P", encode(pixels(1), mode="P", transparency=0)),
    "gray": ("L", encode(pixels(1), mode="L")),
    "gray with transparency": ("LA", encode(pixels(1), mode="LA")),
    "two colours": ("1", encode(pixels(1), mode="1")),
    "16 bits": ("I;16", encode(np.arange(24, dtype=np.uint16).reshape(4, 6) * 2800)),
    "print": ("CMYK", encode(pixels(1), "JPEG", mode="CMYK")),
}


@pytest.mark.parametrize("name", MODES)
def test_other_mode_is_refused_unless_it_shall_be_converted(name: str, tmp_path: Path) -> None:
    mode, content = MODES[name]
    place = "dog/1.jpg" if mode == "CMYK" else "dog/1.png"
    source = write_folder(tmp_path, one_class({place: content}))
    one_line(source, lambda: decode_folder(folder_spec(), source), place, f"mode {mode}", "3 channels", "convert: true")
    found = decode_folder(folder_spec(convert=True), source)
    assert len(found["train_labels"]) == 3
    if mode != "I;16":
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
        assert (expected.tobytes(), 1) in as_set(found["train_images"], found["train_labels"])


def test_picture_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2800
    files = {f"{cls}/1.png": encode(values) for cls in CLASSES}
    found = decode_folder(folder_spec((1, 4, 6), convert=True), write_folder(tmp_path, files))
    assert np.array_equal(found["train_images"][0, 0], values // 256)


def test_colour_among_gray_pictures_is_refused(tmp_path: Path) -> None:
    files = {"cat/0.png": encode(pixels(1), mode="L"), "dog/0.png": FILES["dog/0.png"]}
    source = write_folder(tmp_path, files)
    one_line(source, lambda: decode_folder(folder_spec((1, 4, 6)), source), "dog/0.png", "mode RGB", "1 channels")


# --- wrong pictures -------------------------------------------------------------------------------------------------

LARGE = encode(pixels(0, 64, 64))


def huge(side: int) -> bytes:
    """Return a PNG picture that states a size and has no pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar"])
@pytest.mark.parametrize(
    ("name", "content", "keys", "pieces"),
    [
        ("cat/1.png", b"", {}, ["0 bytes"]),
        ("cat/1.png", b"no picture", {}, ["no PNG or JPEG"]),
        ("cat/1.png", encode(pixels(1), "GIF"), {}, ["no PNG or JPEG"]),
        ("cat/1.jpg", encode(pixels(1), "BMP"), {}, ["no PNG or JPEG"]),
        ("cat/1.png", LARGE[:40], {"resize": [4, 6]}, ["no PNG or JPEG"]),
        ("cat/1.png", LARGE[: len(LARGE) // 2], {"resize": [4, 6]}, ["cannot be decoded", "truncated"]),
        ("cat/1.jpg", encode(pixels(1), "JPEG")[:-100], {}, ["cannot be decoded"]),
        ("cat/1.png", FILES["cat/1.png"][:50] + bytes(20) + FILES["cat/1.png"][70:], {}, ["cannot be decoded"]),
        ("cat/1.png", encode(pixels(1, 4, 5)), {}, ["5x4 pixels", "6x4", "resize"]),
        ("cat/1.png", encode(pixels(1, 6, 4)), {}, ["4x6 pixels", "6x4"]),
        ("cat/1.png", huge(9000), {"resize": [4, 6]}, ["9000x9000 pixels", "at most"]),
        ("cat/1.png", huge(100_000), {"resize": [4, 6]}, ["cannot be decoded", "decompression bomb"]),
        ("cat/1.png", huge(9000), {}, ["9000x9000 pixels", "6x4"]),
        ("bird/1.png", FILES["cat/1.png"], {}, ["'bird'", "no class", "cat, dog"]),
        ("1.png", FILES["cat/1.png"], {}, ["CLASS/PICTURE"]),
        ("cat/young/1.png", FILES["cat/1.png"], {}, ["CLASS/PICTURE"]),
        ("cat/a\nb.png", b"x", {}, [r"'cat/a\nb.png'"]),
    ],
)  # fmt: skip
def test_bad_picture_is_named(
    kind: str, name: str, content: bytes, keys: dict[str, Any], pieces: list[str], tmp_path: Path
) -> None:
    files = one_class({name: content})
    source = write_folder(tmp_path / "a", files) if kind == "folder" else write_archive(tmp_path / f"a{kind}", files)
    named = name if name.isprintable() else repr(name)
    one_line(source, lambda: decode_folder(folder_spec(**keys), source), named, *pieces)


def test_no_damaged_picture_ends_in_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = [FILES["cat/1.png"], encode(pixels(1), "JPEG"), MODES["palette"][1], MODES["16 bits"][1]]
    spec, source = folder_spec(convert=True), write_folder(tmp_path, one_class({}))
    for _ in range(200):
        content = bytearray(plain[rng.integers(len(plain))])
        for place in rng.integers(0, len(content), 2):
            content[place] = rng.integers(256)
        (source / "cat/1.png").write_bytes(bytes(content))
        with contextlib.suppress(UserError):
            decode_folder(spec, source)


@pytest.mark.parametrize("packed", [False, True])
def test_class_without_pictures_is_refused(packed: bool, tmp_path: Path) -> None:
    cats = {name: content for name, content in FILES.items() if name.startswith("cat")}
    source = write_folder(tmp_path / "a", cats)
    (source / "dog").mkdir()
    source = write_archive(tmp_path / "a.tar", cats) if packed else source
    one_line(source, lambda: decode_folder(folder_spec(), source), "class 'dog' has no picture", "add pictures")


@pytest.mark.parametrize(
    ("files", "official", "pieces"),
    [
        ({f"train/{name}": content for name, content in FILES.items()}, True, ["no picture below test"]),
        (
            {f"test/{name}": content for name, content in FILES.items()},
            True,
            ["class 'cat' has no picture in train/cat"],
        ),
        (FILES, True, ["cat/0.png", "train/CLASS/PICTURE"]),
        ({f"train/{name}": content for name, content in FILES.items()}, False, ["train/cat/0.png", "another split"]),
        ({"cat.zip": b"x", **FILES, "dog/0.png": b""}, False, ["dog/0.png has 0 bytes"]),
        ({"all/cat.tar.gz": b"x"}, False, ["all/cat.tar.gz is an archive", "unpack it"]),
        ({}, False, ["class 'cat' has no picture"]),
        ({"cat/1.webp": b"x", "dog/1.tif": b"x"}, False, ["class 'cat' has no picture", ".png, .jpg, .jpeg"]),
    ],
)
def test_wrong_layout_is_refused(files: dict[str, bytes], official: bool, pieces: list[str], tmp_path: Path) -> None:
    source = write_folder(tmp_path, files)
    spec = folder_spec(split=OFFICIAL if official else {"kind": "random"})
    one_line(source, lambda: decode_folder(spec, source), *pieces)


def test_absent_folder_and_link_to_a_folder_are_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    one_line(tmp_path, lambda: decode_folder(folder_spec(), write_folder(tmp_path, {})), "no picture")
    with pytest.raises(OSError, match="absent"):
        decode_folder(folder_spec(), absent)
    source = write_folder(tmp_path / "a", {"dog/1.png": FILES["dog/1.png"]})
    write_folder(tmp_path / "b", {"cat/1.png": FILES["cat/1.png"]})
    (source / "cat").symlink_to(tmp_path / "b" / "cat")
    one_line(source, lambda: decode_folder(folder_spec(), source), "cat is a link")
    (source / "cat").unlink()
    (source / "cat").mkdir()
    (source / "cat" / "1.png").symlink_to(tmp_path / "b" / "cat" / "1.png")
    os.mkfifo(source / "cat" / "2.png")
    assert decode_folder(folder_spec(), source)["train_labels"].tolist().count(0) == 1


# --- wrong archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../cat/1.png", "cat/../../1.png", "/cat/1.png", "cat/../dog/1.png"])
@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_name_that_leads_out_is_refused(name: str, ending: str, tmp_path: Path) -> None:
    source = write_archive(tmp_path / f"a{ending}", one_class({name: FILES["cat/1.png"]}))
    one_line(source, lambda: decode_folder(folder_spec(), source), name, "leads out")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_link_and_device_are_refused(kind: bytes, tmp_path: Path) -> None:
    source = write_archive(tmp_path / "a.tar", FILES)
    with tarfile.open(source, "a") as tar:
        member = tarfile.TarInfo("cat/9.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    one_line(source, lambda: decode_folder(folder_spec(), source), "cat/9.png is a link or a device")


def test_link_in_zip_and_encrypted_zip_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.zip"
    link = zipfile.ZipInfo("cat/9.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    write_archive(source, FILES)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    one_line(source, lambda: decode_folder(folder_spec(), source), "cat/9.png is a link")
    content = bytearray(write_archive(source, FILES).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(bytes(content))
    one_line(source, lambda: decode_folder(folder_spec(), source), "cat/0.png is encrypted")


@pytest.mark.parametrize("ending", ARCHIVES)
@pytest.mark.parametrize("damage", ["short", "half", "content", "text", "empty"])
def test_damaged_archive_is_one_line(ending: str, damage: str, tmp_path: Path) -> None:
    source = write_archive(
        tmp_path / f"a{ending}", {f"{cls}/{n}.png": encode(pixels(n, 20, 20)) for cls in CLASSES for n in range(9)}
    )
    plain = source.read_bytes()
    half = len(plain) // 2
    source.write_bytes(
        {
            "short": plain[:-1] if ending != ".tar" else plain[: plain.rindex(b"IEND")],
            "half": plain[:half],
            "content": plain[:half] + bytes(byte ^ 255 for byte in plain[half : half + 600]) + plain[half + 600 :],
            "text": b"no archive",
            "empty": b"",
        }[damage]
    )
    one_line(source, lambda: decode_folder(folder_spec((3, 20, 20)), source))


@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_repeated_name_is_refused(ending: str, tmp_path: Path) -> None:
    source = write_archive(tmp_path / f"a{ending}", FILES)
    again = {"./cat/1.png": FILES["cat/2.png"]}
    if ending == ".zip":
        with zipfile.ZipFile(source, "a") as archive:
            archive.writestr("./cat/1.png", again["./cat/1.png"])
    else:
        with tarfile.open(source, "a") as tar:
            member = tarfile.TarInfo("./cat/1.png")
            member.size = len(again["./cat/1.png"])
            tar.addfile(member, io.BytesIO(again["./cat/1.png"]))
    one_line(source, lambda: decode_folder(folder_spec(), source), "cat/1.png occurs twice")


def test_pictures_below_two_folders_are_not_merged(tmp_path: Path) -> None:
    files = {f"{part}/{name}": content for part in ("train", "test") for name, content in FILES.items()}
    source = write_archive(tmp_path / "a.tar", files)
    one_line(source, lambda: decode_folder(folder_spec(), source), "train/cat/0.png", "another split")


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_picture_that_unpacks_to_any_size_is_not_read(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_PICTURE_BYTES", 10_000)
    # Other files of any size are not read.
    source = write_archive(tmp_path / f"a{ending}", one_class({"a.bin": bytes(10**6), "cat/1.png": bytes(10_001)}))
    one_line(source, lambda: decode_folder(folder_spec(), source), "cat/1.png has 10001 bytes")


def test_archive_inside_an_archive_does_not_hide_it(tmp_path: Path) -> None:
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("bird/1.png", b"x")
    source = write_archive(tmp_path / "a.tar", {**FILES, "z.zip": nested.getvalue()})
    assert len(decode_folder(folder_spec(), source)["train_labels"]) == 10
