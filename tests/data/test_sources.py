"""The sources of published files, their checksums and their errors."""

import hashlib
import http.server
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ppml.config.datasets import DATASETS, FileSpec
from ppml.data.sources import available, fetch, local_candidates, require_checksum
from ppml.errors import UserError

CONTENT = b"the published bytes" * 100
MNIST = DATASETS["mnist"]
NAME = MNIST.file_names[0]


def md5(content):
    return hashlib.md5(content).hexdigest()


def remote(*urls, name=NAME):
    return FileSpec(name=name, md5=md5(CONTENT), urls=urls)


def mnist_with(*files):
    """Return MNIST with other files."""
    return MNIST.model_copy(update={"files": files})


@dataclass
class Site:
    """The answers of a local web server by path, and its requests."""

    address: str = ""
    answers: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def url(self, path, answer=None):
        """Return the address of ``path``, after putting ``answer`` (a raw HTTP response) there."""
        if answer is not None:
            self.answers[f"/{path}"] = answer
        return f"{self.address}/{path}"

    def file(self, path, content):
        """Return the address of ``path``, after putting a file there."""
        return self.url(path, b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))


@pytest.fixture
def site(monkeypatch):
    """Return a local web server, without a proxy."""
    monkeypatch.setenv("no_proxy", "*")
    one = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            one.requests.append(self.path)
            if self.path in one.answers:
                self.wfile.write(one.answers[self.path])
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    one.address = f"http://127.0.0.1:{server.server_port}"
    yield one
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_other_mirror(monkeypatch):
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw" / "mnist"


def mirror_with(folder, content, name=NAME):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return str(folder.parent)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def refusal(file, raw, mirrors=(), *, download=False):
    with pytest.raises(UserError) as caught:
        fetch(file, "mnist", raw, mirrors, download=download)
    message = str(caught.value)
    assert "\n" not in message
    return message


WRONG = [
    pytest.param(CONTENT[:-1], id="truncated"),
    pytest.param(b"X" + CONTENT[1:], id="corrupted"),
    pytest.param(b"", id="empty"),
    pytest.param(b"<html>not found</html>", id="another file"),
]


def test_file_of_local_mirror_is_copied(raw, tmp_path):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)
    assert fetch(remote(), "mnist", raw, [mirror], download=False) == f"{mirror}/mnist/{NAME}"
    assert (raw / NAME).read_bytes() == CONTENT
    assert left_in(raw) == [NAME]
    assert not (raw / NAME).is_symlink()


def test_good_file_in_raw_is_kept(raw, tmp_path):
    mirror_with(raw, CONTENT)
    before = (raw / NAME).stat().st_mtime_ns
    assert fetch(remote(), "mnist", raw, ["/no/mirror"], download=False) == "already there"
    assert (raw / NAME).stat().st_mtime_ns == before


@pytest.mark.parametrize("content", WRONG)
def test_wrong_file_in_raw_is_refused_and_kept(content, raw, tmp_path):
    mirror_with(raw, content)
    good = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)
    message = refusal(remote(), raw, [good])
    assert message.startswith(f"{raw}/{NAME}: has MD5 {md5(content)}, ") and md5(CONTENT) in message
    assert message.endswith("; move it elsewhere, and run again")
    assert (raw / NAME).read_bytes() == content


@pytest.mark.parametrize("content", WRONG)
def test_wrong_file_in_only_mirror_is_refused_and_not_copied(content, raw, tmp_path):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", content)
    message = refusal(remote(), raw, [mirror])
    assert message.startswith(f"mnist: no source has {NAME}; tried {mirror}/mnist/{NAME}: has MD5 {md5(content)}, ")
    assert md5(CONTENT) in message and "(source: local mirror). " in message
    assert left_in(raw) == []
    assert (tmp_path / "mirror" / "mnist" / NAME).read_bytes() == content


def unusable_mirror(folder, kind):
    """Return a mirror with an unusable file, and the expected problem."""
    if kind == "another file":
        return mirror_with(folder / "mnist", b"another file"), f"MD5 {md5(b'another file')}"
    folder.mkdir()
    if kind == "a cycle of links":
        (folder / "mnist").symlink_to("mnist")
    else:
        (folder / "mnist" / NAME).mkdir(parents=True)
    return str(folder), "cannot be read (Too many levels of symbolic links)" if kind == "a cycle of links" else ""


