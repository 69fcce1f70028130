import hashlib
import json

import pytest

from ppml.data.sources import RemoteFile
from ppml.errors import UserError
from ppml.stages import fetch

CONTENT = {"a.gz": b"one", "b.gz": b"two"}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Return a mirror of a data set that is published as two files."""
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)
    files = tuple(RemoteFile(name, hashlib.md5(content).hexdigest(), ()) for name, content in CONTENT.items())
    monkeypatch.setattr(fetch, "published_files", lambda dataset: files)
    folder = tmp_path / "mirror" / "mnist"
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder.parent


def arguments(tmp_path, mirror):
    given = {"spec": {"dataset": "mnist"}, "sources": {"mirrors": [str(mirror)], "download": False}}
    options = [part for name, value in given.items() for part in (f"--{name}", json.dumps(value))]
    return [*options, "--outputs", *(str(tmp_path / "raw" / name) for name in CONTENT)]


def test_every_file_is_brought_and_its_source_is_said(tmp_path, mirror, capsys):
    fetch.main(arguments(tmp_path, mirror))
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == CONTENT
    assert capsys.readouterr().out.splitlines() == [f"{name}: {mirror}/mnist/{name}" for name in CONTENT]


def test_wrong_file_is_not_brought(tmp_path, mirror):
    (mirror / "mnist" / "b.gz").write_bytes(b"tw")
    with pytest.raises(UserError, match=r"b\.gz: has MD5 "):
        fetch.main(arguments(tmp_path, mirror))
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["a.gz"]
