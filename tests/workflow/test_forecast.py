"""The forecast of a run: time and size of the planned jobs, from the measurements of finished jobs."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ppml.jobs.record import JobDescription, JobRecord, read_record, record_job, write_descriptions, write_record
from ppml.pipeline import forecast as module
from ppml.pipeline.forecast import Forecast, forecast
from ppml.pipeline.job_status import plan_jobs, select_needed
from ppml.pipeline.record_book import RecordBook, write_book
from tests.workflow.records import BOOK, MODEL, remove_records, save_book, stale_jobs
from tests.workflow.small import OPTIONS, Small, SmallPlan

SUBSET = "data/subsets/mnist-{}-500-first-test/train.safetensors"


def training(output: str, *, examples: int = 1000, epochs: int = 2, kind: str = "plaintext") -> JobDescription:
    """Return the description of a training."""
    arm = {"model": "cnn", "topology": {"kind": "federated", "rounds": 3}, "aggregation": {"kind": kind}}
    spec = json.dumps({"arm": {**arm, "training": {"epochs": epochs}}})
    return JobDescription("train", "run", (spec,), (SUBSET.format(examples),), (output,))


def record_of(job: JobDescription, seconds: float | None, size: float | None = 7.0) -> JobRecord:
    inputs, outputs = (dict.fromkeys(paths, "0" * 64) for paths in (job.inputs, job.outputs))
    return JobRecord(job.rule, job.command, job.params, inputs, outputs, seconds, size)


@pytest.fixture
def expect(small: Small, monkeypatch: pytest.MonkeyPatch):
    """Return a function from records of another book and a planned job to the expected seconds."""
    remove_records()
    BOOK.unlink()
    monkeypatch.setattr(module, "ROOT", small.folder / "other")

    def call(done: list[JobRecord], planned: JobDescription) -> Forecast:
        write_book(small.folder / "other/reports/provenance.json", done, {})
        return forecast(SmallPlan.read().records(), [planned])

    return call


def test_finished_job_is_measured(small: Small) -> None:
    write_descriptions([JobDescription("wait", "run", ("p",), (), ("waited.txt",))])
    with record_job("waited.txt", ["p"]):
        time.sleep(0.1)
        Path("waited.txt").write_text("1234")
    waited = read_record("waited.txt")
    assert waited is not None and waited.seconds is not None and 0.1 <= waited.seconds < 30 and waited.bytes == 4
    record = read_record("runs/alone/seed0/cost.txt")
    assert record is not None and record.bytes == sum(Path(path).stat().st_size for path in record.outputs)
    entry = RecordBook(BOOK).records[MODEL]
    assert (entry.seconds, entry.bytes) == (record.seconds, record.bytes)


def test_book_of_private_data_has_no_measurement(small: Small) -> None:
    small.set(public=False)
    save_book()
    assert "seconds" not in BOOK.read_text() and "bytes" not in BOOK.read_text()


@pytest.mark.parametrize("seconds", [None, -1, "1", True, float("nan"), 1e300, [1]])
def test_records_without_credible_measurement_stay_valid(small: Small, seconds: object) -> None:
    content = json.loads(BOOK.read_text())
    for entry in content["jobs"]:
        del entry["bytes"]
        entry["seconds"] = seconds
        if seconds is None:
            del entry["seconds"]
    BOOK.write_text(json.dumps(content))
    remove_records()
    assert stale_jobs() == {}
    assert RecordBook(BOOK).records[MODEL].seconds is None


def test_own_record_gives_time_and_size(small: Small) -> None:
    last = "runs/alone/seed0/cost.txt"
    record = read_record(last)
    assert record is not None
    write_record(replace(record, seconds=600.0, bytes=5_000_000_000), last)
    Path(MODEL).unlink()
    records = SmallPlan.read().records()
    found = forecast(records, [status.job for status in plan_jobs(records) if status.job.name == "train alone/0"])
    assert (found.jobs, found.seconds, found.size) == (1, 600.0, 5e9)
    # A run takes at least the time of its longest job.
    assert "about 10 minutes on 8 cores" in found.text(8)


def test_time_of_training_grows_with_examples_and_epochs(expect) -> None:
    done = [record_of(training("a/runs/x/seed0/m"), 10.0)]
    assert expect(done, training("b")).seconds == pytest.approx(10.0)
    assert expect(done, training("b", examples=3000)).seconds == pytest.approx(30.0)
    assert expect(done, training("a/runs/x/seed0/m", epochs=5)).seconds == pytest.approx(25.0)
    assert expect(done, training("b")).size == 7.0


def test_most_similar_jobs_give_median(expect) -> None:
    times = {"x": (1.0, "plaintext"), "y": (3.0, "plaintext"), "z": (50.0, "ckks")}
    done = [record_of(training(f"a/{name}/seed0/m", kind=kind), time) for name, (time, kind) in times.items()]
    assert expect(done, training("b")).seconds == pytest.approx(2.0)
    assert expect(done, training("b", kind="ckks")).seconds == pytest.approx(50.0)
    assert expect(done, training("b", kind="bfv")).seconds == pytest.approx(3.0)


def test_job_without_similar_measurement_is_unknown(expect) -> None:
    planned = replace(training("b"), rule="infer")
    found = expect([record_of(training("a"), 1.0)], planned)
    assert (found.untimed, found.unsized) == (1, 1)
    assert "unknown" in found.text(2)


def test_costs_give_time_of_trainings_of_earlier_books(expect, small: Small) -> None:
    done = [record_of(training("artifacts/runs/fl/seed1/m"), None, None)]
    (small.folder / "other/reports").mkdir(parents=True)
    costs = small.folder / "other/reports/costs.csv"
    costs.write_text("arm,seed,seconds\nfl,0,9\nfl,1,8\n")
    assert expect(done, training("b")).seconds == pytest.approx(8.0)
    costs.write_text("arm,seed,seconds\nfl,1,-8\n")
    assert expect(done, training("b")).untimed == 1


@pytest.mark.parametrize("spec", ["{", "[]", "{}", '{"arm": 1}', '{"arm": {"training": {"epochs": "x"}}}'])
def test_strange_specification_is_no_error(expect, spec: str) -> None:
    huge = training("a", epochs=10**400)
    done = [record_of(replace(training("a"), params=(spec,)), 1.0), record_of(replace(huge, outputs=("c",)), 1.0)]
    assert expect(done, training("b")).jobs == 1
    # A rate of this training would be infinite.
    assert expect([record_of(training("a", epochs=1e-320), 1.0)], training("b")).seconds < 1e9


def test_targets_need_their_inputs_only(small: Small) -> None:
    remove_records()
    BOOK.unlink()
    jobs = plan_jobs(SmallPlan.read().records())

    def needed(*targets: str) -> list[str]:
        return [status.job.name for status in select_needed(jobs, targets)]

    assert needed("runs/alone/seed0/predictions.txt") == ["data", "train alone/0", "predict alone/0"]
    assert len(needed("collect")) == len(needed("all")) == len(needed()) == len(jobs)
    assert needed("runs/nothing") == []


def test_forecast_precedes_jobs_and_agrees_with_dry_run(small: Small) -> None:
    Path(MODEL).unlink()
    for options in (["-n"], []):
        _, output = small.snakemake(MODEL, *OPTIONS, *options)
        found = re.findall(r"^expected: (\d+) job, about \d+ seconds? on 1 core, 1 MB$", output, re.MULTILINE)
        assert found == ["1"], output
