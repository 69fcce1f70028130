"""Remotes with real servers: what is published there comes back the same, and who may only read can only read."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.clone import FILES, Clone, apart, first, published, published_once, refused, store, stored

# Fixtures, used by their names.
__all__ = ["apart", "first", "published", "published_once", "store"]

Settings = dict[str, str]
Serve = Callable[..., AbstractContextManager[Settings]]


def program(name: str) -> str:
    """Return the path of a program; without it, the test is skipped."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(log: Path, port: int, *command: str | Path) -> Iterator[None]:
    """Run a server until the block ends."""
    # Not a pipe: sshd's children hold it open as long as their clients live.
    with log.open("w") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        for _ in range(200):
            assert server.poll() is None, log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


@contextmanager
def ssh(folder: Path, *, read_only: bool = False) -> Iterator[Settings]:
    """Serve a folder by OpenSSH as the user who runs the tests, who logs in by a key made for it."""
    sshd, keygen = program("sshd"), program("ssh-keygen")
    if os.getuid() == 0:
        # Where the system has not started its own sshd, the folder that it wants is not there.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    about = folder.parent / f"ssh{'-read' if read_only else ''}"
    about.mkdir()
    for name in ("host", "user", "stranger"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", about / name], check=True)
    shutil.copy(about / "user.pub", about / "authorized_keys")
    port = free_port()
    (about / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {about}/host\nPidFile {about}/pid\n"
        f"AuthorizedKeysFile {about}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"Subsystem sftp internal-sftp {'-R' if read_only else ''}\n"
    )
    with running(about / "log", port, sshd, "-D", "-e", "-f", about / "config"):
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}"
        yield {"url": url, "keyfile": str(about / "user"), "stranger": str(about / "stranger")}


@contextmanager
def webdav(folder: Path, *, read_only: bool = False) -> Iterator[Settings]:
    """Serve a folder by rclone's WebDAV server, with a password."""
    rclone, port = program("rclone"), free_port()
    folder.mkdir(exist_ok=True)
    # Tests change files behind the server's back: it must not remember folders.
    login = (
        "--dir-cache-time",
        "1ms",
        "--user",
        "alice",
        "--pass",
        "open-sesame",
        *(["--read-only"] if read_only else []),
    )
    with running(folder.parent / "log", port, rclone, "serve", "webdav", folder, "--addr", f"127.0.0.1:{port}", *login):
        yield {"url": f"webdav://127.0.0.1:{port}", "user": "alice", "password": "open-sesame"}


@contextmanager
def http(folder: Path, *, read_only: bool = True) -> Iterator[Settings]:
    """Serve a folder by a plain web server."""
    assert read_only
    port = free_port()
    with running(
        folder.parent / "log",
        port,
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        folder,
    ):
        yield {"url": f"http://127.0.0.1:{port}"}


def login(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key != "stranger"}


