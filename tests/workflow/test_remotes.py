"""Remotes on real servers: pulled files equal the published ones, and a read-only server accepts no files."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.clone import FILES, Clone, error_of, stored

pytestmark = pytest.mark.usefixtures("isolated")

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
    # The children of sshd keep a pipe open until their clients end.
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
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
    """Serve a folder by OpenSSH as the user of the tests, with a new key for the login."""
    sshd, keygen = program("sshd"), program("ssh-keygen")
    if os.getuid() == 0:
        # The start script of the system's sshd creates this folder.
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
    # The tests change files in the folder, so the server must not cache it.
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
def unreliable(folder: Path, broken: set[str], requests: list[str], ended: threading.Event) -> Iterator[Settings]:
    """Serve a folder; of ``broken`` objects, send half, wait for ``ended``, and close the connection."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def do_GET(self) -> None:
            name = Path(self.path).name
            requests.append(name)
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
            """Print no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {"url": f"http://127.0.0.1:{server.server_address[1]}", "read_timeout": "2"}
        finally:
            ended.set()
            server.shutdown()


@contextmanager
def http(folder: Path, *, read_only: bool = True) -> Iterator[Settings]:
    """Serve a folder by a plain web server."""
    assert read_only
    with unreliable(folder, set(), [], threading.Event()) as settings:
        yield settings


def login(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key != "stranger"}


@pytest.mark.parametrize("serve", [ssh, webdav])
def test_pulled_files_equal_published_files(
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
        other.pull()
        assert other.files() == FILES
        captured = capsys.readouterr()
        assert "open-sesame" not in captured.out + captured.err
        third = first.clone("third")
        third.remote(**login(settings))
        third.dvc("pull", "-q")
        assert third.files() == FILES


@pytest.mark.parametrize("serve", [ssh, webdav])
def test_absent_and_cut_objects_are_sent_again(
    first: Clone, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dvc push` sends neither: the list is in the remote, and a part of the cut object."""
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
        assert f"2 of {len(FILES)} files did not come: " in error_of(other.pull)
        assert len(other.files()) == len(FILES) - 2
        first.publish()
        assert ": 2 of 17 contents are new" in capsys.readouterr().out
        other.pull()
        assert other.files() == FILES


@pytest.mark.parametrize("serve", [ssh, webdav, http])
def test_read_only_server_refuses_publishing(other: Clone, store: Path, serve: Serve) -> None:
    before = sorted(store.rglob("*"))
    with serve(store, read_only=True) as settings:
        other.remote(**login(settings))
        other.pull()
        assert other.files() == FILES
        other.write({f"artifacts/runs/dp/seed{seed}/model.safetensors": b"new %d" % seed for seed in range(30)})
        started = time.monotonic()
        message = error_of(other.publish)
        assert time.monotonic() - started < 90
    assert message.startswith("the DVC remote elsewhere (") and "is it read-only?" in message
    assert "open-sesame" not in message and "Traceback" not in message
    assert other.git("status", "--porcelain", "data.dvc", "artifacts.dvc") == ""
    assert sorted(store.rglob("*")) == before


def test_wrong_key_is_one_line(other: Clone, store: Path) -> None:
    with ssh(store) as settings:
        other.remote(url=settings["url"], keyfile=settings["stranger"])
        assert "): Permission denied for user " in error_of(other.pull)


@pytest.mark.parametrize("wrong", [{"password": "guess"}, {"user": "bob"}])
def test_wrong_password_is_one_line(other: Clone, store: Path, wrong: Settings) -> None:
    with webdav(store) as settings:
        other.remote(**{**settings, **wrong})
        message = error_of(other.pull)
        assert "401 (Unauthorized)" in message and "guess" not in message and "open-sesame" not in message


@pytest.mark.parametrize("how", ["breaks", "stalls"])
def test_next_pull_continues_after_bad_connection(other: Clone, store: Path, how: str) -> None:
    name, ended = stored(store, b"model 7").name, threading.Event()
    requests: list[str] = []
    if how == "breaks":
        ended.set()
    broken = {name}
    with unreliable(store, broken, requests, ended) as settings:
        other.remote(**settings)
        started = time.monotonic()
        message = error_of(other.pull)
        assert time.monotonic() - started < 60
        absent = "artifacts/runs/fl/seed7/model.safetensors"
        assert other.files() == {path: content for path, content in FILES.items() if path != absent}
        assert f"1 of {len(FILES)} files did not come: " in message and f"  {absent}" in message
        assert "`make pull` tries again" in message
        broken.clear()
        ended.set()
        requests.clear()
        other.pull()
        assert other.files() == FILES
        assert {file for file in requests if file} == {name}
