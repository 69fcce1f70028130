"""Checks before the first job, besides the configuration itself: device, folders, data."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from ppml.config.data import Natural
from ppml.config.datasets import FolderDataset
from ppml.config.model import Config
from ppml.config.models import MODELS
from ppml.data.sources import available
from ppml.errors import UserError

PROJECT_FOLDERS = (
    "src",
    "workflow",
    "config",
    "profiles",
    "tests",
    "docs",
    "benchmarks",
    ".git",
    ".dvc",
    ".venv",
    ".snakemake",
)
"""Folders of the project that may not contain outputs."""


def check_device(config: Config) -> None:
    """Raise a :class:`UserError` if the configured device is not available."""
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("device: got cuda, but torch finds no CUDA device; allowed on this machine: cpu")


def check_folders(folders: Mapping[str, str], project: Path, subfolders: Mapping[str, Collection[str]]) -> None:
    """Raise a :class:`UserError` unless each folder is writable and reserved for its outputs.

    The check creates no folder.

    Parameters
    ----------
    folders : mapping
        Key, for instance ``artifacts`` -> path.
    project : Path
        The folder of the Snakefile.
    subfolders : mapping
        Key -> the folders below that the workflow makes.
    """
    _check_foreign_content(folders, project)
    _check_overlap(folders, subfolders)
    for key, folder in folders.items():
        path = Path(folder)
        try:
            # The folder itself, or its nearest parent that exists.
            existing = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
            if not stat.S_ISDIR(existing.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise UserError(
                f"folders.{key}: {folder} cannot be made: {error.strerror}; name a folder that can be written"
            ) from None
        if not os.access(existing, os.W_OK | os.X_OK):
            within = "" if existing == path else f", since {existing} cannot"
            raise UserError(
                f"folders.{key}: {folder} cannot be written{within}; name a folder that can, or grant permission"
            )


def _check_foreign_content(folders: Mapping[str, str], project: Path) -> None:
    """Raise a :class:`UserError` if an output folder contains other files by its purpose."""
    reserved = {(project / name).resolve() for name in PROJECT_FOLDERS}
    above = {Path.home().resolve(), project.resolve(), Path.cwd()}
    for key, folder in folders.items():
        path = Path(folder).resolve()
        if any(path == one or path in one.parents for one in above):
            why = "holds more than results: it is the folder of the project or of a user, or one above"
        elif any(path == one or one in path.parents for one in reserved):
            why = "belongs to the project's own files"
        else:
            continue
        raise UserError(f"folders.{key}: {folder} {why}; name a separate folder for {key}, for instance build/{key}")


def _check_overlap(folders: Mapping[str, str], subfolders: Mapping[str, Collection[str]]) -> None:
    """Raise a :class:`UserError` if two kinds of outputs share a folder."""
    places = {key: Path(folder).resolve() for key, folder in folders.items()}
    for (key, path), (other, outer) in itertools.permutations(places.items(), 2):
        if path == outer:
            raise UserError(f"folders.{key}: {folders[key]} is also folders.{other}; give each a separate folder")
        if outer in path.parents and (part := path.relative_to(outer).parts[0]) in subfolders[other]:
            raise UserError(
                f"folders.{key}: {folders[key]} lies in {part} of folders.{other}, {folders[other]}, which uses it "
                "for its own outputs; give each a separate folder"
            )


def check_last_batch(config: Config, fallback: str | None) -> None:
    """Raise a :class:`UserError` if a model that normalises batches would train on a batch of one example.

    Parameters
    ----------
    config : Config
        The configuration.
    fallback : str or None
        The data set that replaces all others.
    """
    for name, arm in config.arms.items():
        if not MODELS[arm.model].batch_norm:
            continue
        available_examples = config.dataset(config.used_dataset(name, fallback)).examples
        examples = min(config.data.train, available_examples or config.data.train)
        batch = examples if arm.training.batch_size == "all" else arm.training.batch_size
        if (examples % batch or min(batch, examples)) == 1:
            raise UserError(
                f"arms.{name}.training.batch_size: got {arm.training.batch_size!r} for {examples} examples: the last "
                f"batch has one example, and model {arm.model!r} normalises each batch by the mean and the variance of "
                "its examples; change training.batch_size or data.train"
            )


def resolve_data(config: Config, raw: Path) -> str | None:
    """Return the data set that replaces all others because a source is missing, None if each data set has a source.

    Raises
    ------
    UserError
        A data set has no source, and ``data.fallback`` is null or cannot replace it.
    """
    data = config.data
    check_own_files(config)
    for name in sorted({config.dataset_of(arm) for arm in config.arms}):
        if not available(name, config.dataset(name), raw / name, data.mirrors, download=data.download):
            own = (f"arms.{arm}.dataset" for arm, spec in config.arms.items() if spec.dataset == name)
            key = "data.dataset" if data.dataset == name else next(own)
            missing = (
                f"{key}: no source has {name}; looked in {raw / name}, data.mirrors {list(data.mirrors)}, "
                "PPML_DATA_MIRROR" + (" and the public mirrors" if data.download else " (data.download is false)")
            )
            if data.fallback is None:
                raise UserError(f"{missing}; provide one of them, or set data.fallback: digits")
            if misfit := _fallback_misfit(config, data.fallback):
                raise UserError(f"{missing}; {data.fallback} cannot replace it, since {misfit}; provide one of them")
            return data.fallback
    return None


def check_own_files(config: Config) -> None:
    """Raise a :class:`UserError` unless every file and folder of the user's own data sets exists and can be read."""
    for name in sorted({config.dataset_of(arm) for arm in config.arms}):
        spec = config.dataset(name)
        folder = spec.folder if isinstance(spec, FolderDataset) else None
        for path in (*(file.path for file in spec.files if file.path), *filter(None, [folder])):
            try:
                is_folder = stat.S_ISDIR(Path(path).stat().st_mode)
                if not os.access(path, os.R_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                problem = f"{path} cannot be read ({error.strerror}); correct the path, or grant permission"
                raise UserError(f"data.define.{name}: {problem}") from None
            if is_folder != (path == folder):
                wanted = "a folder, and files takes a file" if is_folder else "no folder"
                raise UserError(f"data.define.{name}: {path} is {wanted}; correct the path")


def _fallback_misfit(config: Config, fallback: str) -> str:
    """Return the reason why the fallback cannot replace the data of an arm, empty if it can."""
    for name, arm in config.arms.items():
        used = config.used_dataset(name, fallback)
        if used == config.dataset_of(name):
            continue
        wanted, offered = (config.dataset(one).contract for one in (config.dataset_of(name), used))
        # The models for tables take any number of columns.
        same = (wanted.kind, wanted.shape) == (offered.kind, offered.shape) or wanted.kind == "table"
        if not same or len(wanted.classes) != len(offered.classes):
            return f"arm {name} is for {wanted}, and {used} has {offered}"
        partition = config.partitions[arm.partition] if arm.partition else None
        if isinstance(partition, Natural) and partition.by not in offered.groups:
            return f"arm {name} has a client for each {partition.by}, and {used} has no such column"
    return ""
