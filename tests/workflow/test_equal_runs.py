"""Runs of the same training are copied only into paths of planned results, and only with the recorded bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ppml.io.digests import file_sha256
from ppml.jobs.record import RECORDS, JobRecord, read_record, write_record
from ppml.pipeline.equal_runs import EqualRun, copy_equal_run, find_equal_runs
from ppml.pipeline.job_status import NO_RECORD
from ppml.pipeline.record_book import RecordBook, _entry_digest
from ppml.pipeline.safe_paths import Places, is_plain
from tests.workflow.records import (
    BOOK,
    JOBS,
    NEWER,
    list_tree,
    remove_records,
    replace_bytes,
    save_book,
    stale_jobs,
    start_run,
)
from tests.workflow.small import SETTINGS, Small, SmallPlan

NEW = {"private-again": SETTINGS["arms"]["private"], "alone-again": SETTINGS["arms"]["alone"]}


@pytest.mark.parametrize("place", ["on this machine", "in a clone"])
def test_runs_of_renamed_arm_are_copied(small: Small, place: str) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.*")}
    if place == "in a clone":
        remove_records()
    small.set(arms=NEW)
    start_run()
    assert set(stale_jobs()) == {"collect"}
    for old, content in before.items():
        new = Path(str(old).replace("private", "private-again").replace("alone", "alone-again"))
        assert old.read_bytes() == content
        # Results of all arms together run again.
        assert not new.exists() if new.name == "record.txt" else new.read_bytes() == content
    noise, model, cost = (f"runs/private-again/seed1/{name}" for name in ("noise.json", "model.txt", "cost.txt"))
    record = read_record(cost)
    assert record is not None and record.rule == "train" and set(record.outputs) == {model, cost}
    assert set(record.inputs) == {"data/data.txt", noise}
    if place == "in a clone":
        assert small.run() == ["collect"]
        assert stale_jobs() == {}
    save_book()
    assert {Path(name).parts[1] for name in RecordBook(BOOK).records if name.startswith("runs/")} == set(NEW)


def test_changed_run_is_not_copied(small: Small) -> None:
    replace_bytes("runs/alone/seed0/cost.txt", "0")
    small.set(arms=NEW)
    start_run()
    assert set(stale_jobs()) == {"train alone-again/0", "predict alone-again/0", "collect"}
    assert not Path("runs/alone-again/seed0").exists()


def test_missing_file_of_run_is_made(small: Small) -> None:
    Path("runs/alone/seed0/predictions.txt").unlink()
    small.set(arms=NEW)
    start_run()
    assert set(stale_jobs()) == {"predict alone-again/0", "collect"}


@pytest.mark.parametrize("change", ["other bytes", "other name"])
def test_run_of_other_data_is_not_copied(small: Small, change: str) -> None:
    small.set(arms=NEW)
    if change == "other bytes":
        Path("data/data.txt").write_text("others")
    else:
        for path in RECORDS.glob("*.json"):
            path.write_text(path.read_text().replace("data/data.txt", "data/more.txt"))
        BOOK.unlink()
    start_run()
    assert not any(Path("runs").glob("*-again"))


def test_run_without_record_of_noise_is_not_copied(small: Small) -> None:
    remove_records()
    book = json.loads(BOOK.read_text())
    book["jobs"] = [job for job in book["jobs"] if job["rule"] != "calibrate"]
    BOOK.write_text(json.dumps(book))
    small.set(arms=NEW)
    start_run()
    reasons = stale_jobs()
    assert {"calibrate private-again/0", "train private-again/1"} <= set(reasons)
    assert "train alone-again/0" not in reasons


def test_run_of_other_technique_is_not_copied(small: Small) -> None:
    small.set(arms={**NEW, "alone-again": '{"epochs":3}'})
    start_run()
    assert {name for name in stale_jobs() if name.startswith(("train", "calibrate"))} == {
        "train alone-again/0",
        "train alone-again/1",
    }


def test_run_of_other_code_is_not_copied(small: Small) -> None:
    small.set(arms=NEW, digest=NEWER)
    start_run()
    assert len(stale_jobs()) == len(JOBS)


def test_existing_folder_is_not_changed(small: Small) -> None:
    target = Path("runs/alone-again/seed0")
    target.mkdir(parents=True)
    (target / "model.txt").write_text("half")
    small.set(arms=NEW)
    start_run()
    assert stale_jobs()["train alone-again/0"] == ("missing", NO_RECORD)
    assert (target / "model.txt").read_text() == "half" and not (target / "cost.txt").exists()


def test_runs_are_copied_for_equal_arm(small: Small) -> None:
    small.set(arms={**SETTINGS["arms"], "alone-again": SETTINGS["arms"]["alone"]})
    start_run()
    assert set(stale_jobs()) == {"collect"}


def test_equal_runs_are_found_without_changes(small: Small) -> None:
    small.set(arms=NEW)
    before = list_tree()
    found = {run.folder: run.source for run in find_equal_runs(SmallPlan.read().records())}
    assert found == {
        f"runs/{arm}-again/seed{seed}": f"runs/{arm}/seed{seed}" for arm in ("private", "alone") for seed in (0, 1)
    }
    assert list_tree() == before


def test_book_of_private_data_has_no_plain_digest_of_a_copied_run(small: Small) -> None:
    small.set(arms=NEW, public=False)
    BOOK.unlink()
    records = SmallPlan.read().records()
    assert all(copy_equal_run(run, records) for run in find_equal_runs(records))
    plain = {file_sha256(Path(path)) for path in ("data/data.txt", "runs/alone-again/seed0/model.txt")}
    # Snakemake removes the outputs of a repeated job, and an interrupt saves the book.
    Path("runs/alone-again/seed0/model.txt").unlink()
    records.save_book()
    assert BOOK.exists() and not [digest for digest in plain if digest in BOOK.read_text()]


# --- the folder of another configuration -------------------------------------------------------------------------

PARTITION = "partitions/half.txt"


@pytest.fixture
def partitioned(small: Small) -> Small:
    """Return the small workflow after a run with a partition, and then with artifacts in the folder ``own``."""
    small.set(partitioned=True)
    Path("partitions").mkdir()
    Path(PARTITION).write_text("0 1 2")
    record_all()
    small.set(top="own/")
    return small


def record_all() -> None:
    """Record all files as results of the plan, without a book."""
    for job in SmallPlan.read().jobs():
        inputs, outputs = ({name: file_sha256(Path(name)) for name in names} for names in (job.inputs, job.outputs))
        write_record(JobRecord(job.rule, job.command, job.params, inputs, outputs), job.outputs[-1])
    BOOK.unlink()


def test_runs_of_other_folder_are_copied_with_their_partition(partitioned: Small) -> None:
    before = {path.relative_to("runs"): path.read_bytes() for path in Path("runs").rglob("*.*")}
    start_run()
    after = {path.relative_to("own/runs"): path.read_bytes() for path in Path("own/runs").rglob("*.*")}
    assert after == {path: content for path, content in before.items() if path.name != "record.txt"}
    assert Path("own", PARTITION).read_text() == "0 1 2"
    assert set(stale_jobs()) == {"collect"}


def test_run_of_other_partition_is_not_copied(partitioned: Small) -> None:
    Path("own/partitions").mkdir(parents=True)
    Path("own", PARTITION).write_text("0 1")
    start_run()
    assert not Path("own/runs").exists()


def test_run_before_change_of_its_partition_is_not_copied(partitioned: Small) -> None:
    last = "runs/alone/seed1/cost.txt"
    record = read_record(last)
    assert record is not None
    write_record(replace(record, inputs={**record.inputs, PARTITION: "0" * 64}), last)
    start_run()
    assert set(stale_jobs()) == {"train alone/1", "predict alone/1", "collect"}
    assert Path("own", PARTITION).read_text() == "0 1 2"


def test_unreadable_folder_of_other_configuration_stops_no_run(partitioned: Small) -> None:
    record = read_record("runs/alone/seed0/cost.txt")
    assert record is not None
    write_record(replace(record, outputs={f"runs/{'x' * 300}/seed0/model.txt": "0" * 64}), "x")
    start_run()
    assert set(stale_jobs()) == {"collect"}


# --- books of strangers -- -------------------------------------------------------------------------------------

HOSTILE = b"import os; os.abort()\n"
TARGET = ".venv/lib/site.py"
TRAINED = ["runs/x/seed0/model.txt", "runs/x/seed0/cost.txt"]


def forge(outputs: dict[str, bytes]) -> None:
    """Write ``outputs``, and an entry of a clone's book with them as outputs of the training of ``alone``."""
    remove_records()
    book = json.loads(BOOK.read_text())
    victim = next(job for job in book["jobs"] if "runs/alone/seed0/model.txt" in job["outputs"])
    for name, content in outputs.items():
        path = Path(os.path.normpath(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in outputs.items()}
    entry = {**victim, "outputs": digests}
    entry["digest"] = _entry_digest(entry)
    book["jobs"] = [job for job in book["jobs"] if job["rule"] != "train"] + [entry]
    BOOK.write_text(json.dumps(book))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "runs/x/seed0/../../../.venv/lib/site.py",
            "runs/x/seed0/../../alone/seed1/model.txt",
            "runs/x/seed0/site.py",
        ),
        *("runs/x/seed0/deep/model.txt", "runs/x/y/seed0/model.txt", "other/x/seed0/model.txt", "model.txt"),
        *("./runs/x/seed0/model.txt", "runs//x/seed0/model.txt", "runs/x/seed0/MODEL.TXT", "source.txt"),
    ],
)
@pytest.mark.parametrize("beside", [[], TRAINED], ids=["alone", "beside a model"])
def test_forged_entry_writes_only_planned_results(small: Small, name: str, beside: list[str]) -> None:
    forge(dict.fromkeys(beside, b"x") | {name: HOSTILE})
    small.set(arms=NEW)
    before = list_tree()
    start_run()
    after = list_tree()
    new = set(after) - set(before)
    assert new <= {f"runs/alone-again/seed0{part}" for part in ("", "/model.txt", "/cost.txt")} | {"runs/alone-again"}
    assert new or not beside or not is_plain(name)
    # A new folder changes the time of its parent.
    assert all(after[path] == content for path, content in before.items() if Path(path).is_file())
    assert not Path(TARGET).exists() or name.endswith("site.py")


