"""The record book and Snakemake's records: what is there is believed where its bytes are known, and only there."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from pathlib import Path

import pytest
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

from ppml.io.atomic import UNFINISHED
from ppml.pipeline.provenance import FLAW, Book, keep_records_read
from tests.workflow.records import (
    BOOK,
    COMPARED,
    JOBS,
    KNOWN,
    MODEL,
    NEWER,
    NOBODY,
    OTHER_BYTES,
    as_run_anew,
    begin,
    done,
    every_record,
    forget_records,
    metadata,
    record,
    rewrite,
    save,
    small,
    stale,
    touch_all,
)
from tests.workflow.small import SETTINGS, Small, SmallPlan

# Fixtures, used by their names.
__all__ = ["done", "small"]


# --- what stands ------------------------------------------------------------------------------------------------


def test_after_a_run_nothing_is_to_be_done_and_no_record_is_written(small: Small) -> None:
    def times() -> list[int]:
        return [metadata(path).stat().st_mtime_ns for path in SmallPlan.read().outputs()]

    before = every_record(), times()
    assert stale() == {}
    assert (every_record(), times()) == before


def test_times_say_nothing(small: Small) -> None:
    before = every_record()
    touch_all()
    assert stale() == {}
    touch_all()
    assert stale() == {}
    assert every_record() == before


def test_a_clone_with_the_same_files_has_nothing_to_do(small: Small) -> None:
    made = {path: record(path) for path in SmallPlan.read().outputs()}
    forget_records()
    touch_all()
    assert stale() == {}
    for path, before in made.items():
        restored = record(path)
        assert [restored.get(key) for key in COMPARED] == [before.get(key) for key in COMPARED], path
        # Snakemake's report has no use for a record without times.
        assert restored.starttime == restored.endtime == Path(path).stat().st_mtime
    # From now on this machine knows it by itself.
    BOOK.unlink()
    touch_all()
    assert stale() == {}


def test_what_nobody_knows_is_made_again(small: Small) -> None:
    forget_records()
    BOOK.unlink()
    causes = stale()
    assert set(causes) == JOBS
    assert all(NOBODY in why for why in causes.values())


def test_what_was_made_of_a_file_that_is_gone_stands_until_that_is_back(small: Small) -> None:
    Path(MODEL).unlink()
    assert stale() == {"train alone/0": ("missing",), "predict alone/0": (), "collect": ()}
    assert FLAW.encode() not in metadata("runs/alone/seed0/predictions.txt").read_bytes()


def test_a_missing_file_is_made_again_alone(small: Small) -> None:
    forget_records()
    Path("reports/table.txt").unlink()
    assert stale() == {"collect": ("missing",)}


@pytest.mark.parametrize("here", ["on this machine", "in a clone"])
def test_what_would_be_made_in_another_way_is_seen_though_it_is_not_there(small: Small, here: str) -> None:
    """A data set that was not pulled, and what was trained on it."""
    if here == "in a clone":
        forget_records()
    Path("data/data.txt").unlink()
    assert stale() == {}
    small.set(specs={**SETTINGS["specs"], "data": '{"n":4}'})
    assert set(stale()) == JOBS
    small.set(**SETTINGS)
    assert stale() == {}
    rewrite("source.txt", "other numbers\n")
    assert stale()["data"][-1] == "source.txt has changed"


def test_a_flaw_of_a_file_goes_with_the_file(small: Small) -> None:
    rewrite("data/data.txt", "by hand")
    assert set(stale()) == JOBS
    Path("data/data.txt").unlink()
    assert stale() == {}


def test_remains_of_killed_writers_are_removed_and_nothing_else(small: Small) -> None:
    remains, others = (
        Path(f"runs/alone/seed0/{UNFINISHED}abcd1234-model.txt"),
        Path("runs/alone/seed0/.pre-commit-config.yaml"),
    )
    for path in (remains, others):
        path.write_text("half")
    assert stale() == {}
    assert remains.exists() and others.exists()
    begin()
    assert not remains.exists() and others.exists()


# --- what does not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["records and book", "records", "book"])
def test_other_bytes_are_seen_whatever_their_time_and_forgiven_when_they_are_back(small: Small, known: str) -> None:
    before, text = every_record(), Path(MODEL).read_text()
    if known == "records":
        BOOK.unlink()
    if known == "book":
        forget_records()
    rewrite(MODEL, "a planted fault")
    causes = stale()
    assert set(causes) == {"train alone/0", "predict alone/0", "collect"}
    assert causes["train alone/0"] == ((NOBODY if known == "book" else OTHER_BYTES),)
    assert causes["predict alone/0"] == (f"{MODEL} has changed",)
    assert stale() == causes
    rewrite(MODEL, text)
    assert stale() == {}
    assert not any(FLAW.encode() in metadata(path).read_bytes() for path in before)
    if known != "book":
        assert every_record() == before


def test_bytes_of_the_same_length_and_time_are_told_apart(small: Small) -> None:
    assert stale() == {}
    text = Path(MODEL).read_text()
    rewrite(MODEL, text.swapcase())
    assert "train alone/0" in stale()


def test_one_output_of_several_that_changed_is_enough(small: Small) -> None:
    rewrite("runs/alone/seed1/cost.txt", "0")
    causes = stale()
    assert set(causes) == {"train alone/1", "predict alone/1", "collect"}
    assert causes["train alone/1"] == (OTHER_BYTES,)
    assert causes["collect"] == ("runs/alone/seed1/cost.txt has changed",)


def test_a_changed_input_is_named(small: Small) -> None:
    rewrite("source.txt", "other numbers\n")
    causes = stale()
    assert causes["data"] == ("source.txt has changed",)
    assert set(causes) == JOBS
    rewrite("source.txt", "numbers\n")
    assert stale() == {}


def test_a_changed_input_is_seen_by_a_clone(small: Small) -> None:
    forget_records()
    rewrite("source.txt", "other numbers\n")
    assert stale()["data"] == ("source.txt has changed",)


def test_a_record_of_an_older_snakemake_is_none(small: Small) -> None:
    """Snakemake compares less of it."""
    BOOK.unlink()
    changed = record(MODEL).model_copy(update={"record_format_version": RECORD_FORMAT_VERSION - 1})
    FilePersistence(nolock=True)._write_record(MODEL, changed)
    assert stale()["train alone/0"] == (NOBODY,)


def test_an_input_of_which_no_bytes_were_recorded_is_not_trusted(small: Small) -> None:
    changed = record(MODEL).model_copy(update={"input_checksums": {}})
    FilePersistence(nolock=True)._write_record(MODEL, changed)
    book = BOOK.read_bytes()
    BOOK.unlink()
    assert stale()["train alone/0"] == ("nobody knows what data/data.txt was",)
    # The book does know.
    BOOK.write_bytes(book)
    assert stale() == {}


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "absent": None,
}


def damage(path: Path, how: str) -> None:
    if how == "absent":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_record_that_lost_power_is_no_record(small: Small, how: str) -> None:
    BOOK.unlink()
    damage(metadata(MODEL), how)
    causes = stale()
    assert set(causes) == {"train alone/0", "predict alone/0", "collect"}
    assert causes["train alone/0"] == (NOBODY,)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_record_that_lost_power_is_put_back_from_the_book(small: Small, how: str) -> None:
    for path in SmallPlan.read().outputs():
        damage(metadata(path), how)
    assert stale() == {}


@pytest.mark.parametrize("how", DAMAGES)
def test_fingerprints_that_lost_power_are_computed_anew(small: Small, how: str) -> None:
    before = every_record()
    damage(KNOWN, how)
    assert stale() == {}
    assert every_record() == before
    damage(KNOWN, how)
    touch_all()
    assert stale() == {}
    damage(KNOWN, how)
    Path(MODEL).write_text("other")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_a_clone_is_not_told_that_an_old_command_made_what_it_has(small: Small) -> None:
    BOOK.unlink()
    for path in (MODEL, "runs/alone/seed0/cost.txt"):
        as_run_anew(path, Path(path).read_text(), code="an older command")
    here = stale()
    assert here["train alone/0"] == ("the rule's command has changed",) and "train alone/1" not in here
    save()
    forget_records()
    assert stale() == here


def test_where_the_book_knows_that_the_present_command_makes_the_same_bytes_nothing_is_made_again(small: Small) -> None:
    for path in (MODEL, "runs/alone/seed0/cost.txt"):
        as_run_anew(path, Path(path).read_text(), code="an older command")
    assert stale() == {}


OTHER = {
    "newer code": {"stamp": NEWER},
    "other settings": {"specs": {**SETTINGS["specs"], "predict": '{"device":"gpu"}'}},
}
"""Changes that change no byte of a prediction."""


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_what_others_made_to_the_same_bytes_is_up_to_date_with_their_book(small: Small, changes: dict) -> None:
    first, other = (small.copy(small.folder.parent / name) for name in ("first", "other"))
    other.set(**changes)
    ran = other.run()
    assert "predict alone 0" in ran
    small.set(**changes)
    assert len(stale()) == len(ran)
    check_out(other)
    assert stale() == {}
    # And back to the other branch.
    small.set(**SETTINGS)
    assert len(stale()) == len(ran)
    check_out(first)
    assert stale() == {}


def check_out(other: Small) -> None:
    """Take another copy's book and results, as ``git checkout`` and a pull do."""
    for path in [BOOK, *SmallPlan.read().outputs()]:
        shutil.copyfile(other.folder / path, path)


