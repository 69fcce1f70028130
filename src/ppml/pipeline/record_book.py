"""The record book ``reports/provenance.json``: the records of all jobs, in git for every clone.

The book is public. If some data are not, it holds no plain digest of any file: see :mod:`ppml.io.digests`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.io.canonical_json import digest
from ppml.jobs.record import JobRecord
from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.safe_paths import LONGEST_NAME, is_plain

LARGEST = 64 * 2**20
"""The largest size of a record book in bytes: forty times that of the default configuration."""

_SHA256 = re.compile("[0-9a-f]{64}")


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
        self.code = {text: CodeDigest(**parts) for text, parts in code.items() if _is_code_digest(parts)}
        for entry in jobs:
            if not self._is_entry(entry) or entry["digest"] != _entry_digest(entry):
                continue
            command, params = commands.get(entry["command"]), tuple(entry["params"])
            if isinstance(command, str) and _is_unicode(command) and entry["command"] == digest(command):
                record = JobRecord(entry["rule"], command, params, dict(entry["inputs"]), dict(entry["outputs"]))
                self.records.update(dict.fromkeys(record.outputs, record))

    def _is_entry(self, entry: Any) -> bool:
        """Return whether an entry has all parts, each of its type, and names only outputs of the workflow."""
        if not (
            isinstance(entry, dict) and {"rule", "command", "params", "inputs", "outputs", "digest"} <= entry.keys()
        ):
            return False
        inputs, outputs, params = entry["inputs"], entry["outputs"], entry["params"]
        return (
            all(isinstance(entry[key], str) for key in ("rule", "command", "digest"))
            and isinstance(params, list)
            and all(isinstance(param, str) and _is_unicode(param) for param in params)
            and isinstance(inputs, dict)
            and isinstance(outputs, dict)
            and all(isinstance(text, str) and _SHA256.fullmatch(text) for text in (*inputs.values(), *outputs.values()))
            # A run never writes an input.
            and all(name.isprintable() and 0 < len(name) <= LONGEST_NAME for name in inputs)
            and all(is_plain(name) or self._is_planned(name) for name in outputs)
        )


def write_book(path: Path, records: Iterable[JobRecord], code: Mapping[str, CodeDigest]) -> None:
    """Write a record book; equal results have equal bytes."""
    entries, commands = [], {}
    records = sorted(records, key=lambda record: sorted(record.outputs))
    for record in records:
        entry = {**dataclasses.asdict(record), "command": digest(record.command)}
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


def _is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode a text: JSON can hold lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_code_digest(parts: Any) -> bool:
    return (
        isinstance(parts, dict)
        and parts.keys() == {"modules", "pins"}
        and all(
            isinstance(part, dict) and all(isinstance(text, str) and text.isprintable() for text in part.values())
            for part in parts.values()
        )
        and all(name.isprintable() for part in parts.values() for name in part)
    )
