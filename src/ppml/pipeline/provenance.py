"""The record book: by what each result was made, in git, so that a clone knows it as well as who made it.

Snakemake decides by records in ``.snakemake/metadata``, which a clone lacks, and trusts a record whatever bytes the
file has now. So before Snakemake looks, :meth:`Provenance.reconcile` makes the two agree, by content, never by time:

- the record on this machine describes the bytes that are there: it stands;
- the book describes them, since they came by ``dvc pull`` or ``git``: its record is put in place;
- neither does: the record gets a flaw, and Snakemake makes the file again.

A file that is not there keeps its record, so that Snakemake sees when it would be made in another way now.

The book is published. Where not all data are, it holds no plain digest of any file: see :mod:`ppml.io.digests`.

Private parts of Snakemake's persistence are used here, which is one reason why Snakemake is pinned.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence

from ppml.errors import UserError
from ppml.io.atomic import leftover_temp_files, write_bytes, write_json
from ppml.io.canonical_json import digest
from ppml.io.digests import KEY, publishable_digest
from ppml.pipeline.code_digest import Stamp
from ppml.pipeline.file_digests import Fingerprints
from ppml.pipeline.plan import Plan
from ppml.pipeline.renamed_runs import Adoption, find
from ppml.pipeline.safe_paths import LONGEST_NAME, is_plain
from ppml.system_errors import describe_os_error

FLAW = "flaw: "
"""What a param begins with that makes Snakemake run a job again; the rest says why."""
LARGEST = 64 * 2**20
"""Bytes that a record book may have: forty times those of the default configuration."""
UNREAD = Path(".snakemake/ppml/unread-provenance.json")
"""Where a book that could not be read is kept when another takes its place."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Job:
    """What made some files.

    Parameters
    ----------
    rule, command : str
        Name of the rule, and what it ran, wildcards and all.
    params : tuple of str
        Specification and stamp.
    inputs, outputs : dict
        Path -> SHA-256 of the bytes that it read and wrote, or what is shown of it.
    """

    rule: str
    command: str
    params: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Book:
    """What made each file, as it stands in ``reports/provenance.json``.

    Each entry carries the digest of all that it says. Git merges two books line by line, and may put what one branch
    has made beside what the other has made it from: such an entry is left out, and nobody knows how the file was made.
    So is an entry that does not say what an entry says, or names files that no result has.

    Parameters
    ----------
    path : Path
        The file. One that is no book counts as none, and :attr:`trouble` says why.
    is_planned : callable
        Name of a file -> whether the workflow makes it; such a name may be any path.

    Attributes
    ----------
    trouble : str
        A line that says why nothing was read, empty if the file was, or is not there.

    Raises
    ------
    UserError
        A merge has left a conflict in the file.
    """

    def __init__(self, path: Path, is_planned: Callable[[str], bool] = lambda name: False) -> None:
        self.stamps: dict[str, Stamp] = {}
        self.jobs: dict[str, Job] = {}
        self.trouble = ""
        self._is_planned = is_planned
        if not path.is_file():
            return
        try:
            text = _text(path)
            if re.search("^<<<<<<< ", text, re.MULTILINE):
                raise UserError(
                    f"{path} cannot be read; in the middle of a merge, take one side: git checkout --ours {path}, or "
                    "--theirs; without it, what has no record on this machine is made again"
                )
            self._read(json.loads(text))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
            self.stamps, self.jobs = {}, {}
            why = str(error).partition("\n")[0][:100] or type(error).__name__
            self.trouble = (
                f"{path} is no record book ({why}), so nothing is known from it: what has no record on this machine is "
                f"made again; to have it as it was: git checkout -- {path}"
            )

    def _read(self, content: dict[str, Any]) -> None:
        jobs, commands, stamps = content["jobs"], content["commands"], content["stamps"]
        if not (isinstance(jobs, list) and isinstance(commands, dict) and isinstance(stamps, dict)):
            raise TypeError("its jobs, commands and stamps are none")
        self.stamps = {text: Stamp(**parts) for text, parts in stamps.items() if _is_stamp(parts)}
        for entry in jobs:
            if not self._is_entry(entry) or entry["digest"] != _digest_of(entry):
                continue
            command, params = commands.get(entry["command"]), tuple(entry["params"])
            if isinstance(command, str) and _is_unicode(command) and entry["command"] == digest(command):
                self.add(Job(entry["rule"], command, params, dict(entry["inputs"]), dict(entry["outputs"])))

    def _is_entry(self, entry: Any) -> bool:
        """Tell whether an entry has the parts of one, each of its type, and names files as the workflow does."""
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
            and all(
                isinstance(shown, str) and _SHA256.fullmatch(shown) for shown in (*inputs.values(), *outputs.values())
            )
            # An input is only read.
            and all(name.isprintable() and 0 < len(name) <= LONGEST_NAME for name in inputs)
            and all(is_plain(name) or self._is_planned(name) for name in outputs)
        )

    def add(self, job: Job) -> None:
        """Take a job up, under each of its outputs."""
        self.jobs.update(dict.fromkeys(job.outputs, job))

    def sha256(self, path: str) -> str | None:
        """Return what is shown of the SHA-256 of the bytes that were made, None where nothing is known of the file."""
        return self.jobs[path].outputs[path] if path in self.jobs else None

    def record(self, path: str) -> MetadataRecord | None:
        """Return what Snakemake would have recorded of the file."""
        job = self.jobs.get(path)
        if job is None:
            return None
        return MetadataRecord(
            rule=job.rule,
            code=job.command,
            params=sorted(map(repr, job.params)),
            input=sorted(job.inputs),
            input_checksums={name: f"sha256:{sha256}" for name, sha256 in job.inputs.items()},
            record_format_version=RECORD_FORMAT_VERSION,
            incomplete=False,
        )


