"""The record book and Snakemake's records: what is there is believed where its bytes are known, and only there."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from fingerprints import Fingerprints
from provenance import FLAW, Book, Provenance, keep_records_read
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence
from status import look

from ppml.errors import UserError
from ppml.records.files import UNFINISHED
from tests.workflow.clock import wait_for_a_tick
from tests.workflow.small import SETTINGS, Small, SmallPlan

BOOK = Path("reports/provenance.json")
NEWER = "fedcba9876543210"
"""The stamp of newer code."""
KNOWN = Path(".snakemake/ppml/files.json")
MODEL = "runs/alone/seed0/model.txt"
OTHER_BYTES = "its bytes are not those that were made"
NOBODY = "nobody knows how it was made"
RUNS = {f"{rule} {arm}/{seed}" for rule in ("train", "predict") for arm in ("private", "alone") for seed in (0, 1)}
JOBS = {"data", "collect", "calibrate private/0", "calibrate private/1", *RUNS}
COMPARED = ("rule", "code", "params", "input", "input_checksums", "record_format_version", "incomplete")
"""What Snakemake decides by."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small.first(tmp_path_factory.mktemp("small"))


@pytest.fixture
def small(done: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Return a copy of the small workflow after a run; it is the working directory."""
    small = done.copy(tmp_path / "small")
    monkeypatch.chdir(small.folder)
    return small


def stale() -> dict[str, tuple[str, ...]]:
    """Reconcile, and return the jobs that Snakemake would run, with what it knows against each of them."""
    return {f"{job.rule} {job.wildcards}".strip(): job.causes for job in look([])[0] if job.runs}


def save() -> None:
    Provenance(SmallPlan.read()).save()


def record(path: str) -> MetadataRecord:
    found = FilePersistence(nolock=True)._read_record(path)
    assert found is not None
    return found


def metadata(path: str) -> Path:
    return Path(FilePersistence(nolock=True)._record_path(".snakemake/metadata", path))


def every_record() -> dict[str, bytes]:
    return {path: metadata(path).read_bytes() for path in SmallPlan.read().outputs()}


def rewrite(path: str | Path, text: str) -> None:
    """Write other bytes in such a way that the time of the file does not tell."""
    stat = Path(path).stat()
    wait_for_a_tick(Path(path).parent)
    Path(path).write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touch_all() -> None:
    """Give every file a new time, so that inputs are newer than what was made of them."""
    for number, path in enumerate(["data/data.txt", *reversed(SmallPlan.read().outputs()), "source.txt"]):
        if Path(path).exists():
            os.utime(path, (time.time() + number, time.time() + number))


def forget_records() -> None:
    shutil.rmtree(".snakemake")


def as_run_anew(path: str, text: str, **changes: object) -> None:
    """Leave what a job leaves that ended in a run that was killed: a file and its record, and no word in the book."""
    Path(path).write_text(text)
    os.utime(path, (time.time() + 7, time.time() + 7))
    changed = record(path).model_copy(update={"endtime": Path(path).stat().st_mtime, **changes})
    FilePersistence(nolock=True)._write_record(path, changed)


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


# --- the book ---------------------------------------------------------------------------------------------------


def test_the_book_says_what_snakemake_recorded(small: Small) -> None:
    book = Book(BOOK)
    assert set(book.jobs) == set(SmallPlan.read().outputs())
    for path in SmallPlan.read().outputs():
        ours, theirs = book.record(path), record(path)
        assert [ours.get(key) for key in COMPARED] == [theirs.get(key) for key in COMPARED], path
        assert book.sha256(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert book.record("source.txt") is None and book.sha256("source.txt") is None
    assert book.stamps == SmallPlan.read().stamps.made


def plain_digests_in(book: str) -> list[str]:
    """Return the files whose plain SHA-256 stands in the text of a book."""
    files = [path for path in Path().rglob("*.txt") if path.name != "ran.txt"]
    return [str(path) for path in files if hashlib.sha256(path.read_bytes()).hexdigest() in book]


def test_a_book_of_data_that_are_not_published_has_no_plain_digest(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"data/data.txt", MODEL, "source.txt"} <= set(plain_digests_in(BOOK.read_text()))
    small.set(data_published=False)
    save()
    assert not plain_digests_in(BOOK.read_text())
    # Planted: digests without the key.
    monkeypatch.setattr("provenance.shown_digest", lambda sha256, published: sha256)
    save()
    assert plain_digests_in(BOOK.read_text())


def test_a_book_with_keyed_digests_is_understood_where_the_key_is(small: Small) -> None:
    small.set(data_published=False)
    save()
    made = {path: record(path) for path in SmallPlan.read().outputs()}
    forget_records()
    touch_all()
    assert stale() == {}
    for path, before in made.items():
        assert [record(path).get(key) for key in COMPARED] == [before.get(key) for key in COMPARED], path
    rewrite(MODEL, "a planted fault")
    assert stale()["train alone/0"] == (OTHER_BYTES,)


def test_without_the_key_nobody_knows_how_files_were_made(small: Small) -> None:
    small.set(data_published=False)
    save()
    forget_records()
    Path(".ppml/digest.key").unlink()
    assert all(NOBODY in why for why in stale().values()) and stale()


def test_equal_results_have_equal_books_and_a_clone_writes_the_same(small: Small) -> None:
    before = BOOK.read_bytes()
    save()
    assert BOOK.read_bytes() == before
    forget_records()
    touch_all()
    assert stale() == {}
    save()
    assert BOOK.read_bytes() == before


def test_the_order_of_the_configuration_changes_no_book(small: Small) -> None:
    before = BOOK.read_bytes()
    small.set(arms=dict(reversed(SETTINGS["arms"].items())))
    save()
    assert BOOK.read_bytes() == before


def test_the_process_that_reconciled_knows_what_ran_since(small: Small) -> None:
    provenance = Provenance(SmallPlan.read())
    provenance.reconcile({})
    as_run_anew(MODEL, "trained again")
    provenance.save()
    assert Book(BOOK).sha256(MODEL) == hashlib.sha256(b"trained again").hexdigest()


def test_a_book_that_is_saved_before_it_was_reconciled_is_the_same(small: Small) -> None:
    before = BOOK.read_bytes()
    forget_records()
    save()
    assert BOOK.read_bytes() == before


def test_the_book_keeps_the_stamps_that_it_names_and_no_other(small: Small) -> None:
    small.set(stamp=NEWER)
    causes = stale()
    assert "module ppml.stages.train" in causes["data"]
    save()
    # Made by the older code, and still described by it.
    assert set(Book(BOOK).stamps) == {SETTINGS["stamp"]}
    assert Provenance(SmallPlan.read()).stamp(SETTINGS["stamp"]) is not None
    assert Provenance(SmallPlan.read()).stamp("0" * 16) is None
    assert stale() == causes


def test_a_text_that_a_rule_carries_counts(small: Small) -> None:
    small.set(note="new")
    assert stale() == {"collect": ("'' is now 'new'",)}
    small.set(note="", specs={**SETTINGS["specs"], "collect": "[ 1 ]"})
    ((job, causes),) = stale().items()
    assert job == "collect" and causes[0].startswith("Snakemake says: Params have changed")


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
def test_what_was_not_made_of_what_is_there_is_left_out_of_the_book(small: Small, path: str, left: set[str]) -> None:
    rewrite(path, "other")
    save()
    assert set(SmallPlan.read().outputs()) - set(Book(BOOK).jobs) == left
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
def test_the_book_keeps_what_is_not_there(small: Small, paths: list[str]) -> None:
    before, contents = BOOK.read_bytes(), {path: Path(path).read_bytes() for path in paths}
    forget_records()
    for path in paths:
        Path(path).unlink()
    stale()
    save()
    assert BOOK.read_bytes() == before
    for path, content in contents.items():
        Path(path).write_bytes(content)
    assert stale() == {}


def test_a_merge_of_two_books_vouches_for_nothing_that_was_not_made_of_what_is_there(small: Small) -> None:
    """Git merges line by line: one branch has made the table anew, the other what it shows."""
    ours, model = json.loads(BOOK.read_text()), hashlib.sha256(b"trained again").hexdigest()
    mixed = [job for job in ours["jobs"] if MODEL in job["outputs"]]
    for job in mixed:
        job["outputs"][MODEL] = model
    BOOK.write_text(json.dumps(ours))
    forget_records()
    assert MODEL not in Book(BOOK).jobs and "runs/private/seed0/model.txt" in Book(BOOK).jobs
    assert stale()["train alone/0"] == (NOBODY,)
    Path(MODEL).write_text("trained again")
    assert stale()["train alone/0"] == (NOBODY,)


@pytest.mark.parametrize("part", ["rule", "command", "params", "inputs", "outputs"])
def test_an_entry_of_the_book_that_was_changed_is_none(small: Small, part: str) -> None:
    book = json.loads(BOOK.read_text())
    (entry,) = (job for job in book["jobs"] if "reports/table.txt" in job["outputs"])
    others = {"params": [*entry["params"], "x"], "inputs": {}, "outputs": {"reports/table.txt": "0" * 64}}
    entry[part] = others.get(part, next(job[part] for job in book["jobs"] if job[part] != entry[part]))
    BOOK.write_text(json.dumps(book))
    assert "reports/table.txt" not in Book(BOOK).jobs and MODEL in Book(BOOK).jobs


def test_a_command_of_the_book_that_was_changed_is_nobodys(small: Small) -> None:
    book = json.loads(BOOK.read_text())
    (entry,) = (job for job in book["jobs"] if "reports/table.txt" in job["outputs"])
    book["commands"][entry["command"]] += " "
    BOOK.write_text(json.dumps(book))
    assert "reports/table.txt" not in Book(BOOK).jobs and MODEL in Book(BOOK).jobs


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"<<<<<<< HEAD\n",
        b"[]",
        b"null",
        b'{"jobs": []}',
        b'{"jobs": [{}], "files": {}, "commands": {}, "stamps": {}}',
        b"\xff",
    ],
)
def test_a_book_that_cannot_be_read_is_named_with_the_way_out(small: Small, content: bytes) -> None:
    BOOK.write_bytes(content)
    with pytest.raises(UserError) as refused:
        Book(BOOK)
    message = str(refused.value)
    assert message.startswith("reports/provenance.json cannot be read; in the middle of a merge, take one side: ")
    assert "\n" not in message
    assert BOOK.read_bytes() == content


# --- arms with another name -------------------------------------------------------------------------------------

NEW = {"private-again": SETTINGS["arms"]["private"], "alone-again": SETTINGS["arms"]["alone"]}


@pytest.mark.parametrize("here", ["on this machine", "in a clone"])
def test_runs_of_an_arm_that_was_renamed_are_taken_over(small: Small, here: str) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.*")}
    if here == "in a clone":
        forget_records()
    small.set(arms=NEW)
    assert set(stale()) == {"collect"}
    for old, content in before.items():
        new = Path(str(old).replace("private", "private-again").replace("alone", "alone-again"))
        assert old.read_bytes() == content
        # What depends on all arms together is made anew.
        assert not new.exists() if new.name == "record.txt" else new.read_bytes() == content
    noise, model, cost = (f"runs/private-again/seed1/{name}" for name in ("noise.json", "model.txt", "cost.txt"))
    assert record(model).input == ["data/data.txt", noise]
    assert set(record(model).input_checksums) == {"data/data.txt", noise}
    assert record(cost).rule == "train" and record(noise).rule == "calibrate"
    if here == "in a clone":
        assert small.run() == ["collect"]
        assert stale() == {}
    save()
    assert {Path(name).parts[1] for name in Book(BOOK).jobs if name.startswith("runs/")} == set(NEW)


def test_a_run_with_other_bytes_is_not_taken_over(small: Small) -> None:
    rewrite("runs/alone/seed0/cost.txt", "0")
    small.set(arms=NEW)
    assert set(stale()) == {"train alone-again/0", "predict alone-again/0", "collect"}
    assert not Path("runs/alone-again/seed0").exists()


def test_a_run_that_lacks_a_file_is_not_taken_over(small: Small) -> None:
    Path("runs/alone/seed0/predictions.txt").unlink()
    small.set(arms=NEW)
    assert set(stale()) == {"train alone-again/0", "predict alone-again/0", "collect"}


def test_a_run_whose_noise_nobody_knows_is_not_taken_over(small: Small) -> None:
    book = json.loads(BOOK.read_text())
    book["jobs"] = [job for job in book["jobs"] if job["rule"] != "calibrate"]
    BOOK.write_text(json.dumps(book))
    small.set(arms=NEW)
    causes = stale()
    assert {"calibrate private-again/0", "train private-again/1"} <= set(causes)
    assert "train alone-again/0" not in causes


def test_a_run_of_another_technique_is_not_taken_over(small: Small) -> None:
    small.set(arms={**NEW, "alone-again": '{"epochs":3}'})
    assert {name for name in stale() if name.startswith(("train", "calibrate"))} == {
        "train alone-again/0",
        "train alone-again/1",
    }


def test_a_run_made_by_other_code_is_not_taken_over(small: Small) -> None:
    small.set(arms=NEW, stamp=NEWER)
    assert len(stale()) == len(JOBS)


def test_a_folder_that_is_there_is_left_alone(small: Small) -> None:
    target = Path("runs/alone-again/seed0")
    target.mkdir(parents=True)
    (target / "model.txt").write_text("half")
    small.set(arms=NEW)
    assert stale()["train alone-again/0"] == ("missing", NOBODY)
    assert (target / "model.txt").read_text() == "half" and not (target / "cost.txt").exists()


def test_an_arm_that_says_the_same_as_another_takes_its_runs(small: Small) -> None:
    small.set(arms={**SETTINGS["arms"], "alone-again": SETTINGS["arms"]["alone"]})
    assert set(stale()) == {"collect"}


# --- fingerprints -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("content")
    return str(tmp_path / "file")


def test_a_fingerprint_is_the_sha256_and_none_without_a_file(file: str, tmp_path: Path) -> None:
    known = Fingerprints(tmp_path / "known" / "files.json")
    assert known.sha256(file) == hashlib.sha256(b"content").hexdigest()
    assert known.sha256(str(tmp_path / "absent")) is None
    Path(file).unlink()
    assert known.sha256(file) is None


@pytest.mark.parametrize("kept", [True, False])
def test_a_file_is_read_again_when_it_was_written_and_only_then(file: str, tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "files.json"

    def again(known: Fingerprints) -> Fingerprints:
        known.save()
        return Fingerprints(path) if kept else known

    known = Fingerprints(path)
    first = known.sha256(file)
    known = again(known)
    # What was noted is what is returned, as long as nothing touches the file.
    known._known[file]["sha256"] = "noted"
    known = again(known)
    assert known.sha256(file) == "noted"
    rewrite(file, "CONTENT")
    assert known.sha256(file) == hashlib.sha256(b"CONTENT").hexdigest() != first
    known = again(known)
    # Replaced by a file with the same time and size.
    stat = Path(file).stat()
    wait_for_a_tick(tmp_path)
    Path(file).with_suffix(".new").write_text("another")
    os.utime(Path(file).with_suffix(".new"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Path(file).with_suffix(".new").replace(file)
    assert known.sha256(file) == hashlib.sha256(b"another").hexdigest()


def test_at_rest_each_file_is_looked_at_once(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, looked = Fingerprints(tmp_path / "files.json"), []
    look_at = known._look
    monkeypatch.setattr(known, "_look", lambda name: looked.append(name) or look_at(name))
    absent = str(tmp_path / "absent")
    with known.at_rest():
        assert known.sha256(file) == known.sha256(file) == hashlib.sha256(b"content").hexdigest()
        assert known.sha256(absent) is known.sha256(absent) is None
    assert looked == [file, absent]
    rewrite(file, "CONTENT")
    with known.at_rest():
        assert known.sha256(file) == hashlib.sha256(b"CONTENT").hexdigest()
    Path(file).unlink()
    assert known.sha256(file) is None


def test_files_that_are_gone_are_forgotten(file: str, tmp_path: Path) -> None:
    path = tmp_path / "files.json"
    known = Fingerprints(path)
    known.sha256(file)
    known.sha256(str(tmp_path / "absent"))
    known.save()
    assert set(json.loads(path.read_text())) == {file}
    Path(file).unlink()
    known.save()
    assert json.loads(path.read_text()) == {}


def test_a_record_is_believed_by_its_time_once_and_by_the_bytes_from_then_on(file: str, tmp_path: Path) -> None:
    known = Fingerprints(tmp_path / "files.json")
    ended = Path(file).stat().st_mtime
    assert not known.made_by(file, ended + 1)
    assert not known.made_by(file, None)
    assert known.made_by(file, ended)
    wait_for_a_tick(tmp_path)
    os.utime(file, (1, 1))
    assert known.made_by(file, ended)
    assert not known.made_by(file, ended + 1)
    rewrite(file, "CONTENT")
    assert not known.made_by(file, ended)
    # The book knows these bytes: the record gets their time.
    assert known.describe(file) == 1.0
    assert known.made_by(file, 1.0)


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
