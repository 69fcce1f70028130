"""A bundle holds all published files of a commit, is a remote when unpacked, and a hostile one changes nothing."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ppml.pipeline.bundle import write_bundle
from tests.workflow.clone import FILES, Clone, error_of, run, stored, stored_list
from tests.workflow.project import ROOT

pytestmark = pytest.mark.usefixtures("isolated")

Members = dict[str, bytes]
MODEL = "artifacts/runs/fl/seed0/model.safetensors"
OBJECT = stored(Path(), FILES[MODEL]).as_posix()


@pytest.fixture
def bundle(published: Clone, store: Path, tmp_path: Path) -> Path:
    """Return the bundle of a project whose remote no longer exists."""
    path = write_bundle(published.folder, tmp_path / "bundles")
    shutil.rmtree(store)
    return path


@pytest.fixture
def reader(published: Clone) -> Clone:
    """Return a clone without a remote, as the project is published."""
    clone = published.clone("reader")
    shutil.copy(ROOT / ".dvc/config", clone.folder / ".dvc/config")
    return clone


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder by a web server of another process, and yield its address."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        port = server.stdout.readline().split(" port ")[1].split()[0]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def members_of(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def unpack(path: Path, folder: Path) -> Path:
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_bundle_has_the_committed_objects_only(published: Clone, bundle: Path, tmp_path: Path) -> None:
    commit = published.git("rev-parse", "HEAD").strip()
    assert bundle.name == f"ppml-{commit[:12]}.tar"
    content = members_of(bundle)
    manifest = json.loads(content["manifest.json"])
    assert (manifest["commit"], manifest["files"]) == (commit, len(FILES))
    lists = {stored_list(Path(), published, folder).as_posix() for folder in ("data", "artifacts")}
    assert content.keys() == {"manifest.json", *lists, *(stored(Path(), one).as_posix() for one in FILES.values())}
    published.write({MODEL: b"later"})
    published.dvc("add", "-q", "artifacts")
    again = write_bundle(published.folder, tmp_path / "again")
    assert again.read_bytes() == bundle.read_bytes()


def test_bundle_without_an_object_is_not_written(published: Clone, tmp_path: Path) -> None:
    stored(published.folder / ".dvc/cache", FILES[MODEL]).unlink()
    message = error_of(lambda: write_bundle(published.folder, tmp_path / "bundles"))
    assert message.startswith("1 file") and message.splitlines()[1:] == [f"  {MODEL}"]
    assert not (tmp_path / "bundles").exists()
    assert "data.dvc" in error_of(lambda: write_bundle(Clone.first(tmp_path / "new").folder, tmp_path))


@pytest.mark.parametrize("how", ["file", "folder", "address", "address of the folder"])
def test_reader_pulls_every_file(reader: Clone, bundle: Path, tmp_path: Path, how: str) -> None:
    unpack(bundle, tmp_path / "it's $unpacked")
    with web_server(tmp_path) as address:
        sources = {
            "file": str(bundle),
            "folder": str(tmp_path / "it's $unpacked"),
            "address": f"{address}/bundles/{bundle.name}",
            "address of the folder": f"{address}/it's%20$unpacked",
        }
        done = run(reader, "-m", "ppml.pipeline.pull", f"--from={sources[how]}")
    assert (done.returncode, done.stderr.splitlines()[:1]) == (0, []), done.stderr
    assert reader.files() == FILES
    assert "up to date" in reader.dvc("status", "data.dvc", "artifacts.dvc")


def test_bare_dvc_pulls_from_a_static_web_server(reader: Clone, bundle: Path, tmp_path: Path) -> None:
    with web_server(unpack(bundle, tmp_path / "unpacked")) as address:
        reader.dvc("remote", "add", "-d", "web", address)
        reader.dvc("pull", "-q")
    assert reader.files() == FILES


def test_clone_without_remote_says_how_to_get_files(reader: Clone) -> None:
    done = run(reader, "-m", "ppml.pipeline.pull")
    first, second = done.stderr.splitlines()
    assert done.returncode == 1 and "no DVC remote" in first and "make pull FROM=" in first
    assert "make results" in second
    assert reader.files() == {}


def with_member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> Callable[[Members], bytes]:
    """Return a change of a bundle that adds a member."""

    def change(members: Members) -> bytes:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, "/etc/passwd", len(content)
        return written(members, (entry, content))

    return change


def written(members: Members, *more: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry, content in more:
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def huge(members: Members) -> bytes:
    """Announce an object of 8 GB."""
    start = written({name: members[name] for name in members if name != OBJECT}).rstrip(b"\0")
    entry = tarfile.TarInfo(OBJECT)
    entry.size = 8 * 2**30 - 1
    return start + bytes(-len(start) % 512) + entry.tobuf(tarfile.USTAR_FORMAT) + bytes(4096)


def extended(members: Members) -> bytes:
    entry = tarfile.TarInfo("x" * 300)
    return written(members, (entry, b""), form=tarfile.PAX_FORMAT)


def other_commit(members: Members) -> bytes:
    manifest = json.loads(members["manifest.json"])
    manifest |= {"commit": "a" * 40, "lists": {**manifest["lists"], "data": "b" * 32 + ".dir"}}
    return written({**members, "manifest.json": json.dumps(manifest).encode()})


def without(name: str) -> Callable[[Members], bytes]:
    return lambda members: written({own: content for own, content in members.items() if own != name})


HOSTILE: dict[str, tuple[Callable[[Members], bytes], str]] = {
    "a path outside": (with_member("../../outside.txt", b"bad"), "outside.txt"),
    "an absolute path": (with_member("/tmp/outside.txt", b"bad"), "outside.txt"),
    "a path of the project": (with_member("src/ppml/__init__.py", b"bad"), "src/ppml/__init__.py"),
    "an object of no list": (with_member(f"files/md5/aa/{'b' * 30}", b"bad"), "files/md5/aa/"),
    "a second copy": (with_member(OBJECT, FILES[MODEL]), OBJECT),
    "a link": (with_member(OBJECT, kind=tarfile.SYMTYPE), "no plain file"),
    "a hard link": (with_member("a", kind=tarfile.LNKTYPE), "no plain file"),
    "a device": (with_member("a", kind=tarfile.CHRTYPE), "no plain file"),
    "extended headers": (extended, "no plain file"),
    "a huge object": (huge, "8,589,934,591 bytes"),
    "wrong bytes": (lambda members: written({**members, OBJECT: b"mod_l 0"}), "other bytes"),
    "an absent object": (without(OBJECT), "lacks 1 file"),
    "no manifest": (without("manifest.json"), "no bundle"),
    "another commit": (other_commit, "aaaaaaaaaaaa"),
    "a cut end": (lambda members: written(members)[:-12_000], "too early"),
    "a web page": (lambda members: b"<html>" + b" " * 2000, "no bundle"),
    "nothing": (lambda members: b"", "too early"),
}


@pytest.mark.parametrize(("change", "sign"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bundle_is_one_line_and_changes_nothing(
    reader: Clone, bundle: Path, tmp_path: Path, change: Callable[[Members], bytes], sign: str
) -> None:
    bundle.write_bytes(change(members_of(bundle)))
    before = sorted(tmp_path.iterdir())
    message = error_of(lambda: reader.pull(str(bundle)))
    assert sign in message and str(bundle) in message and "nothing was pulled" in message and "\n" not in message
    assert reader.files() == {} and reader.git("status", "--porcelain") == " M .dvc/config\n"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("source", "sign"),
    [
        ("nowhere", "no such file or folder"),
        ("ftp://example.org/a.tar", "http or https"),
        ("~no-such-user/a", "no such file or folder"),
        ("http://127.0.0.1:1/a.tar?token=secret#secret", "127.0.0.1:1/a.tar: cannot be read"),
        ("http://user:secret@127.0.0.1/a.tar", "no password"),
        ("http://user:secret@[::1/a.tar", "not valid"),
        ("http://user:secret@example.org:x/a", "not valid"),
        ("http://127.0.0.1:1/my bundle.tar?token=secret", "%20"),
        ("http://127.0.0.1:1/\x1b[2J\n.tar", "%20"),
    ],
)
def test_unusable_source_is_one_line(reader: Clone, source: str, sign: str) -> None:
    message = error_of(lambda: reader.pull(source))
    assert sign in message and "secret" not in message and "\n" not in message


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:1/a.tar", "file:///etc/passwd"])
def test_redirect_leaves_the_web_for_no_other_scheme(
    reader: Clone, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302, "moved\x1b[2J")
            self.send_header("Location", target)
            self.end_headers()

    monkeypatch.setattr(Redirect, "log_message", lambda *_: None)
    with HTTPServer(("127.0.0.1", 0), Redirect) as server:
        Thread(target=server.handle_request).start()
        message = error_of(lambda: reader.pull(f"http://127.0.0.1:{server.server_port}/a.tar"))
    assert ("unknown url type: ftp" if target.startswith("ftp") else "not allowed") in message
    assert message.isprintable()
