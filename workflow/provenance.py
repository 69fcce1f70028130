"""The record book: by what each result was made, in git, so that a clone knows it as well as who made it.

Snakemake decides by records in ``.snakemake/metadata``, which a clone lacks, and trusts a record whatever bytes the
file has now. So before Snakemake looks, :meth:`Provenance.reconcile` makes the two agree, by content, never by time:

- the record on this machine describes the bytes that are there: it stands;
- the book describes them, since they came by ``dvc pull`` or ``git``: its record is put in place;
- neither does: the record gets a flaw, and Snakemake makes the file again.

Two methods of Snakemake's persistence that are private are used here, which is one reason why Snakemake is pinned.
"""

from __future__ import annotations

import ast
import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fingerprints import Fingerprints
from plan import Plan
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence
from stamps import Stamp

from ppml.errors import UserError
from ppml.records.canonical import digest
from ppml.records.files import read_json, unfinished_files, write_json

FLAW = "flaw: "
"""What a param begins with that makes Snakemake run a job again; the rest says why."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What made some files.

    Parameters
    ----------
    rule, command : str
        Name of the rule, and the digest of what it ran.
    params : tuple of str
        Specification and stamp.
    inputs, outputs : tuple of str
        Paths, sorted.
    """

    rule: str
    command: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Book:
    """Jobs, the bytes that they read and wrote, their commands and what their stamps stand for.

    Raises
    ------
    UserError
        The file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.files: dict[str, str] = {}
        self.commands: dict[str, str] = {}
        self.stamps: dict[str, Stamp] = {}
        self.jobs: dict[str, Job] = {}
        if path.is_file():
            try:
                self._read(read_json(path))
            except (ValueError, LookupError, TypeError, AttributeError):
                raise UserError(
                    f"{path} cannot be read; in the middle of a merge, take one side: git checkout --ours {path}, or "
                    "--theirs; without it, what has no record on this machine is made again"
                ) from None

    def _read(self, content: dict[str, Any]) -> None:
        self.files, self.commands = content["files"], content["commands"]
        self.stamps = {text: Stamp(**parts) for text, parts in content["stamps"].items()}
        for entry in content["jobs"]:
            lists = (tuple(entry[key]) for key in ("params", "inputs", "outputs"))
            self.add(Job(entry["rule"], entry["command"], *lists))

    def add(self, job: Job) -> None:
        """Take a job up, under each of its outputs."""
        self.jobs.update(dict.fromkeys(job.outputs, job))

    def record(self, path: str) -> MetadataRecord | None:
        """Return what Snakemake would have recorded of the file."""
        job = self.jobs.get(path)
        if job is None:
            return None
        return MetadataRecord(
            rule=job.rule,
            code=self.commands[job.command],
            params=sorted(map(repr, job.params)),
            input=list(job.inputs),
            input_checksums={name: f"sha256:{self.files[name]}" for name in job.inputs},
            record_format_version=RECORD_FORMAT_VERSION,
            incomplete=False,
        )


def write_book(
    path: Path, jobs: Iterable[Job], files: Mapping[str, str], commands: Mapping[str, str], stamps: Mapping[str, Stamp]
) -> None:
    """Write a record book, unless it stands there already; equal results have equal bytes."""
    jobs = sorted(jobs, key=lambda job: job.outputs)
    used = sorted({param for job in jobs for param in job.params if param in stamps})
    content = {
        "jobs": [dataclasses.asdict(job) for job in jobs],
        "files": {name: files[name] for job in jobs for name in (*job.inputs, *job.outputs)},
        "commands": {job.command: commands[job.command] for job in jobs},
        "stamps": {text: dataclasses.asdict(stamps[text]) for text in used},
    }
    write_json(path, content)


class Provenance:
    """Makes Snakemake's records, the book and the files agree.

    Parameters
    ----------
    plan : Plan
        What the workflow makes, and by what.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._path = Path(plan.reports) / "provenance.json"
        self._book = Book(self._path)
        self._records = FilePersistence(nolock=True)
        self._files = Fingerprints(Path(self._records.path) / "ppml" / "files.json")

    @cached_property
    def _outputs(self) -> dict[str, frozenset[str]]:
        """Every file that the workflow makes, with the specification and the stamp of its job."""
        return self._plan.outputs()

    def stamp(self, text: str) -> Stamp | None:
        """Return what a stamp stands for, None if no one knows any more."""
        return self._stamps().get(text)

    def reconcile(self) -> None:
        """Make the records fit the files, and remove what writers that were killed have left."""
        self._adopt()
        for folder in {Path(path).parent for path in self._outputs}:
            for leftover in unfinished_files(folder):
                leftover.unlink(missing_ok=True)
        for path in self._outputs:
            if Path(path).is_file():
                self._write(path, *self._truth(path))
        self._files.save()

    def save(self) -> None:
        """Write the book: every job whose outputs and inputs are as they were when it ran."""
        self._records._clear_cache()
        groups: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
        commands: dict[str, str] = {}
        for path in self._outputs:
            record, flaw = self._truth(path) if Path(path).is_file() else (None, "")
            if record and not flaw:
                # Of two files of a rule, one may be older than its command.
                command = digest(record.code)
                commands[command] = record.code
                made_by = (record.rule, command, _plain(record.params), tuple(record.input or ()))
                groups.setdefault(made_by, []).append(path)
        jobs = [Job(*made_by, tuple(sorted(outputs))) for made_by, outputs in groups.items()]
        names = {name for job in jobs for name in (*job.inputs, *job.outputs)}
        files = {name: sha256 for name in names if (sha256 := self._files.sha256(name))}
        whole = [job for job in jobs if all(name in files for name in job.inputs)]
        self._files.save()
        write_book(self._path, whole, files, commands, self._stamps())

    def _truth(self, path: str) -> tuple[MetadataRecord | None, str]:
        """Return the record that describes a file, and what is wrong with it, empty if nothing is."""
        here, book = self._read(path), self._book.record(path)
        records = [here] if here and self._files.made_by(path, here.endtime) else []
        if book and self._book.files[path] == self._files.sha256(path):
            records.append(book)
        if not records:
            return here, "its bytes are not those that were made" if here else "nobody knows how it was made"
        # Of two that made the same bytes, by other settings, code or inputs, the one that would be made now.
        record = next((record for record in records if self._is_current(path, record)), records[0])
        if book and record is book:
            record.starttime = record.endtime = self._files.describe(path)
        return record, self._changed_input(record)

    def _is_current(self, path: str, record: MetadataRecord) -> bool:
        """Tell whether a file would be made by the same specification, code, pins and inputs now."""
        return self._outputs[path] <= set(_plain(record.params)) and not self._changed_input(record)

    def _changed_input(self, record: MetadataRecord) -> str:
        """Return what is wrong with the inputs that a record names, empty if nothing is."""
        for name in record.input or ():
            recorded, now = (record.input_checksums or {}).get(name), self._files.sha256(name)
            if now and recorded != f"sha256:{now}":
                return f"{name} has changed" if recorded else f"nobody knows what {name} was"
        return ""

    def _read(self, path: str) -> MetadataRecord | None:
        record = self._records._read_record(path)
        if record is None or record.code is None:
            return None
        record = record.model_copy()
        record.params = [param for param in record.params or () if not param.startswith(FLAW)]
        return record

    def _write(self, path: str, record: MetadataRecord | None, flaw: str) -> None:
        record = record or MetadataRecord(record_format_version=RECORD_FORMAT_VERSION, params=[])
        if flaw:
            record.params = [*(record.params or ()), FLAW + flaw]
        if self._records._read_record(path) != record:
            self._records._write_record(path, record)

    def _stamps(self) -> dict[str, Stamp]:
        return {**self._book.stamps, **self._plan.stamps.made}

    def _adopt(self) -> None:
        """Take over runs that lie elsewhere, as they do after an arm was renamed."""
        known: dict[tuple[frozenset[str], str], str] = {}
        for job in self._book.jobs.values():
            if job.rule == "train":
                for place in {Path(output).parent for output in job.outputs}:
                    known[frozenset(job.params), place.name] = str(place)
        for folder, params in self._plan.trainings().items():
            source = known.get((params, Path(folder).name))
            if source and not Path(folder).exists():
                self._take_over(source, folder)

    def _take_over(self, source: str, folder: str) -> None:
        def moved(name: str) -> str:
            return folder + name[len(source) :] if name.startswith(source + "/") else name

        made = {name: job for name, job in self._book.jobs.items() if name.startswith(source + "/")}
        names = [name for name, job in made.items() if job.rule != "collect"]
        inside = {part for name in names for part in made[name].inputs if part.startswith(source + "/")}
        if not inside <= set(names) or any(self._files.sha256(name) != self._book.files[name] for name in names):
            return
        for name in names:
            target = Path(moved(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
            self._book.files[moved(name)] = self._book.files[name]
        for name in names:
            inputs = tuple(sorted(map(moved, made[name].inputs)))
            self._book.add(dataclasses.replace(made[name], inputs=inputs, outputs=(moved(name),)))


def _plain(params: Iterable[str] | None) -> tuple[str, ...]:
    """Return params as they were before Snakemake wrote them down by ``repr``."""
    return tuple(str(ast.literal_eval(param)) for param in params or ())