def test_a_book_of_older_code_takes_nothing_from_what_ran_here(small: Small) -> None:
    before = BOOK.read_bytes()
    small.set(stamp=NEWER)
    assert len(small.run()) == len(JOBS)
    BOOK.write_bytes(before)
    assert stale() == {}


# --- runs that were killed --------------------------------------------------------------------------------------


def test_a_job_that_ended_in_a_killed_run_is_believed(small: Small) -> None:
    assert stale() == {}
    as_run_anew(MODEL, "trained again")
    assert stale() == {
        "predict alone/0": (f"{MODEL} has changed",),
        "collect": (),
    }
    rewrite(MODEL, "a planted fault")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_a_job_that_ended_in_a_killed_run_is_not_believed_of_other_bytes(small: Small) -> None:
    as_run_anew(MODEL, "trained again")
    Path(MODEL).write_text("by someone else")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_what_a_killed_run_made_is_saved_by_the_next(small: Small) -> None:
    text = "trained again"
    as_run_anew(MODEL, text)
    save()
    book = Book(BOOK)
    assert book.sha256(MODEL) == hashlib.sha256(text.encode()).hexdigest()
    assert "runs/alone/seed0/predictions.txt" not in book.jobs


# --- what is used of Snakemake, though it is private ------------------------------------------------------------


