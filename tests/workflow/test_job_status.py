"""Jobs run again if a record of their bytes, parameters and inputs is missing or differs, and only then."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from ppml.io.atomic import TEMP_PREFIX
from ppml.pipeline.record_book import RecordBook
from tests.workflow.records import (
    BOOK,
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
    record_file,
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


def test_finished_run_leaves_no_job(small: Small) -> None:
    before = every_record()
    assert stale() == {}
    assert every_record() == before


def test_times_do_not_count(small: Small) -> None:
    touch_all()
    assert stale() == {}
    touch_all()
    assert stale() == {}


def test_clone_with_the_same_files_has_no_job(small: Small) -> None:
    forget_records()
    touch_all()
    assert stale() == {}


def test_results_without_record_run_again(small: Small) -> None:
    forget_records()
    BOOK.unlink()
    causes = stale()
    assert set(causes) == JOBS
    assert all(NOBODY in why for why in causes.values())


def test_missing_file_runs_with_all_that_follow(small: Small) -> None:
    Path(MODEL).unlink()
    assert stale() == {"train alone/0": ("missing",), "predict alone/0": (), "collect": ()}


def test_missing_last_result_runs_alone(small: Small) -> None:
    forget_records()
    Path("reports/table.txt").unlink()
    assert stale() == {"collect": ("missing",)}


@pytest.mark.parametrize("here", ["on this machine", "in a clone"])
def test_changed_job_of_missing_data_runs(small: Small, here: str) -> None:
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


def test_edited_data_do_not_count_after_removal(small: Small) -> None:
    rewrite("data/data.txt", "by hand")
    assert set(stale()) == JOBS
    Path("data/data.txt").unlink()
    assert stale() == {}


def test_only_leftovers_of_killed_writers_are_removed(small: Small) -> None:
    remains, others = (
        Path(f"runs/alone/seed0/{TEMP_PREFIX}abcd1234-model.txt"),
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
def test_edited_result_runs_again_until_restored(small: Small, known: str) -> None:
    text = Path(MODEL).read_text()
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


def test_edit_of_same_length_and_time_is_noticed(small: Small) -> None:
    assert stale() == {}
    text = Path(MODEL).read_text()
    rewrite(MODEL, text.swapcase())
    assert "train alone/0" in stale()


def test_one_edited_output_is_enough(small: Small) -> None:
    rewrite("runs/alone/seed1/cost.txt", "0")
    causes = stale()
    assert set(causes) == {"train alone/1", "predict alone/1", "collect"}
    assert causes["train alone/1"] == (OTHER_BYTES,)
    assert causes["collect"] == ("runs/alone/seed1/cost.txt has changed",)


def test_changed_input_is_named(small: Small) -> None:
    rewrite("source.txt", "other numbers\n")
    causes = stale()
    assert causes["data"] == ("source.txt has changed",)
    assert set(causes) == JOBS
    rewrite("source.txt", "numbers\n")
    assert stale() == {}


def test_clone_notices_changed_input(small: Small) -> None:
    forget_records()
    rewrite("source.txt", "other numbers\n")
    assert stale()["data"] == ("source.txt has changed",)


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-2],
    "zeros": lambda data: bytes(len(data)),
    "absent": None,
}


def damage(path: Path, how: str) -> None:
    if how == "absent":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_record_counts_as_none(small: Small, how: str) -> None:
    BOOK.unlink()
    damage(record_file(MODEL), how)
    causes = stale()
    assert causes["train alone/0"] == (NOBODY,)


@pytest.mark.parametrize("how", DAMAGES)
def test_book_replaces_damaged_records(small: Small, how: str) -> None:
    for path in {record_file(path) for path in SmallPlan.read().outputs()}:
        damage(path, how)
    assert stale() == {}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_digest_cache_is_computed_again(small: Small, how: str) -> None:
    damage(KNOWN, how)
    assert stale() == {}
    damage(KNOWN, how)
    touch_all()
    assert stale() == {}
    damage(KNOWN, how)
    Path(MODEL).write_text("other")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_book_keeps_an_older_command(small: Small) -> None:
    BOOK.unlink()
    for path in (MODEL, "runs/alone/seed0/cost.txt"):
        as_run_anew(path, Path(path).read_text(), command="an older command")
    here = stale()
    assert here["train alone/0"] == ("the rule's command has changed",) and "train alone/1" not in here
    save()
    forget_records()
    assert stale() == here


def test_book_with_present_command_is_enough(small: Small) -> None:
    for path in (MODEL, "runs/alone/seed0/cost.txt"):
        as_run_anew(path, Path(path).read_text(), command="an older command")
    assert stale() == {}


OTHER = {
    "newer code": {"stamp": NEWER},
    "other settings": {"specs": {**SETTINGS["specs"], "predict": '{"device":"gpu"}'}},
}
"""Changes that change no byte of a prediction."""


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_results_of_others_are_current_with_their_book(small: Small, changes: dict) -> None:
    first, other = (small.copy(small.folder.parent / name) for name in ("first", "other"))
    other.set(**changes)
    ran = other.run()
    assert "predict alone 0" in ran
    small.set(**changes)
    assert len(stale()) == len(ran)
    check_out(other)
    assert stale() == {}
    # And back to the other branch: the records of this machine know the outputs with equal bytes.
    small.set(**SETTINGS)
    assert len(stale()) <= len(ran)
    check_out(first)
    assert stale() == {}


def check_out(other: Small) -> None:
    """Take another copy's book and results, as ``git checkout`` and a pull do."""
    for path in [BOOK, *SmallPlan.read().outputs()]:
        shutil.copyfile(other.folder / path, path)


def test_older_book_does_not_replace_own_records(small: Small) -> None:
    before = BOOK.read_bytes()
    small.set(stamp=NEWER)
    assert len(small.run()) == len(JOBS)
    BOOK.write_bytes(before)
    assert stale() == {}


# --- runs that were killed --------------------------------------------------------------------------------------


def test_finished_job_of_killed_run_counts(small: Small) -> None:
    assert stale() == {}
    as_run_anew(MODEL, "trained again")
    assert stale() == {
        "predict alone/0": (f"{MODEL} has changed",),
        "collect": (),
    }
    rewrite(MODEL, "a planted fault")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_edit_after_killed_run_is_noticed(small: Small) -> None:
    as_run_anew(MODEL, "trained again")
    Path(MODEL).write_text("edited")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_next_run_saves_jobs_of_killed_run(small: Small) -> None:
    text = "trained again"
    as_run_anew(MODEL, text)
    save()
    book = RecordBook(BOOK)
    assert book.records[MODEL].outputs[MODEL] == hashlib.sha256(text.encode()).hexdigest()
    assert "runs/alone/seed0/predictions.txt" not in book.records
