"""Records of finished jobs: each job writes a record after its outputs, with the SHA-256 of its inputs and outputs.

Before a run starts its jobs, it writes a description of each job under the name of its last output. A failed or killed
job writes no record, so that the next run repeats it.

Every job imports this module, so it imports no slow library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ppml.io.atomic import read_json, write_json
from ppml.io.digests import file_sha256

STATE = Path(".snakemake/ppml")
DESCRIPTIONS = STATE / "jobs"
RECORDS = STATE / "records"
MOST_SECONDS, MOST_BYTES = 1e7, 1e14
"""The largest credible measurements of a job: a stranger can have written its record."""


@dataclasses.dataclass(frozen=True)
class JobRecord:
    """A finished job.

    Parameters
    ----------
    rule, command : str
        The name of the rule, and its shell command with wildcards.
    params : tuple of str
        Specification, code digest, and further texts of the command, sorted.
    inputs, outputs : mapping
        Path -> SHA-256 of the bytes that the job read and wrote; in the record book, its publishable digest.
    seconds, bytes : float or None
        The measured time of the job and size of its outputs, None if unknown; only forecasts use them.
    """

    rule: str
    command: str
    params: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    seconds: float | None = None
    bytes: float | None = None


@dataclasses.dataclass(frozen=True)
class JobDescription:
    """A planned job.

    Parameters
    ----------
    rule, command : str
        The name of the rule, for instance ``table_summary``, and its shell command with wildcards.
    params : tuple of str
        Specification, code digest, and further texts of the command, sorted; they decide the result.
    inputs, outputs : tuple of str
        The paths of all files.
    """

    rule: str
    command: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_descriptions(jobs: Iterable[JobDescription]) -> None:
    """Write the description of each job for its process."""
    names = [field.name for field in dataclasses.fields(JobDescription)]
    for job in jobs:
        write_json(_file(DESCRIPTIONS, job.outputs[-1]), {name: getattr(job, name) for name in names})


@contextmanager
def record_job(output: str | None, params: Iterable[str]) -> Iterator[None]:
    """Record the job of a process after the block has ended without an error.

    No record is written if an input changes during the job, which may have read either content.

    Parameters
    ----------
    output : str or None
        The last output of the job.
    params : iterable of str
        Specification and code digest of the job; a description of another run has others.
    """
    job = _read_description(output) if output else None
    if job and not set(params) <= set(job.params):
        job = None
    before = {name: _signature(name) for name in job.inputs} if job else {}
    inputs = {name: _sha256(name) for name in before}
    started = time.monotonic()
    yield
    seconds = round(time.monotonic() - started, 2)
    if job is None or before != {name: _signature(name) for name in before}:
        return
    outputs = {name: _sha256(name) for name in job.outputs}
    # Without all outputs the job also fails in Snakemake.
    if None not in (*inputs.values(), *outputs.values()):
        size = total_size(job.outputs)
        record = JobRecord(job.rule, job.command, job.params, inputs, outputs, seconds, size)  # type: ignore[arg-type]
        write_record(record, job.outputs[-1])


def total_size(files: Iterable[str]) -> int | None:
    """Return the size of some files in bytes, None if one is missing."""
    with suppress(OSError):
        return sum(Path(file).stat().st_size for file in files)
    return None


def measured(content: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return seconds and bytes of a record; a value that no job can have is None.

    Examples
    --------
    >>> measured({"seconds": 1.5, "bytes": -1}), measured({"seconds": float("nan"), "bytes": "1"})
    ((1.5, None), (None, None))
    """
    return _credible(content.get("seconds"), MOST_SECONDS), _credible(content.get("bytes"), MOST_BYTES)


def write_record(record: JobRecord, output: str) -> None:
    """Write the record of a job under the name of its last output."""
    write_json(_file(RECORDS, output), dataclasses.asdict(record))


def read_record(output: str) -> JobRecord | None:
    """Return the record of a job by its last output, None if there is none or it is damaged."""
    return _read_record(_file(RECORDS, output))


def read_records() -> Iterator[JobRecord]:
    """Yield the valid records of all jobs that ended on this machine, of every configuration."""
    for path in sorted(RECORDS.glob("*.json")):
        if record := _read_record(path):
            yield record


def _read_record(path: Path) -> JobRecord | None:
    content = _read(path)
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        inputs, outputs = dict(content["inputs"]), dict(content["outputs"])
        texts = [content["rule"], content["command"], *content["params"]]
        texts += [text for digests in (inputs, outputs) for pair in digests.items() for text in pair]
        if all(isinstance(text, str) for text in texts):
            return JobRecord(texts[0], texts[1], tuple(content["params"]), inputs, outputs, *measured(content))
    return None


def _credible(value: Any, largest: float) -> float | None:
    return value if type(value) in (int, float) and 0 <= value <= largest else None


def _read_description(output: str) -> JobDescription | None:
    content = _read(_file(DESCRIPTIONS, output))
    with suppress(KeyError, TypeError):
        texts = (tuple(content[name]) for name in ("params", "inputs", "outputs"))
        return JobDescription(content["rule"], content["command"], *texts)
    return None


def _read(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        return read_json(path)
    return None


def _file(folder: Path, output: str) -> Path:
    return folder / f"{hashlib.sha256(output.encode()).hexdigest()[:32]}.json"


def _signature(name: str) -> tuple[int, ...] | None:
    with suppress(OSError):
        stat = Path(name).stat()
        return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    return None


def _sha256(name: str) -> str | None:
    with suppress(OSError):
        return file_sha256(Path(name))
    return None
