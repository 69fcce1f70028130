"""The stage fetch: the published files of a data set, checked."""

import hashlib

import pytest

from ppml.config.datasets import DATASETS, FileSpec
from ppml.errors import UserError

from .conftest import run_stage

CONTENT = {"a.gz": b"one", "b.gz": b"two", "c.gz": b"three", "d.gz": b"four"}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Return a local mirror of a data set of four files."""
    monkeypatch.delenv("PPML_DATA_MIRROR", raising=False)
    folder = tmp_path / "mirror" / "mine"
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder.parent


def fetch(folder, mirror):
    """Run the stage into ``folder``."""
    files = [FileSpec(name=name, md5=hashlib.md5(content).hexdigest()) for name, content in CONTENT.items()]
    source = DATASETS["mnist"].model_copy(update={"files": tuple(files)})
    spec = {"dataset": "mine", "source": source.to_json()}
    notes = {"mirrors": [str(mirror)], "download": False}
    run_stage("fetch", spec, {}, {name: folder / name for name in CONTENT}, notes=notes)


def test_stage_fetches_every_file_and_prints_its_source(tmp_path, mirror, capsys):
    fetch(tmp_path / "raw", mirror)
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == CONTENT
    assert capsys.readouterr().out.splitlines() == [f"{name}: {mirror}/mine/{name}" for name in CONTENT]


def test_file_with_other_checksum_is_refused(tmp_path, mirror):
    (mirror / "mine" / "b.gz").write_bytes(b"tw")
    with pytest.raises(UserError, match=r"b\.gz: has MD5 "):
        fetch(tmp_path / "raw", mirror)
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["a.gz"]
