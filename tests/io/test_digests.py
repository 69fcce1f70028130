"""Digests of private data reveal nothing to readers elsewhere."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ppml.config.datasets import DATASETS, DIGITS, parse_dataset
from ppml.contract import DataContract
from ppml.errors import UserError
from ppml.io.atomic import read_json
from ppml.io.digests import KEY, content_digest, digest_key, publishable_digest
from ppml.jobs.job import Job
from ppml.stages import subset


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "1", tmp_path / "2"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


@pytest.mark.parametrize("public", [True, False])
def test_digest_depends_on_every_byte(public, files):
    before = content_digest(files, public=public)
    assert before == content_digest(files, public=public) and len(before) == 16
    files[1].write_bytes(b"c")
    assert content_digest(files, public=public) != before


def test_digest_of_published_data_is_plain(files):
    assert content_digest(files, public=True) == hashlib.sha256(b"12").hexdigest()[:16]
    assert not KEY.exists()


def test_digest_of_private_data_depends_on_the_local_key(files):
    plain = hashlib.sha256(b"12").hexdigest()
    first = content_digest(files, public=False)
    assert first != plain[:16] and publishable_digest(plain, public=False).startswith(first)
    assert stat.S_IMODE(KEY.stat().st_mode) == 0o600 and len(digest_key()) == 32
    KEY.unlink()
    assert content_digest(files, public=False) != first


def test_concurrent_jobs_create_one_key():
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: digest_key(), range(32)))
    assert keys == {KEY.read_bytes()}
    assert [path.name for path in KEY.parent.iterdir()] == [KEY.name]


def test_damaged_key_is_an_error():
    digest_key()
    KEY.write_bytes(b"short")
    with pytest.raises(UserError, match=r"\.ppml/digest\.key: has 5 bytes, .* move it away"):
        digest_key()


def test_git_ignores_the_key():
    root = Path(__file__).parents[2]
    result = subprocess.run(["git", "check-ignore", "-q", str(root / KEY)], cwd=root, check=False)
    assert result.returncode == 0


def test_data_sets_are_private_by_default():
    assert DATASETS[DIGITS].contract.public
    assert not DataContract(shape=(4,), kind="table", classes=2).public
    entry = DATASETS[DIGITS].to_json()
    del entry["redistributable"]
    assert not parse_dataset(entry).contract.public


def subset_digest(folder, *, public):
    """Return the digest of a subset of the digits in about.json, its plain digest, its identity and its source."""
    source = parse_dataset({**DATASETS[DIGITS].to_json(), "redistributable": public})
    facts = {"source": source.to_json(), "contract": source.contract.to_json(), "catalogued": False}
    counts = {"train": 20, "test": 10, "selection": "first", "evaluate_on": "test"}
    outputs = {name: folder / name for name in ("train", "test", "about")}
    subset.run(Job({"dataset": DIGITS, **facts, **counts}, {}, outputs))
    plain = hashlib.sha256(outputs["train"].read_bytes() + outputs["test"].read_bytes()).hexdigest()
    about = read_json(outputs["about"])
    return about["digest"], plain[:16], about["identity"], about["source"]


def test_subset_of_a_private_data_set_has_no_plain_digest(tmp_path):
    digest, plain, *public = subset_digest(tmp_path, public=True)
    assert digest == plain
    digest, plain, *private = subset_digest(tmp_path, public=False)
    assert digest != plain and digest == content_digest([tmp_path / "train", tmp_path / "test"], public=False)
    # The key decides about the digests of a private data set, and about no other.
    KEY.unlink()
    assert subset_digest(tmp_path, public=True)[2:] == tuple(public)
    assert not set(subset_digest(tmp_path, public=False)[2:]) & set(private)


def test_module_imports_no_large_library():
    code = "import sys, ppml.io.digests; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
