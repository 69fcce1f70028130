"""Runs that lie elsewhere, as they do after an arm was renamed: found in the record book, and copied.

The book only says where to look. A run is copied from the folder of another arm beside its own, into places of planned
results alone, and only files whose bytes are those that the book names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ppml.pipeline.safe_paths import PlaceError, Places, sha256

if TYPE_CHECKING:
    from ppml.pipeline.provenance import Job

Stands = Callable[[str, str], bool]
"""What the book shows of a SHA-256, and one of a file's bytes -> whether it stands for that."""


@dataclasses.dataclass(frozen=True)
class Adoption:
    """A run that is there under another name.

    Parameters
    ----------
    source, folder : str
        Where it lies, and where it is planned.
    jobs : dict
        Planned file -> the job that made it, in terms of the planned folder.
    """

    source: str
    folder: str
    jobs: Mapping[str, Job]

    def __str__(self) -> str:
        return f"{self.folder} is taken over from {self.source}, which was made in the same way"

    def take_over(self, stands_for: Stands) -> bool:
        """Copy the files; return whether all of them had the right bytes. If not, none is left.

        Raises
        ------
        OSError
            A file cannot be read or written.
        """
        top = Path(self.folder).parents[2]
        places = Places(top, lambda name: str(top / name) in self.jobs)
        copied: list[Path] = []
        try:
            for target, job in self.jobs.items():
                name = Path(target).relative_to(top).as_posix()
                shown = job.outputs[target]
                put = places.put(
                    name,
                    Path(self.source, Path(target).name),
                    lambda copy, shown=shown: stands_for(shown, sha256(copy)),  # type: ignore[misc]
                )
                if not put:
                    break
                copied.append(Path(target))
            else:
                return True
        except PlaceError:
            pass
        except OSError:
            _remove(copied, self.folder)
            raise
        _remove(copied, self.folder)
        return False


def _remove(files: Collection[Path], folder: str) -> None:
    for path in files:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        Path(folder).rmdir()


def find(
    jobs: Mapping[str, Job], planned: Collection[str], trainings: Mapping[str, frozenset[str]], has: Callable[..., bool]
) -> Iterator[Adoption]:
    """Yield the runs that can be taken over.

    Parameters
    ----------
    jobs : mapping
        File -> the job that made it, by the book.
    planned : collection of str
        Every file that the workflow makes.
    trainings : mapping
        Folder of each run -> the params of its training.
    has : callable
        File, and what the book shows of its SHA-256 -> whether it is there with these bytes.
    """
    known: dict[tuple[frozenset[str], Path, str], str] = {}
    for output, job in jobs.items():
        if job.rule == "train":
            place = Path(output).parent
            known[frozenset(job.params), place.parent.parent, place.name] = str(place)
    for folder, params in trainings.items():
        wanted = Path(folder)
        source = known.get((params, wanted.parent.parent, wanted.name))
        # A link that leads nowhere is there, too.
        if source and not os.path.lexists(folder) and not any(map(Path.is_symlink, _up(Path(source)))):
            found = _moved(jobs, source, folder, planned, has)
            if found:
                yield Adoption(source, folder, found)


def _up(folder: Path) -> tuple[Path, Path]:
    return folder, folder.parent


def _moved(
    jobs: Mapping[str, Job], source: str, folder: str, planned: Collection[str], has: Callable[..., bool]
) -> dict[str, Job]:
    """Return what made the planned files of a run, as if in ``folder``; nothing if one is not there as it was made."""
    names = {name: f"{folder}/{Path(name).name}" for name in jobs if str(Path(name).parent) == source}
    # What is collected of all runs is none of this one.
    names = {name: to for name, to in names.items() if to in planned and jobs[name].rule != "collect"}
    moved = {}
    for name, to in names.items():
        job = jobs[name]
        inside = {part for part in job.inputs if str(Path(part).parent) == source}
        if not inside <= names.keys() or not has(name, job.outputs[name]):
            return {}
        inputs = {names.get(part, part): shown for part, shown in job.inputs.items()}
        moved[to] = dataclasses.replace(job, inputs=inputs, outputs={to: job.outputs[name]})
    return moved