@pytest.mark.parametrize("serve", [ssh, webdav])
def test_what_is_published_through_a_server_comes_back_the_same(
    first: Clone, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    with serve(served) as settings:
        first.remote(**login(settings))
        first.publish()
        assert first.git("status", "--porcelain", ".dvc") == ""
        first.commit()
        other = first.clone()
        other.remote(**login(settings))
        assert other.pull() == 0
        assert other.files() == FILES
        said = capsys.readouterr()
        assert "open-sesame" not in said.out + said.err
        # DVC itself finds it there, too.
        third = first.clone("third")
        third.remote(**login(settings))
        third.dvc("pull", "-q")
        assert third.files() == FILES


@pytest.mark.parametrize("serve", [ssh, webdav])
def test_what_a_server_lacks_is_named_and_sent_again(
    first: Clone, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    served = tmp_path / "served"
    with serve(served) as settings:
        first.remote(**login(settings))
        first.publish()
        first.commit()
        stored(served, b"model 3").unlink()
        cut = stored(served, b"model 4")
        cut.chmod(0o644)
        cut.write_bytes(b"mod")
        other = first.clone()
        other.remote(**login(settings))
        assert other.pull() == 0
        assert len(other.files()) == len(FILES) - 2
        said = capsys.readouterr().err
        assert f"2 of {len(FILES)} files are not in elsewhere (" in said
        assert "seed3/model.safetensors\n" in said and "seed4/model.safetensors: damaged in the remote\n" in said
        first.publish()
        assert ": 2 of 17 contents are new" in capsys.readouterr().out
        assert other.pull() == 0
        assert other.files() == FILES


@pytest.mark.parametrize("serve", [ssh, webdav, http])
def test_who_may_only_read_pulls_and_cannot_publish(published: Clone, store: Path, serve: Serve) -> None:
    before = sorted(store.rglob("*"))
    with serve(store, read_only=True) as settings:
        other = published.clone()
        other.remote(**login(settings))
        assert other.pull() == 0
        assert other.files() == FILES
        other.write({"artifacts/runs/dp/seed0/model.safetensors": b"new"})
        started = time.monotonic()
        message = refused(other.publish)
        # It does not try for long what cannot succeed: the client that DVC uses would go on for minutes.
        assert time.monotonic() - started < 90
    assert (
        message.startswith("the DVC remote elsewhere (")
        and ": it takes no files (is it for reading only?): " in message
    )
    assert "open-sesame" not in message and "Traceback" not in message
    assert other.git("status", "--porcelain", "data.dvc", "artifacts.dvc") == ""
    assert sorted(store.rglob("*")) == before
    print(message)


def test_a_wrong_key_is_one_line(published: Clone, store: Path) -> None:
    with ssh(store) as settings:
        other = published.clone()
        other.remote(url=settings["url"], keyfile=settings["stranger"])
        assert "): Permission denied for user " in refused(other.pull)


@pytest.mark.parametrize("wrong", [{"password": "guess"}, {"user": "bob"}])
def test_a_wrong_password_is_one_line(published: Clone, store: Path, wrong: Settings) -> None:
    with webdav(store) as settings:
        other = published.clone()
        other.remote(**{**settings, **wrong})
        message = refused(other.pull)
        assert "401 (Unauthorized)" in message and "guess" not in message and "open-sesame" not in message


@contextmanager
def unsteady(folder: Path, broken: set[str], asked: list[str], ended: threading.Event) -> Iterator[Settings]:
    """Serve a folder; of what is ``broken``, half is sent, then nothing until ``ended``, then the connection breaks."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def do_GET(self) -> None:
            name = Path(self.path).name
            asked.append(name)
            if name not in broken:
                super().do_GET()
                return
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            ended.wait()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {"url": f"http://127.0.0.1:{server.server_address[1]}", "read_timeout": "2"}
        finally:
            ended.set()
            server.shutdown()


@pytest.mark.parametrize("how", ["breaks", "stalls"])
def test_what_came_over_a_bad_connection_is_kept_and_the_next_pull_goes_on(
    published: Clone, store: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, asked, ended = stored(store, b"model 7").name, [], threading.Event()
    if how == "breaks":
        ended.set()
    other, broken = published.clone(), {name}
    with unsteady(store, broken, asked, ended) as settings:
        other.remote(**settings)
        started = time.monotonic()
        assert other.pull() == 1
        assert time.monotonic() - started < 60
        missing = "artifacts/runs/fl/seed7/model.safetensors"
        assert other.files() == {path: content for path, content in FILES.items() if path != missing}
        said = capsys.readouterr().err
        assert f"1 of {len(FILES)} files could not be fetched from elsewhere (" in said and f"{missing}: " in said
        assert "`make pull` goes on from here" in said
        broken.clear()
        ended.set()
        asked.clear()
        assert other.pull() == 0
        assert other.files() == FILES
        # The top, the lists, and what was missing.
        assert {file for file in asked if file and not file.endswith(".dir")} == {name}