@pytest.mark.parametrize("kind", ["another file", "a cycle of links", "a folder"])
def test_unusable_mirror_is_skipped_with_its_problem(kind, raw, tmp_path):
    bad, problem = unusable_mirror(tmp_path / "bad", kind)
    good = mirror_with(tmp_path / "good" / "mnist", CONTENT)
    source = fetch(remote(), "mnist", raw, [bad, good], download=False)
    assert (raw / NAME).read_bytes() == CONTENT
    assert source.startswith(f"{good}/mnist/{NAME}") and "\n" not in source
    assert (f"; skipped: {bad}/mnist/{NAME}: " in source and problem in source) if problem else "skipped" not in source


def test_download_follows_unusable_mirror(site, raw, tmp_path):
    bad, problem = unusable_mirror(tmp_path / "bad", "a cycle of links")
    source = fetch(remote(site.file("good", CONTENT)), "mnist", raw, [bad], download=True)
    assert source.startswith(site.url("good")) and problem in source


AS_NOBODY = """
import os, sys
from pathlib import Path
from ppml.config.datasets import DATASETS, FileSpec
from ppml.data.sources import available, fetch, unreadable
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
bad, good, raw, md5 = sys.argv[1:]
name = "train-images-idx3-ubyte.gz"
given = "mnist", DATASETS["mnist"], Path(raw)
print(available(*given, [bad], download=False), available(*given, [bad, good], download=False))
print(*unreadable(*given, [bad, good]), sep="\\n")
print(fetch(FileSpec(name=name, md5=md5), "mnist", Path(raw), [bad, good], download=False))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("place", ["", "mnist", f"mnist/{NAME}"])
def test_mirror_without_permission_is_skipped_for_next_one(place):
    # Another user cannot enter the folder of pytest.
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        bad, good, raw = base / "bad", base / "good", base / "raw"
        for mirror in (bad, good):
            fill(mirror / "mnist")
            (mirror / "mnist" / NAME).write_bytes(CONTENT)
        raw.mkdir()
        raw.chmod(0o777)
        base.chmod(0o755)
        (bad / place).chmod(0)
        found = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, bad, good, raw, md5(CONTENT)], capture_output=True, text=True, check=False
        )
        assert found.stderr == ""
        found_by, *lines, source = found.stdout.splitlines()
        assert found_by == "False True"
        (line,) = lines
        names = MNIST.file_names if not place.endswith("gz") else [NAME]
        assert line.startswith(f"{bad}/mnist: {', '.join(names)} cannot be read (Permission denied)")
        assert source.startswith(f"{good}/mnist/{NAME}; skipped: {bad}/mnist/{NAME}: cannot be read")
        assert (raw / NAME).read_bytes() == CONTENT


def test_interrupted_copy_leaves_no_file(raw, tmp_path, monkeypatch):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)

    whole = Path.write_bytes

    def half(path, data):
        whole(path, data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match=f"No space left on device.*{NAME}"):
        fetch(remote(), "mnist", raw, [mirror], download=False)
    assert left_in(raw) == []


def test_missing_source_is_one_line_with_remedy(raw):
    message = refusal(remote("http://never.invalid/x"), raw, ["/no/mirror"])
    assert message.startswith(f"mnist: no source has {NAME}; tried /no/mirror/mnist/{NAME}. ")
    assert all(remedy in message for remedy in (str(raw), "data.mirrors", "PPML_DATA_MIRROR", "data.download"))
    assert "tried nothing" in refusal(remote(), raw)


WRONG_DOWNLOAD = b"HTTP/1.0 200 OK\r\n\r\nanother file"
BAD_ANSWERS = [
    pytest.param(WRONG_DOWNLOAD, id="wrong checksum"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5000\r\n\r\nhalf", id="truncated"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\nhalf", id="truncated chunk"),
    pytest.param(b"HTTP/1.0 404 Not Found\r\n\r\n", id="not found"),
    pytest.param(b"HTTP/1.0 500 Oops\r\n\r\n", id="server error"),
    pytest.param(b"no HTTP at all\r\n\r\n", id="no HTTP"),
    pytest.param(b"", id="empty answer"),
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_second_public_mirror_follows_failed_first(answer, site, raw):
    bad, good = site.url("bad", answer), site.file("good", CONTENT)
    assert fetch(remote(bad, good), "mnist", raw, [], download=True) == good
    assert (raw / NAME).read_bytes() == CONTENT
    assert site.requests == ["/bad", "/good"]
    assert left_in(raw) == [NAME]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_failure_of_all_public_mirrors_is_one_line(answer, site, raw):
    bad = site.url("bad", answer)
    message = refusal(remote(bad), raw, download=True)
    assert message.startswith(f"mnist: no source has {NAME}; tried {bad}: ")
    if answer is WRONG_DOWNLOAD:
        assert f"has MD5 {md5(b'another file')}, " in message and md5(CONTENT) in message
    assert left_in(raw) == []


def test_refused_connection_is_one_line(raw, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    assert "Connection refused" in refusal(remote("http://127.0.0.1:9/x"), raw, download=True)


def test_local_mirror_precedes_public_ones(site, raw, tmp_path):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)
    fetch(remote(site.file("good", CONTENT)), "mnist", raw, [mirror], download=True)
    assert site.requests == []


def test_mirrors_of_environment_are_first_and_names_may_have_hyphens(monkeypatch):
    monkeypatch.setenv("PPML_DATA_MIRROR", os.pathsep.join(["/a", "", "/b"]))
    assert [str(path) for path in local_candidates("fashion_mnist", "x.gz", ["/c"])] == [
        f"/{mirror}/{folder}/x.gz" for mirror in "abc" for folder in ("fashion_mnist", "fashion-mnist")
    ]


def test_file_in_mirror_of_environment_is_found(monkeypatch, raw, tmp_path):
    monkeypatch.setenv("PPML_DATA_MIRROR", mirror_with(tmp_path / "mirror" / "fashion-mnist", CONTENT))
    fetch(remote(), "fashion_mnist", raw, [], download=False)
    assert (raw / NAME).read_bytes() == CONTENT


def fill(folder, names=MNIST.file_names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_data_are_available_if_every_file_has_local_source(raw, tmp_path):
    fill(raw, MNIST.file_names[:2])
    assert not available("mnist", MNIST, raw, [str(tmp_path / "mirror")], download=False)
    fill(tmp_path / "mirror" / "mnist", MNIST.file_names[2:])
    assert available("mnist", MNIST, raw, [str(tmp_path / "mirror")], download=False)


def test_public_mirrors_are_requested_for_missing_files_only(site, raw):
    fill(raw, MNIST.file_names[1:])
    files = [remote(site.url("none"), site.file(name, b""), name=name) for name in MNIST.file_names]
    assert available("mnist", mnist_with(*files), raw, [], download=True)
    assert site.requests == ["/none", f"/{NAME}"]


@pytest.mark.parametrize("answer", BAD_ANSWERS[3:])
def test_public_mirror_with_bad_answer_is_no_source(answer, site, raw):
    url = site.url("bad", answer)
    assert not available("mnist", mnist_with(remote(url)), raw, [], download=True)
    assert site.requests == ["/bad"]


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_files_of_local_mirror_have_published_checksums(dataset, published, tmp_path):
    files = {file.name: file for file in DATASETS[dataset].files}
    for name, path in published(dataset).items():
        fetch(files[name], dataset, tmp_path, [str(path.parents[1])], download=False)
    assert left_in(tmp_path) == sorted(files)


@pytest.mark.parametrize("content", WRONG)
def test_wrong_sha256_is_refused_beside_a_right_md5(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    stated, found = (hashlib.sha256(one).hexdigest() for one in (CONTENT, content))
    both = {"md5": md5(content), "sha256": stated}
    require_checksum(tmp_path / "file", FileSpec(name="file", md5=md5(content), sha256=found))
    with pytest.raises(UserError, match=f"file: has SHA-256 {found}, but file is published with {stated}"):
        require_checksum(tmp_path / "file", FileSpec(name="file", **both))
    with pytest.raises(UserError, match=f"file: has SHA-256 {found}, but the configuration states {stated}; correct"):
        require_checksum(tmp_path / "file", FileSpec(path="file", **both))
    require_checksum(tmp_path / "file", FileSpec(path="file"))
