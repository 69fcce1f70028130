"""The record book: by what each result was made, in git, so that a clone knows it as well as who made it.

Snakemake decides by records in ``.snakemake/metadata``, which a clone lacks, and trusts a record whatever bytes the
file has now. So before Snakemake looks, :meth:`Provenance.reconcile` makes the two agree, by content, never by time:

- the record on this machine describes the bytes that are there: it stands;
- the book describes them, since they came by ``dvc pull`` or ``git``: its record is put in place;
- neither does: the record gets a flaw, and Snakemake makes the file again.

A file that is not there keeps its record, so that Snakemake sees when it would be made in another way now.

The book is published. Where not all data are, it holds no plain digest of any file: see :mod:`ppml.records.digests`.

Private parts of Snakemake's persistence are used here, which is one reason why Snakemake is pinned.
"""

from __future__ import annotations

import ast
import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from fingerprints import Fingerprints
from plan import Plan
from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence
from stamps import Stamp

from ppml.errors import UserError
from ppml.records.canonical import digest
from ppml.records.digests import shown_digest
from ppml.records.files import read_json, unfinished_files, write_json

FLAW = "flaw: "
"""What a param begins with that makes Snakemake run a job again; the rest says why."""


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

    Raises
    ------
    UserError
        The file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.stamps: dict[str, Stamp] = {}
        self.jobs: dict[str, Job] = {}
        if path.is_file():
            try:
                self._read(read_json(path))
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                raise UserError(
                    f"{path} cannot be read; in the middle of a merge, take one side: git checkout --ours {path}, or "
                    "--theirs; without it, what has no record on this machine is made again"
                ) from None

    def _read(self, content: dict[str, Any]) -> None:
        commands = content["commands"]
        self.stamps = {text: Stamp(**parts) for text, parts in content["stamps"].items()}
        for entry in content["jobs"]:
            if entry["digest"] == _digest_of(entry) and entry["command"] == digest(commands.get(entry["command"])):
                command, params = commands[entry["command"]], tuple(entry["params"])
                self.add(Job(entry["rule"], command, params, dict(entry["inputs"]), dict(entry["outputs"])))

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
        keep_records_read()
        self._records = FilePersistence(nolock=True)
        self._files = Fingerprints(Path(self._records.path) / "ppml" / "files.json")
        self._commands: Mapping[str, str] = {}
        self._shown = lru_cache(maxsize=None)(partial(shown_digest, published=plan.data_published))

    @cached_property
    def _outputs(self) -> dict[str, frozenset[str]]:
        """Every file that the workflow makes, with the specification and the stamp of its job."""
        return self._plan.outputs()

    def stamp(self, text: str) -> Stamp | None:
        """Return what a stamp stands for, None if no one knows any more."""
        return self._stamps().get(text)

    def reconcile(self, commands: Mapping[str, str]) -> None:
        """Make the records fit the files, and remove what writers that were killed have left.

        Parameters
        ----------
        commands : mapping
            Name of each rule -> its command now.
        """
        self._commands = commands
        self._adopt()
        for folder in {Path(path).parent for path in self._outputs}:
            for leftover in unfinished_files(folder):
                leftover.unlink(missing_ok=True)
        with self._files.at_rest():
            for path in self._outputs:
                self._write(path, *self._truth(path))
        self._records._clear_cache()
        self._files.save()

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
        return shown in (sha256, self._shown(sha256))

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
        def moved(names: Iterable[str]) -> dict[str, str]:
            return {name: folder + name[len(source) :] if name.startswith(f"{source}/") else name for name in names}

        made = {
            name: job
            for name, job in self._book.jobs.items()
            if name.startswith(f"{source}/") and job.rule != "collect"
        }
        inside = {part for job in made.values() for part in job.inputs if part.startswith(f"{source}/")}
        if not inside <= made.keys() or any(
            not (now := self._files.sha256(name)) or not self._stands_for(job.outputs[name], now)
            for name, job in made.items()
        ):
            return
        for name, target in moved(made).items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
            inputs = {new: made[name].inputs[old] for old, new in moved(made[name].inputs).items()}
            self._book.add(dataclasses.replace(made[name], inputs=inputs, outputs={target: made[name].outputs[name]}))


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
