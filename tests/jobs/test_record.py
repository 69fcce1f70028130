"""A job is recorded by its description, after its outputs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml.errors import UserError
from ppml.jobs.record import JobDescription, JobRecord, read_record, record_job, write_descriptions

PARAMS = ("0123456789abcdef", '{"epochs":1}')
JOB = JobDescription("train", "train {output}", PARAMS, ("data.txt",), ("model.txt", "cost.txt"))


@pytest.fixture(autouse=True)
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a folder with the input of the job and its description."""
    monkeypatch.chdir(tmp_path)
    Path("data.txt").write_text("data")
    write_descriptions([JOB])


def write_outputs() -> None:
    for path in JOB.outputs:
        Path(path).write_text(path)


def do(*steps: Callable[[], object], params: tuple[str, ...] = PARAMS) -> JobRecord | None:
    """Return the record of a job of these steps."""
    with record_job(JOB.outputs[-1], params):
        for step in steps:
            step()
    return read_record(JOB.outputs[-1])


def test_record_has_the_description_and_all_digests() -> None:
    found = do(write_outputs)
    inputs, outputs = (
        {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}
        for names in (JOB.inputs, JOB.outputs)
    )
    size = sum(Path(name).stat().st_size for name in JOB.outputs)
    assert found == JobRecord(JOB.rule, JOB.command, PARAMS, inputs, outputs, found.seconds, size)
    assert found.seconds is not None and 0 <= found.seconds < 60


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("data.txt").write_text("more data"),
        lambda: Path("data.txt").replace("moved.txt"),
        # Other bytes and then the bytes of before: the job may have read either.
        lambda: (Path("data.txt").write_text("atad"), Path("data.txt").unlink(), Path("data.txt").write_text("data")),
    ],
    ids=["changed", "removed", "changed and restored"],
)
def test_job_is_not_recorded_if_an_input_changes(change: Callable[[], object]) -> None:
    assert do(change, write_outputs) is None


def test_job_is_not_recorded_if_an_input_is_absent() -> None:
    Path("data.txt").unlink()
    assert do(write_outputs) is None


def test_job_is_not_recorded_without_an_output() -> None:
    assert do(write_outputs, lambda: Path("model.txt").unlink()) is None


def test_failed_job_is_not_recorded() -> None:
    def fail() -> None:
        raise UserError("data.train: got -1")

    with pytest.raises(UserError):
        do(write_outputs, fail)
    assert read_record(JOB.outputs[-1]) is None


@pytest.mark.parametrize("params", [(PARAMS[0], '{"epochs":2}'), ("f" * 16, PARAMS[1])], ids=["settings", "code"])
def test_job_is_not_recorded_by_the_description_of_another_run(params: tuple[str, ...]) -> None:
    assert do(write_outputs, params=params) is None


def test_described_params_may_be_more_than_those_of_the_process() -> None:
    write_descriptions([dataclasses.replace(JOB, params=("a title", *PARAMS))])
    found = do(write_outputs)
    assert found is not None and found.params == ("a title", *PARAMS)


@pytest.mark.parametrize("content", ["", "[", "[]", '{"rule": "train"}'])
def test_damaged_description_records_nothing(content: str) -> None:
    for path in Path(".snakemake").rglob("*.json"):
        path.write_text(content)
    assert do(write_outputs) is None