def test_check_of_places_stops_forged_entry(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of places, a forged record copies a file to another folder."""
    forge(dict.fromkeys(TRAINED, HOSTILE))
    small.set(arms=NEW)
    records = SmallPlan.read().records()
    (run,) = find_equal_runs(records)
    record = next(iter(run.records.values()))
    elsewhere = f"{run.folder}/../../../.venv/model.txt"
    record.outputs.update({elsewhere: hashlib.sha256(HOSTILE).hexdigest()})
    forged = EqualRun(run.source, run.folder, {elsewhere: f"{run.source}/model.txt"}, {elsewhere: record})
    assert not copy_equal_run(forged, records)
    assert not Path(".venv/model.txt").exists()
    monkeypatch.setattr(Places, "check", lambda self, name: Path(os.path.normpath(name)))
    Path(".venv").mkdir()
    assert copy_equal_run(forged, records)
    assert Path(".venv/model.txt").read_bytes() == HOSTILE


@pytest.mark.parametrize("link", ["runs", "runs/alone-again", "runs/alone-again/seed0", "runs/x", "runs/x/seed0"])
def test_no_run_is_copied_through_a_link(small: Small, tmp_path: Path, link: str) -> None:
    forge(dict.fromkeys(TRAINED, HOSTILE))
    elsewhere = tmp_path / "elsewhere"
    if Path(link).exists():
        shutil.move(link, elsewhere)
    else:
        elsewhere.mkdir()
        Path(link).parent.mkdir(parents=True, exist_ok=True)
    Path(link).symlink_to(elsewhere)
    small.set(arms=NEW)
    before = list_tree(elsewhere)
    start_run()
    assert list_tree(elsewhere) == before
    assert not Path("runs/alone-again/seed0/model.txt").exists()


@pytest.mark.parametrize("late", [False, True])
def test_run_that_changes_during_copy_is_not_copied(small: Small, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """After a change of the last file, no copy of the other files remains."""
    small.set(arms=NEW)
    changed = Path("runs/alone/seed0/predictions.txt")
    copy = shutil.copyfile

    def change_and_copy(source: Path, target: Path) -> object:
        if late and Path(source) == changed:
            changed.write_text("other")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", change_and_copy)
    start_run()
    assert Path("runs/alone-again/seed0/predictions.txt").exists() is not late
    assert Path("runs/alone-again/seed0").exists() is not late
    assert Path("runs/alone-again/seed1/predictions.txt").exists()


def test_pipe_in_place_of_result_stops_no_run(small: Small) -> None:
    path = Path("runs/alone/seed0/model.txt")
    path.unlink()
    os.mkfifo(path)
    small.set(arms=NEW)
    start_run()
    assert not Path("runs/alone-again/seed0").exists() and Path("runs/alone-again/seed1").exists()