def write_book(path: Path, jobs: Iterable[Job], stamps: Mapping[str, Stamp]) -> None:
    """Write a record book; equal results have equal bytes."""
    entries, commands = [], {}
    jobs = sorted(jobs, key=lambda job: sorted(job.outputs))
    for job in jobs:
        entry = {**dataclasses.asdict(job), "command": digest(job.command)}
        entries.append({**entry, "digest": _digest_of(entry)})
        commands[entry["command"]] = job.command
    used = sorted({param for job in jobs for param in job.params if param in stamps})
    explained = {text: dataclasses.asdict(stamps[text]) for text in used}
    write_json(path, {"jobs": entries, "commands": commands, "stamps": explained})


def _digest_of(entry: Mapping[str, Any]) -> str:
    """Return the digest of all that an entry of the book says."""
    return digest([entry["rule"], entry["command"], list(entry["params"]), entry["inputs"], entry["outputs"]])


def _text(path: Path) -> str:
    """Return the text of a book, or raise a :class:`ValueError`."""
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes")
    return path.read_text(encoding="utf-8")


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be written, which JSON does not ask for."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_stamp(parts: Any) -> bool:
    return (
        isinstance(parts, dict)
        and parts.keys() == {"modules", "pins"}
        and all(
            isinstance(part, dict) and all(isinstance(text, str) and text.isprintable() for text in part.values())
            for part in parts.values()
        )
        and all(name.isprintable() for part in parts.values() for name in part)
    )