def test_snakemakes_records_are_what_this_project_takes_them_for() -> None:
    assert RECORD_FORMAT_VERSION == 6
    assert list(MetadataRecord.model_fields) == [
        *("rule", "input", "log", "shellcmd", "params", "code", "record_format_version", "conda_env"),
        *("container_img_url", "software_stack_hash", "job_hash", "starttime", "endtime", "incomplete"),
        *("external_jobid", "input_checksums"),
    ]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_read_record", ["self", "key"]),
        ("_write_record", ["self", "key", "record"]),
        ("_clear_cache", ["self"]),
        ("_record_path", ["self", "subject", "id"]),
    ],
)
def test_snakemakes_private_methods_are_there(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(FilePersistence, name)).parameters) == parameters


def test_snakemake_keeps_a_record_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = FilePersistence(nolock=True)
    assert records.path == tmp_path / ".snakemake"
    assert records._read_record("a/b.txt") is None
    written = MetadataRecord(rule="a", code="b", params=["'c'"], input=["d"], input_checksums={"d": "e"}, endtime=0.1)
    records._write_record("a/b.txt", written)
    records._clear_cache()
    assert records._read_record("a/b.txt") == FilePersistence(nolock=True)._read_record("a/b.txt") == written


def test_a_record_is_read_once_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep_records_read()
    records, read = FilePersistence(nolock=True), []
    names = [str(number) for number in range(300)]
    for name in names:
        records._write_record(name, MetadataRecord(rule=name))
    read_file = records._io_read
    monkeypatch.setattr(records, "_io_read", lambda subject, name: read.append(name) or read_file(subject, name))
    for _ in range(3):
        assert [records._read_record(name).rule for name in names] == names
    assert read == names
    # It is kept in one place for good, however often that is asked for, until something is written.
    keep_records_read()
    records._read_record("0")
    assert read == names
    records._clear_cache()
    records._read_record("0")
    assert read == [*names, "0"]


def test_snakemake_records_what_is_compared_as_it_was(small: Small) -> None:
    found = record(MODEL)
    assert found.rule == "train" and found.incomplete is False and found.record_format_version == 6
    assert found.code.startswith("echo train {wildcards.arm}")
    assert found.params == sorted(map(repr, [SETTINGS["arms"]["alone"], SETTINGS["stamp"]]))
    assert found.input == ["data/data.txt"]
    data = hashlib.sha256(Path("data/data.txt").read_bytes()).hexdigest()
    assert found.input_checksums == {"data/data.txt": f"sha256:{data}"}
    assert found.endtime == Path(MODEL).stat().st_mtime
    assert repr('It\'s a "title"') in record("reports/table.txt").params and "''" in record("reports/table.txt").params


def test_snakemake_runs_a_job_whose_record_has_a_flaw(small: Small) -> None:
    assert stale() == {}
    found = record(MODEL)
    found.params = [*found.params, f"{FLAW}planted"]
    FilePersistence(nolock=True)._write_record(MODEL, found)
    assert FLAW not in "".join(map(str, found.params[:-1]))
    # Reconciling takes it away, since nothing is wrong.
    assert stale() == {}
    assert record(MODEL).params == found.params[:-1]
