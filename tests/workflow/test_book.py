"""The record book: its content, its privacy, and the limits of a stranger's book."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ppml.errors import UserError
from ppml.jobs.record import JobRecord
from ppml.pipeline.job_status import NO_RECORD, UNREAD
from ppml.pipeline.record_book import RecordBook, _entry_digest, write_book
from tests.workflow.records import (
    BOOK,
    MODEL,
    NEWER,
    remove_records,
    replace_bytes,
    save_book,
    stale_jobs,
    touch_all,
    write_result_and_record,
)
from tests.workflow.small import SETTINGS, Small, SmallPlan


def test_book_has_record_of_every_job(small: Small) -> None:
    book = RecordBook(BOOK)
    assert set(book.records) == set(SmallPlan.read().outputs())
    for path, job in SmallPlan.read().records().makers.items():
        record = book.records[path]
        assert (record.rule, record.command, record.params) == (job.rule, job.command, job.params)
        assert record.inputs.keys() == set(job.inputs)
        for name, sha256 in (*record.inputs.items(), (path, record.outputs[path])):
            assert sha256 == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    assert book.code == SmallPlan.read().code


def plain_digests_in(book: str) -> list[str]:
    """Return the files whose plain SHA-256 is in the text of a book."""
    files = [path for path in Path().rglob("*.txt") if path.name != "ran.txt"]
    return [str(path) for path in files if hashlib.sha256(path.read_bytes()).hexdigest() in book]


def test_book_of_private_data_has_no_plain_digest(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"data/data.txt", MODEL, "source.txt"} <= set(plain_digests_in(BOOK.read_text()))
    small.set(public=False)
    save_book()
    assert not plain_digests_in(BOOK.read_text())
    # Planted: digests without the key.
    monkeypatch.setattr("ppml.pipeline.job_status.publishable_digest", lambda sha256, public: sha256)
    save_book()
    assert plain_digests_in(BOOK.read_text())


def test_book_of_once_public_data_loses_its_plain_digests(small: Small) -> None:
    remove_records()
    small.set(public=False)
    save_book()
    assert len(RecordBook(BOOK).records) == len(SmallPlan.read().outputs())
    assert not plain_digests_in(BOOK.read_text())
    assert stale_jobs() == {}
    # An absent input keeps its keyed digest.
    Path("data/data.txt").unlink()
    save_book()
    assert not plain_digests_in(BOOK.read_text())


def test_book_with_keyed_digests_needs_the_key(small: Small) -> None:
    small.set(public=False)
    save_book()
    remove_records()
    touch_all()
    assert stale_jobs() == {}
    replace_bytes(MODEL, "a planted fault")
    assert stale_jobs()["train alone/0"] == (NO_RECORD,)


def test_book_without_key_counts_as_missing(small: Small) -> None:
    small.set(public=False)
    save_book()
    remove_records()
    Path(".ppml/digest.key").unlink()
    assert all(NO_RECORD in why for why in stale_jobs().values()) and stale_jobs()


def test_equal_results_have_equal_books(small: Small) -> None:
    before = BOOK.read_bytes()
    save_book()
    assert BOOK.read_bytes() == before
    remove_records()
    touch_all()
    assert stale_jobs() == {}
    save_book()
    assert BOOK.read_bytes() == before


def test_order_of_configuration_changes_no_book(small: Small) -> None:
    before = BOOK.read_bytes()
    small.set(arms=dict(reversed(SETTINGS["arms"].items())))
    save_book()
    assert BOOK.read_bytes() == before


def test_process_saves_jobs_that_ran_since_its_start(small: Small) -> None:
    records = SmallPlan.read().records()
    assert records.reasons(records.makers[MODEL]) == []
    write_result_and_record(MODEL, "trained again")
    records.save_book()
    assert RecordBook(BOOK).records[MODEL].outputs[MODEL] == hashlib.sha256(b"trained again").hexdigest()


def test_book_keeps_only_named_code_digests(small: Small) -> None:
    small.set(digest=NEWER)
    reasons = stale_jobs()
    assert "module ppml.stages.train" in reasons["data"]
    save_book()
    # Results of the older code keep its digest.
    assert set(RecordBook(BOOK).code) == {SETTINGS["digest"]}
    assert SmallPlan.read().records().code_digest(SETTINGS["digest"]) is not None
    assert SmallPlan.read().records().code_digest("0" * 16) is None
    assert stale_jobs() == reasons


def test_texts_of_job_count(small: Small) -> None:
    small.set(note="new")
    assert stale_jobs() == {"collect": ("'' is now 'new'",)}
    small.set(note="", specs={**SETTINGS["specs"], "collect": "[ 1 ]"})
    assert set(stale_jobs()) == {"collect"}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("source.txt", {"data/data.txt"}),
        (MODEL, {MODEL, "runs/alone/seed0/predictions.txt"}),
        (
            "runs/alone/seed0/cost.txt",
            {"runs/alone/seed0/cost.txt", "reports/table.txt", *SmallPlan(SETTINGS).every_run("record.txt")},
        ),
    ],
)
def test_book_omits_results_of_other_inputs(small: Small, path: str, left: set[str]) -> None:
    replace_bytes(path, "other")
    save_book()
    assert set(SmallPlan.read().outputs()) - set(RecordBook(BOOK).records) == left
    book = json.loads(BOOK.read_text())
    assert left.isdisjoint(name for job in book["jobs"] for name in job["outputs"])
    assert set(book["commands"]) == {job["command"] for job in book["jobs"]}


@pytest.mark.parametrize(
    "paths",
    [
        ["source.txt"],
        ["data/data.txt", MODEL],
        ["runs/private/seed0/noise.json"],
        ["reports/table.txt"],
        # A clone that has not pulled.
        ["data/data.txt", *(path for path in SmallPlan(SETTINGS).outputs() if path.startswith("runs/"))],
    ],
)
def test_book_keeps_records_of_missing_files(small: Small, paths: list[str]) -> None:
    before, contents = BOOK.read_bytes(), {path: Path(path).read_bytes() for path in paths}
    remove_records()
    for path in paths:
        Path(path).unlink()
    stale_jobs()
    save_book()
    assert BOOK.read_bytes() == before
    for path, content in contents.items():
        Path(path).write_bytes(content)
    assert stale_jobs() == {}


def test_book_omits_mixed_entry_of_two_branches(small: Small) -> None:
    """Git merges line by line: one branch has a new table, the other branch a new input of the table."""
    ours, model = json.loads(BOOK.read_text()), hashlib.sha256(b"trained again").hexdigest()
    mixed = [job for job in ours["jobs"] if MODEL in job["outputs"]]
    for job in mixed:
        job["outputs"][MODEL] = model
    BOOK.write_text(json.dumps(ours))
    remove_records()
    assert MODEL not in RecordBook(BOOK).records and "runs/private/seed0/model.txt" in RecordBook(BOOK).records
    assert stale_jobs()["train alone/0"] == (NO_RECORD,)
    Path(MODEL).write_text("trained again")
    assert stale_jobs()["train alone/0"] == (NO_RECORD,)


@pytest.mark.parametrize("part", ["rule", "command", "params", "inputs", "outputs", "text of the command"])
def test_book_omits_changed_entry(small: Small, part: str) -> None:
    book = json.loads(BOOK.read_text())
    (entry,) = (job for job in book["jobs"] if "reports/table.txt" in job["outputs"])
    others = {"params": [*entry["params"], "x"], "inputs": {}, "outputs": {"reports/table.txt": "0" * 64}}
    if part in entry:
        entry[part] = others.get(part, next(job[part] for job in book["jobs"] if job[part] != entry[part]))
    else:
        book["commands"][entry["command"]] += " "
    BOOK.write_text(json.dumps(book))
    assert "reports/table.txt" not in RecordBook(BOOK).records and MODEL in RecordBook(BOOK).records


def test_merge_conflict_is_named_with_remedy(small: Small) -> None:
    content = b'{\n<<<<<<< HEAD\n "jobs": [],\n=======\n>>>>>>> other\n}\n'
    BOOK.write_bytes(content)
    with pytest.raises(UserError) as refused:
        RecordBook(BOOK)
    message = str(refused.value)
    assert message.startswith("reports/provenance.json has a merge conflict; use one side: ")
    assert "\n" not in message and BOOK.read_bytes() == content


# --- books of strangers -- -------------------------------------------------------------------------------------

NO_BOOKS = [
    *(b"", b"{", b"[]", b"null", b"1", b'"a"', b"\xff", b"\x00", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 6000),
    *(b'{"jobs": []}', b'{"jobs": 1, "commands": {}, "stamps": {}}', b'{"jobs": {}, "commands": {}, "stamps": {}}'),
    *(b'{"jobs": [], "commands": [], "stamps": {}}', b'{"jobs": [], "commands": {}, "stamps": []}'),
]
"""Files that are no record books."""


@pytest.mark.parametrize("content", NO_BOOKS, ids=lambda content: content[:20].decode("latin-1"))
def test_invalid_book_is_named_in_one_line(small: Small, content: bytes) -> None:
    BOOK.write_bytes(content)
    book = RecordBook(BOOK)
    assert (book.records, book.code) == ({}, {})
    assert book.problem.startswith("reports/provenance.json is no record book (")
    assert "git checkout -- reports/provenance.json" in book.problem
    assert "\n" not in book.problem and len(book.problem) < 400 and book.problem.isprintable()


def test_invalid_book_stops_no_run_and_is_kept(small: Small, capfd: pytest.CaptureFixture[str]) -> None:
    """The records of this machine remain valid."""
    BOOK.write_bytes(b'{"jobs": 3}')
    assert stale_jobs() == {}
    assert BOOK.read_bytes() == b'{"jobs": 3}'
    save_book()
    assert set(RecordBook(BOOK).records) == set(SmallPlan.read().outputs())
    assert UNREAD.read_bytes() == b'{"jobs": 3}'


def test_book_of_hundred_megabytes_is_not_read(small: Small) -> None:
    with BOOK.open("ab") as file:
        file.truncate(100 * 2**20)
    assert "it has 104,857,600 bytes" in RecordBook(BOOK).problem


HEX = "0" * 64
CHANGES: dict[str, Any] = {
    "rule": [None, 3, [], {}],
    "command": [None, 3, [], {}],
    "params": [None, "text", {"a": 1}, [1], [None], [["a"]], ["\ud800"]],
    "inputs": [None, [], "a", {"a": 1}, {"a": None}, {"a": "0"}, {"a\0": HEX}, {"": HEX}, {"x" * 2000: HEX}],
    "outputs": [
        *(None, [], "a", {}, {"a": 1}, {"a": "x" * 64}, {"../a": HEX}, {"/a": HEX}, {"a\0": HEX}, {"\ud800": HEX}),
        *({"a/../b": HEX}, {"": HEX}, {".": HEX}, {"a//b": HEX}, {"x" * 2000: HEX}),
    ],
    "digest": [None, 3, []],
}
"""Invalid parts of an entry."""


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in CHANGES.items() for value in values])
def test_book_omits_only_invalid_entry(tmp_path: Path, part: str, value: object) -> None:
    """With a right and with a wrong digest."""
    path, other = tmp_path / "book.json", JobRecord("train", "run", ("p",), {"in": HEX}, {"runs/b": HEX})
    write_book(path, [JobRecord("train", "run", ("p",), {"in": HEX}, {"runs/a": HEX}), other], {})
    content = json.loads(path.read_text())
    (entry,) = (job for job in content["jobs"] if "runs/a" in job["outputs"])
    entry[part] = value
    if part != "digest":
        with contextlib.suppress(TypeError):
            entry["digest"] = _entry_digest(entry)
    path.write_text(json.dumps(content))
    book = RecordBook(path)
    assert book.records == {"runs/b": other} and book.problem == ""


@pytest.mark.parametrize("job", [None, 3, "a", [], {}, [{}]])
def test_book_omits_only_invalid_job(tmp_path: Path, job: object) -> None:
    path, other = tmp_path / "book.json", JobRecord("train", "run", ("p",), {"in": HEX}, {"runs/b": HEX})
    write_book(path, [other], {})
    content = json.loads(path.read_text())
    content["jobs"].insert(0, job)
    content["commands"]["x"] = content["stamps"]["y"] = job
    path.write_text(json.dumps(content))
    assert RecordBook(path).records == {"runs/b": other} and RecordBook(path).code == {}


def test_planned_result_can_have_any_path(tmp_path: Path) -> None:
    """The configuration can name a folder outside of the project."""
    path, job = tmp_path / "book.json", JobRecord("train", "run", (), {}, {"/scratch/runs/a": HEX})
    write_book(path, [job], {})
    assert RecordBook(path).records == {} and RecordBook(path, {"/scratch/runs/a"}.__contains__).records == {
        "/scratch/runs/a": job
    }


def test_book_cannot_control_the_terminal(small: Small) -> None:
    """The book also contains a specification of a hundred thousand nested lists."""
    book = json.loads(BOOK.read_text())
    for job, param in zip(
        [job for job in book["jobs"] if job["rule"] == "train"], ('{"\x1b[2J":1}', "[" * 100_000), strict=False
    ):
        job["params"] = [param, SETTINGS["digest"]]
        job["digest"] = _entry_digest(job)
    BOOK.write_text(json.dumps(book))
    remove_records()
    assert all(reason.isprintable() for reasons in stale_jobs().values() for reason in reasons)
