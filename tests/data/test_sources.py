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

from ppml.data import sources
from ppml.data.catalogue import MNIST_FILES
from ppml.data.sources import RemoteFile, available, fetch, local_candidates, require_checksum
from ppml.errors import UserError

CONTENT = b"the published bytes" * 100
NAME = MNIST_FILES[0]


def md5(content):
    return hashlib.md5(content).hexdigest()


def remote(*urls, name=NAME):
    return RemoteFile(name, md5(CONTENT), urls)


@dataclass
class Site:
    """What a local web server answers, by path, and what it was asked."""

    address: str = ""
    answers: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

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
    """Return a web server on this machine; nothing else is reached."""
    monkeypatch.setenv("no_proxy", "*")
    one = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            one.asked.append(self.path)
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


def test_good_mirror_is_copied_with_the_published_checksum(raw, tmp_path):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)
    assert fetch(remote(), "mnist", raw, [mirror], download=False) == f"{mirror}/mnist/{NAME}"
    assert (raw / NAME).read_bytes() == CONTENT
    assert left_in(raw) == [NAME]
    assert not (raw / NAME).is_symlink()


def test_good_file_that_is_there_is_kept(raw, tmp_path):
    mirror_with(raw, CONTENT)
    before = (raw / NAME).stat().st_mtime_ns
    assert fetch(remote(), "mnist", raw, ["/no/mirror"], download=False) == "already there"
    assert (raw / NAME).stat().st_mtime_ns == before


@pytest.mark.parametrize("content", WRONG)
def test_wrong_file_in_data_raw_is_refused_with_both_sums_and_kept_for_inspection(content, raw, tmp_path):
    mirror_with(raw, content)
    good = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)
    assert refusal(remote(), raw, [good]) == (
        f"{raw}/{NAME}: has MD5 {md5(content)}, but {NAME} is published with {md5(CONTENT)}; it is corrupted, "
        "truncated or another file, and is not used; move it elsewhere, and run again"
    )
    assert (raw / NAME).read_bytes() == content


@pytest.mark.parametrize("content", WRONG)
def test_wrong_file_in_the_only_mirror_is_refused_with_both_sums_and_nothing_is_left(content, raw, tmp_path):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", content)
    message = refusal(remote(), raw, [mirror])
    assert message.startswith(
        f"mnist: no source has {NAME}; tried {mirror}/mnist/{NAME}: has MD5 {md5(content)}, but {NAME} is published "
        f"with {md5(CONTENT)}; it is corrupted, truncated or another file, and is not used (source: local mirror). "
    )
    assert left_in(raw) == []
    assert (tmp_path / "mirror" / "mnist" / NAME).read_bytes() == content


def unusable_mirror(folder, kind):
    """Return a mirror whose file is there and cannot be used, and what is said of it."""
    if kind == "another file":
        return mirror_with(folder / "mnist", b"another file"), f"MD5 {md5(b'another file')}"
    folder.mkdir()
    if kind == "a circle of links":
        (folder / "mnist").symlink_to("mnist")
    else:
        (folder / "mnist" / NAME).mkdir(parents=True)
    return str(folder), "cannot be read (Too many levels of symbolic links)" if kind == "a circle of links" else ""


@pytest.mark.parametrize("kind", ["another file", "a circle of links", "a folder"])
def test_mirror_that_cannot_be_used_is_passed_over_with_a_line(kind, raw, tmp_path):
    bad, said = unusable_mirror(tmp_path / "bad", kind)
    good = mirror_with(tmp_path / "good" / "mnist", CONTENT)
    source = fetch(remote(), "mnist", raw, [bad, good], download=False)
    assert (raw / NAME).read_bytes() == CONTENT
    assert source.startswith(f"{good}/mnist/{NAME}") and "\n" not in source
    assert (f"; passed over: {bad}/mnist/{NAME}: " in source and said in source) if said else "passed" not in source


def test_download_follows_a_mirror_that_cannot_be_used(site, raw, tmp_path):
    bad, said = unusable_mirror(tmp_path / "bad", "a circle of links")
    source = fetch(remote(site.file("good", CONTENT)), "mnist", raw, [bad], download=True)
    assert source.startswith(site.url("good")) and said in source


