"""A job runs again only if the record of its bytes, parameters and inputs is missing or differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ppml.io.atomic import TEMP_PREFIX
from ppml.pipeline.job_status import NO_RECORD, OTHER_BYTES
from tests.workflow.records import (
    BOOK,
    JOBS,
    MODEL,
    NEWER,
    RUNS,
    read_record_files,
    record_file,
    remove_records,
    replace_bytes,
    save_book,
    stale_jobs,
    start_run,
    touch_all,
    write_result_and_record,
)
from tests.workflow.small import SETTINGS, Small, SmallPlan

# --- valid results -----------------------------------------------------------------------------------------------


def test_finished_run_leaves_no_job(small: Small) -> None:
    before = read_record_files()
    assert stale_jobs() == {}
    assert read_record_files() == before


@pytest.mark.parametrize("place", ["on this machine", "in a clone"])
def test_times_do_not_count(small: Small, place: str) -> None:
    if place == "in a clone":
        remove_records()
    for _ in range(2):
        touch_all()
        assert stale_jobs() == {}


def test_results_without_record_run_again(small: Small) -> None:
    remove_records()
    BOOK.unlink()
    reasons = stale_jobs()
    assert set(reasons) == JOBS
    assert all(NO_RECORD in why for why in reasons.values())


def test_missing_file_runs_with_its_dependents(small: Small) -> None:
    Path(MODEL).unlink()
    assert stale_jobs() == {"train alone/0": ("missing",), "predict alone/0": (), "collect": ()}


def test_missing_last_result_runs_as_only_job(small: Small) -> None:
    remove_records()
    Path("reports/table.txt").unlink()
    assert stale_jobs() == {"collect": ("missing",)}


@pytest.mark.parametrize("place", ["on this machine", "in a clone"])
def test_changed_job_of_missing_data_runs(small: Small, place: str) -> None:
    """The data set was not pulled."""
    if place == "in a clone":
        remove_records()
    Path("data/data.txt").unlink()
    assert stale_jobs() == {}
    small.set(specs={**SETTINGS["specs"], "data": '{"n":4}'})
    assert set(stale_jobs()) == JOBS
    small.set(**SETTINGS)
    assert stale_jobs() == {}
    replace_bytes("source.txt", "other numbers\n")
    assert stale_jobs()["data"][-1] == "source.txt has changed"


def test_edited_data_do_not_count_after_removal(small: Small) -> None:
    replace_bytes("data/data.txt", "by hand")
    assert set(stale_jobs()) == JOBS
    Path("data/data.txt").unlink()
    assert stale_jobs() == {}


def test_only_leftovers_of_killed_writers_are_removed(small: Small) -> None:
    remains, others = (
        Path(f"runs/alone/seed0/{TEMP_PREFIX}abcd1234-model.txt"),
        Path("runs/alone/seed0/.pre-commit-config.yaml"),
    )
    for path in (remains, others):
        path.write_text("half")
    assert stale_jobs() == {}
    assert remains.exists() and others.exists()
    start_run()
    assert not remains.exists() and others.exists()


# --- stale results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["records and book", "records", "book"])
def test_edited_result_runs_again_until_restored(small: Small, known: str) -> None:
    text = Path(MODEL).read_text()
    if known == "records":
        BOOK.unlink()
    if known == "book":
        remove_records()
    replace_bytes(MODEL, "a planted fault")
    reasons = stale_jobs()
    assert set(reasons) == {"train alone/0", "predict alone/0", "collect"}
    assert reasons["train alone/0"] == ((NO_RECORD if known == "book" else OTHER_BYTES),)
    assert reasons["predict alone/0"] == (f"{MODEL} has changed",)
    assert stale_jobs() == reasons
    replace_bytes(MODEL, text)
    assert stale_jobs() == {}


def test_edited_output_repeats_job(small: Small) -> None:
    replace_bytes("runs/alone/seed1/cost.txt", "0")
    reasons = stale_jobs()
    assert set(reasons) == {"train alone/1", "predict alone/1", "collect"}
    assert reasons["train alone/1"] == (OTHER_BYTES,)
    assert reasons["collect"] == ("runs/alone/seed1/cost.txt has changed",)


@pytest.mark.parametrize("place", ["on this machine", "in a clone"])
def test_changed_input_is_named(small: Small, place: str) -> None:
    if place == "in a clone":
        remove_records()
    replace_bytes("source.txt", "other numbers\n")
    reasons = stale_jobs()
    assert reasons["data"] == ("source.txt has changed",)
    assert set(reasons) == JOBS
    replace_bytes("source.txt", "numbers\n")
    assert stale_jobs() == {}


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
def test_damaged_record_counts_as_missing(small: Small, how: str) -> None:
    BOOK.unlink()
    damage(record_file(MODEL), how)
    reasons = stale_jobs()
    assert reasons["train alone/0"] == (NO_RECORD,)


@pytest.mark.parametrize("how", DAMAGES)
def test_book_replaces_damaged_records(small: Small, how: str) -> None:
    for path in {record_file(path) for path in SmallPlan.read().outputs()}:
        damage(path, how)
    assert stale_jobs() == {}


def test_book_keeps_an_older_command(small: Small) -> None:
    BOOK.unlink()
    for path in (MODEL, "runs/alone/seed0/cost.txt"):
        write_result_and_record(path, Path(path).read_text(), command="an older command")
    here = stale_jobs()
    assert here["train alone/0"] == ("the rule's command has changed",) and "train alone/1" not in here
    save_book()
    remove_records()
    assert stale_jobs() == here


def test_book_with_present_command_is_enough(small: Small) -> None:
    for path in (MODEL, "runs/alone/seed0/cost.txt"):
        write_result_and_record(path, Path(path).read_text(), command="an older command")
    assert stale_jobs() == {}


OTHER = {
    "newer code": ({"digest": NEWER}, {*RUNS, "collect"}),
    "other settings": ({"specs": {**SETTINGS["specs"], "predict": '{"device":"gpu"}'}}, set()),
}
"""Changes without effect on the bytes of predictions, and the jobs that are stale without the book: newer code repeats
the trainings, whose files of costs have other bytes each time."""


@pytest.mark.parametrize(("changes", "stale"), OTHER.values(), ids=OTHER)
def test_results_of_others_are_current_with_their_book(small: Small, changes: dict, stale: set[str]) -> None:
    first, other = (small.copy(small.folder.parent / name) for name in ("first", "other"))
    other.set(**changes)
    ran = other.run()
    assert "predict alone 0" in ran
    small.set(**changes)
    assert len(stale_jobs()) == len(ran)
    check_out(other)
    assert stale_jobs() == {}
    # And back to the other branch: the records of this machine know the outputs with equal bytes.
    small.set(**SETTINGS)
    assert set(stale_jobs()) == stale
    check_out(first)
    assert stale_jobs() == {}


def check_out(other: Small) -> None:
    """Copy the book and the results of another copy, as ``git checkout`` and a pull do."""
    for path in [BOOK, *SmallPlan.read().outputs()]:
        shutil.copyfile(other.folder / path, path)


def test_older_book_does_not_replace_own_records(small: Small) -> None:
    before = BOOK.read_bytes()
    small.set(digest=NEWER)
    assert len(small.run()) == len(JOBS)
    BOOK.write_bytes(before)
    assert stale_jobs() == {}


# --- killed runs ------------------------------------------------------------------------------------------------


def test_finished_job_of_killed_run_counts(small: Small) -> None:
    assert stale_jobs() == {}
    write_result_and_record(MODEL, "trained again")
    assert stale_jobs() == {
        "predict alone/0": (f"{MODEL} has changed",),
        "collect": (),
    }
    replace_bytes(MODEL, "a planted fault")
    assert stale_jobs()["train alone/0"] == (OTHER_BYTES,)


def test_edit_after_killed_run_is_noticed(small: Small) -> None:
    write_result_and_record(MODEL, "trained again")
    Path(MODEL).write_text("edited")
    assert stale_jobs()["train alone/0"] == (OTHER_BYTES,)
