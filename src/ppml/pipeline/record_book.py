"""The record book ``reports/provenance.json``: the records of all jobs, in git for every clone.

The book is public. If some data are not, it holds no plain digest of any file: see :mod:`ppml.io.digests`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.io.canonical_json import digest
from ppml.jobs.record import JobRecord, measured
from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.safe_paths import LONGEST_NAME, is_plain

BOOKS = "reports/**/provenance.json"
"""The record books of all configurations with results in git."""
LARGEST = 64 * 2**20
"""The largest size of a record book in bytes: forty times that of the default configuration."""


class RecordBook:
    """The records of jobs in ``reports/provenance.json``.

    Each entry has a digest of its content. Git merges two books line by line, and can combine the outputs of one
    branch with the inputs of another. The book omits such entries, entries with other parts or types, and entries with
    outputs outside the planned paths.

    Parameters
    ----------
    path : Path
        The file. If it is invalid, the book is empty, and :attr:`problem` gives the reason.
    is_planned : callable
        File name -> whether it is an output of the workflow; a planned file can have any path.

    Attributes
    ----------
    records : dict
        Output -> record of its job.
    code : dict
        Text of each code digest -> its modules and pins.
    problem : str
        The reason of an empty book, in one line; empty without a problem.

    Raises
    ------
    UserError
        The file has a merge conflict.
    """

    def __init__(self, path: Path, is_planned: Callable[[str], bool] = lambda name: False) -> None:
        self.code: dict[str, CodeDigest] = {}
        self.records: dict[str, JobRecord] = {}
        self.problem = ""
        self._is_planned = is_planned
        if not path.is_file():
            return
        try:
            text = _text(path)
            if re.search("^<<<<<<< ", text, re.MULTILINE):
                raise UserError(
                    f"{path} has a merge conflict; use one side: git checkout --ours {path}, or --theirs; without it, "
                    "results without a record on this machine run again"
                )
            self._read(json.loads(text))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
            self.code, self.records = {}, {}
            why = str(error).partition("\n")[0][:100] or type(error).__name__
            self.problem = (
                f"{path} is no record book ({why}): results without a record on this machine run again; to restore "
                f"it: git checkout -- {path}"
            )

    def _read(self, content: dict[str, Any]) -> None:
        jobs, commands, code = content["jobs"], content["commands"], content["stamps"]
        if not (isinstance(jobs, list) and isinstance(commands, dict) and isinstance(code, dict)):
            raise TypeError("jobs, commands or stamps have another type")
        for text, parts in code.items():
            with suppress(ValidationError):
                self.code[text] = CodeDigest(**_Code.model_validate(parts).model_dump())
        for one in jobs:
            with suppress(ValidationError):
                entry = _Entry.model_validate(one)
                command = _TEXT.validate_python(commands.get(entry.command))
                right = entry.digest == _entry_digest(entry.model_dump()) and entry.command == digest(command)
                if right and all(is_plain(name) or self._is_planned(name) for name in entry.outputs):
                    parts = (entry.rule, command, tuple(entry.params), entry.inputs, entry.outputs)
                    # No digest covers measurements: they decide nothing, and books of earlier versions lack them.
                    record = JobRecord(*parts, *measured(one))
                    self.records.update(dict.fromkeys(record.outputs, record))


def _require_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has control characters")
    return text


def _require_unicode(text: str) -> str:
    # JSON can hold lone surrogates, which UTF-8 cannot encode.
    text.encode()
    return text


_Text = Annotated[str, AfterValidator(_require_unicode)]
_TEXT: TypeAdapter[str] = TypeAdapter(_Text, config=ConfigDict(strict=True))
_Printable = Annotated[str, AfterValidator(_require_printable)]
# A run never writes an input.
_InputName = Annotated[_Printable, Field(min_length=1, max_length=LONGEST_NAME)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Entry(BaseModel, strict=True):
    """The record of a job, with the digests of its command and of its content."""

    rule: str
    command: str
    params: list[_Text]
    inputs: dict[_InputName, _Sha256]
    outputs: dict[str, _Sha256]
    digest: str


class _Code(BaseModel, strict=True, extra="forbid"):
    """The modules and pins of a code digest."""

    modules: dict[_Printable, _Printable]
    pins: dict[_Printable, _Printable]


def read_other_books(path: Path, folder: Path = Path()) -> Iterator[tuple[Path, RecordBook]]:
    """Yield the books of other configurations than that of ``path``, with their paths, below a working folder."""
    for other in sorted(folder.glob(BOOKS)):
        # A book with a merge conflict.
        with suppress(UserError):
            if other.resolve() != path.resolve():
                yield other, RecordBook(other)


def write_book(path: Path, records: Iterable[JobRecord], code: Mapping[str, CodeDigest]) -> None:
    """Write a record book; equal records have equal bytes."""
    entries, commands = [], {}
    records = sorted(records, key=lambda record: sorted(record.outputs))
    for record in records:
        known = {name: value for name, value in dataclasses.asdict(record).items() if value is not None}
        entry = {**known, "command": digest(record.command)}
        entries.append({**entry, "digest": _entry_digest(entry)})
        commands[entry["command"]] = record.command
    used = sorted({param for record in records for param in record.params if param in code})
    digests = {text: dataclasses.asdict(code[text]) for text in used}
    write_json(path, {"jobs": entries, "commands": commands, "stamps": digests})


def _entry_digest(entry: Mapping[str, Any]) -> str:
    """Return the digest of the content of an entry."""
    return digest([entry["rule"], entry["command"], list(entry["params"]), entry["inputs"], entry["outputs"]])


def _text(path: Path) -> str:
    """Return the text of a book, or raise a :class:`ValueError`."""
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes")
    return path.read_text(encoding="utf-8")