AS_NOBODY = """
import os, sys
from pathlib import Path
from ppml.data.sources import RemoteFile, available, fetch, unreadable
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
bad, good, raw, md5 = sys.argv[1:]
name = "train-images-idx3-ubyte.gz"
print(available("mnist", Path(raw), [bad], download=False), available("mnist", Path(raw), [bad, good], download=False))
print(*unreadable("mnist", Path(raw), [bad, good]), sep="\\n")
print(fetch(RemoteFile(name, md5, ()), "mnist", Path(raw), [bad, good], download=False))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("place", ["", "mnist", f"mnist/{NAME}"])
def test_mirror_without_permission_is_passed_over_and_the_next_one_is_used(place):
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
        alone, *lines, source = found.stdout.splitlines()
        assert alone == "False True"
        (line,) = lines
        names = MNIST_FILES if not place.endswith("gz") else [NAME]
        assert line.startswith(f"{bad}/mnist: {', '.join(names)} cannot be read (Permission denied)")
        assert source.startswith(f"{good}/mnist/{NAME}; passed over: {bad}/mnist/{NAME}: cannot be read")
        assert (raw / NAME).read_bytes() == CONTENT


def test_copy_that_breaks_off_leaves_nothing(raw, tmp_path, monkeypatch):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)

    whole = Path.write_bytes

    def half(path, data):
        whole(path, data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match=f"No space left on device.*{NAME}"):
        fetch(remote(), "mnist", raw, [mirror], download=False)
    assert left_in(raw) == []


def test_no_source_without_download_is_one_line_with_what_to_do(raw):
    assert refusal(remote("http://never.invalid/x"), raw, ["/no/mirror"]) == (
        f"mnist: no source has {NAME}; tried /no/mirror/mnist/{NAME}. Put the file into {raw}, name a folder that has "
        "it in data.mirrors or PPML_DATA_MIRROR, or allow data.download"
    )
    assert "tried nothing" in refusal(remote(), raw)


def test_download_brings_the_file(site, raw):
    url = site.file("good", CONTENT)
    assert fetch(remote(url), "mnist", raw, [], download=True) == url
    assert (raw / NAME).read_bytes() == CONTENT
    assert left_in(raw) == [NAME]


BAD_ANSWERS = [
    pytest.param(b"HTTP/1.0 200 OK\r\n\r\nanother file", id="wrong checksum"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 5000\r\n\r\nhalf", id="breaks off"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\nhalf", id="breaks off in a chunk"),
    pytest.param(b"HTTP/1.0 404 Not Found\r\n\r\n", id="not found"),
    pytest.param(b"HTTP/1.0 500 Oops\r\n\r\n", id="server error"),
    pytest.param(b"no HTTP at all\r\n\r\n", id="no HTTP"),
    pytest.param(b"", id="hangs up"),
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_second_public_mirror_is_asked_where_the_first_fails(answer, site, raw):
    bad, good = site.url("bad", answer), site.file("good", CONTENT)
    assert fetch(remote(bad, good), "mnist", raw, [], download=True) == good
    assert (raw / NAME).read_bytes() == CONTENT
    assert site.asked == ["/bad", "/good"]
    assert left_in(raw) == [NAME]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_failure_of_every_public_mirror_is_one_line_and_leaves_nothing(answer, site, raw):
    bad = site.url("bad", answer)
    message = refusal(remote(bad), raw, download=True)
    assert message.startswith(f"mnist: no source has {NAME}; tried {bad}: ")
    assert left_in(raw) == []


def test_wrong_download_is_refused_with_both_sums_and_the_address(site, raw):
    url = site.file("bad", b"another file")
    assert f"tried {url}: has MD5 {md5(b'another file')}, but {NAME} is published with {md5(CONTENT)}; " in refusal(
        remote(url), raw, download=True
    )


def test_refused_connection_is_one_line(raw, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    assert "Connection refused" in refusal(remote("http://127.0.0.1:9/x"), raw, download=True)


def test_local_mirror_goes_before_the_public_ones(site, raw, tmp_path):
    mirror = mirror_with(tmp_path / "mirror" / "mnist", CONTENT)
    fetch(remote(site.file("good", CONTENT)), "mnist", raw, [mirror], download=True)
    assert site.asked == []


def test_mirrors_of_the_environment_are_asked_first_and_names_may_have_hyphens(monkeypatch):
    monkeypatch.setenv("PPML_DATA_MIRROR", os.pathsep.join(["/a", "", "/b"]))
    assert [str(path) for path in local_candidates("fashion_mnist", "x.gz", ["/c"])] == [
        f"/{mirror}/{folder}/x.gz" for mirror in "abc" for folder in ("fashion_mnist", "fashion-mnist")
    ]


def test_file_in_a_mirror_of_the_environment_is_found(monkeypatch, raw, tmp_path):
    monkeypatch.setenv("PPML_DATA_MIRROR", mirror_with(tmp_path / "mirror" / "fashion-mnist", CONTENT))
    fetch(remote(), "fashion_mnist", raw, [], download=False)
    assert (raw / NAME).read_bytes() == CONTENT


def fill(folder, names=MNIST_FILES):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_available_where_each_file_is_somewhere_near(raw, tmp_path):
    fill(raw, MNIST_FILES[:2])
    assert not available("mnist", raw, [str(tmp_path / "mirror")], download=False)
    fill(tmp_path / "mirror" / "mnist", MNIST_FILES[2:])
    assert available("mnist", raw, [str(tmp_path / "mirror")], download=False)


def test_available_asks_the_public_mirrors_for_what_is_missing_only(site, raw, monkeypatch):
    fill(raw, MNIST_FILES[1:])
    files = [remote(site.url("none"), site.file(name, b""), name=name) for name in MNIST_FILES]
    monkeypatch.setattr(sources, "published_files", lambda dataset: files)
    assert available("mnist", raw, [], download=True)
    assert site.asked == ["/none", f"/{NAME}"]


@pytest.mark.parametrize("answer", BAD_ANSWERS[3:])
def test_public_mirror_that_does_not_answer_as_it_should_is_no_source(answer, site, raw, monkeypatch):
    url = site.url("bad", answer)
    monkeypatch.setattr(sources, "published_files", lambda dataset: [remote(url)])
    assert not available("mnist", raw, [], download=True)


def test_checksum_that_fits_is_silent(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    assert require_checksum(path, remote()) is None


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_files_of_the_local_mirror_have_the_published_checksums(dataset, published, tmp_path):
    files = {file.name: file for file in sources.published_files(dataset)}
    for path in published(dataset):
        fetch(files[path.name], dataset, tmp_path, [str(path.parents[1])], download=False)
    assert left_in(tmp_path) == sorted(files)