class Provenance:
    """Makes Snakemake's records, the book and the files agree.

    Parameters
    ----------
    plan : Plan
        What the workflow makes, and by what.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._path = Path(plan.paths.reports) / "provenance.json"
        self._book = Book(self._path, lambda name: name in self._outputs)
        keep_records_read()
        self._records = FilePersistence(nolock=True)
        self._files = Fingerprints(Path(self._records.path) / "ppml" / "files.json")
        self._commands: Mapping[str, str] = {}
        self._shown = lru_cache(maxsize=None)(partial(publishable_digest, published=plan.redistributable))

    @cached_property
    def _outputs(self) -> dict[str, frozenset[str]]:
        """Every file that the workflow makes, with the specification and the stamp of its job."""
        return self._plan.outputs()

    def stamp(self, text: str) -> Stamp | None:
        """Return what a stamp stands for, None if no one knows any more."""
        return self._stamps().get(text)

    @property
    def trouble(self) -> str:
        """A line that says why the book could not be read, empty if it could."""
        return self._book.trouble

    def reconcile(self, commands: Mapping[str, str]) -> None:
        """Make the records fit the files; nothing but the records is written.

        Parameters
        ----------
        commands : mapping
            Name of each rule -> its command now.
        """
        self._commands = commands
        with self._files.at_rest():
            for path in self._outputs:
                self._write(path, *self._truth(path))
        self._records._clear_cache()
        self._files.save()

    def adoptions(self) -> list[Adoption]:
        """Return the runs that lie elsewhere, as they do after an arm was renamed, and that a run would take over."""
        return list(find(self._book.jobs, self._outputs, self._plan.trainings(), self._has))

    def prepare(self) -> None:
        """Before jobs run: take over what lies elsewhere, and remove what writers that were killed have left.

        Raises
        ------
        UserError
            A file cannot be copied or removed.
        """
        try:
            for folder in sorted({Path(path).parent for path in self._outputs}):
                # Whatever a link leads to is not the workflow's.
                if not any(part.is_symlink() for part in (folder, folder.parent)):
                    for leftover in leftover_temp_files(folder):
                        leftover.unlink(missing_ok=True)
            taken = [adoption for adoption in self.adoptions() if adoption.take_over(self._stands_for)]
        except OSError as error:
            raise UserError(describe_os_error(error)) from None
        for adoption in taken:
            for job in adoption.jobs.values():
                self._book.add(job)
        if taken:
            self.reconcile(self._commands)

    def _has(self, path: str, shown: str) -> bool:
        """Tell whether a file is there with the bytes that the book shows."""
        sha256 = self._files.sha256(path)
        return sha256 is not None and self._stands_for(shown, sha256)

    def save(self) -> None:
        """Write the book: every job whose outputs and inputs are as they were when it ran.

        What was made and is not there now, as in a clone that has not pulled, stays in the book.
        """
        self._records._clear_cache()
        groups: dict[tuple[str, str, tuple[str, ...], tuple[tuple[str, str], ...]], dict[str, str]] = {}
        with self._files.at_rest():
            made = {path: job for path in self._outputs if (job := self._job(path))}
        for path, job in made.items():
            # Of two files of a rule, one may be older than its command.
            made_by = (job.rule, job.command, job.params, tuple(sorted(job.inputs.items())))
            groups.setdefault(made_by, {})[path] = job.outputs[path]
        jobs = [
            Job(rule, command, params, dict(inputs), outputs)
            for (rule, command, params, inputs), outputs in groups.items()
        ]
        self._files.save()
        if self.trouble and self._path.is_file():
            write_bytes(UNREAD, self._path.read_bytes())
        write_book(self._path, jobs, self._stamps())

    def _job(self, path: str) -> Job | None:
        """Return what made a file, None if that is not known."""
        sha256 = self._files.sha256(path)
        if sha256 is None:
            return self._book.jobs.get(path)
        record, flaw = self._truth(path)
        if record is None or flaw:
            return None
        inputs = {name: (record.input_checksums or {}).get(name, "") for name in record.input or ()}
        if not all(inputs.values()):
            return None
        shown = {name: self._shown(checksum.removeprefix("sha256:")) for name, checksum in inputs.items()}
        return Job(record.rule, record.code, _plain(record.params), shown, {path: self._shown(sha256)})

    def _truth(self, path: str) -> tuple[MetadataRecord | None, str]:
        """Return the record that describes a file, and what is wrong with it, empty if nothing is."""
        here, book, sha256 = self._read(path), self._from_book(path), self._files.sha256(path)
        records = [here] if here and (sha256 is None or self._files.made_by(path, here.endtime)) else []
        if book and (sha256 is None or self._stands_for(self._book.sha256(path), sha256)):
            records.append(book)
        if not records:
            flaw = "its bytes are not those that were made" if here else "nobody knows how it was made"
            return here, flaw if sha256 else ""
        # Of two that made the same bytes, by other settings, code or inputs, the one that would be made now.
        record = next((record for record in records if self._is_current(path, record)), records[0])
        if sha256 and record is not here:
            record.starttime = record.endtime = self._files.describe(path)
        return record, self._changed_input(record)

    def _from_book(self, path: str) -> MetadataRecord | None:
        """Return what Snakemake would have recorded of a file; inputs that are as they were have a plain SHA-256."""
        record = self._book.record(path)
        if record is None:
            return None
        checksums = dict(record.input_checksums or {})
        for name, checksum in checksums.items():
            now = self._files.sha256(name)
            if now and self._stands_for(checksum.removeprefix("sha256:"), now):
                checksums[name] = f"sha256:{now}"
        record.input_checksums = checksums
        return record

    def _stands_for(self, shown: str | None, sha256: str) -> bool:
        """Tell whether the book shows this SHA-256, plainly or by the local key."""
        # Where there is no key, nothing was shown by it, and none is made to look.
        keyed = not self._plan.redistributable and KEY.exists()
        return shown == sha256 or (keyed and shown == self._shown(sha256))

    def _is_current(self, path: str, record: MetadataRecord) -> bool:
        """Tell whether a file would be made by the same command, specification, code, pins and inputs now."""
        command = self._commands.get(str(record.rule), record.code)
        current = record.code == command and self._outputs[path] <= set(_plain(record.params))
        return current and not self._changed_input(record)

    def _changed_input(self, record: MetadataRecord) -> str:
        """Return what is wrong with the inputs that a record names, empty if nothing is."""
        for name in record.input or ():
            recorded, now = (record.input_checksums or {}).get(name), self._files.sha256(name)
            if now and recorded != f"sha256:{now}":
                return f"{name} has changed" if recorded else f"nobody knows what {name} was"
        return ""

    def _read(self, path: str) -> MetadataRecord | None:
        record = self._records._read_record(path)
        # Of a record in an older format, Snakemake compares less.
        if record is None or record.code is None or record.record_format_version != RECORD_FORMAT_VERSION:
            return None
        record = record.model_copy()
        record.params = [param for param in record.params or () if not param.startswith(FLAW)]
        return record

    def _write(self, path: str, record: MetadataRecord | None, flaw: str) -> None:
        if flaw:
            record = record or MetadataRecord(record_format_version=RECORD_FORMAT_VERSION, params=[])
            record.params = [*(record.params or ()), FLAW + flaw]
        if record and self._records._read_record(path) != record:
            self._records._write_record(path, record)

    def _stamps(self) -> dict[str, Stamp]:
        return {**self._book.stamps, **self._plan.digests.made}


def keep_records_read() -> None:
    """Let Snakemake keep all records that it has read, until it writes some, and not 128 of them.

    After a pull every input may be newer than what was made of it, and Snakemake looks each up in the record of each
    output: for ``collect`` that is 200 records of 1,500 inputs each, read from the disk 300,000 times.
    """
    read = FilePersistence._read_record_cached
    if read.cache_info().maxsize is not None:
        FilePersistence._read_record_cached = lru_cache(maxsize=None)(read.__wrapped__)


def _plain(params: Iterable[str] | None) -> tuple[str, ...]:
    """Return params as they were before Snakemake wrote them down by ``repr``."""
    return tuple(str(ast.literal_eval(param)) for param in params or ())
