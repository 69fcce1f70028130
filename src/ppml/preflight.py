"""Checks before the first job, besides the configuration itself: device, folders, data."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ppml.config.model import Config
from ppml.data.catalogue import DIGITS
from ppml.data.sources import available
from ppml.errors import UserError
from ppml.models.registry import WITH_STATISTICS

MNIST_TRAINING_IMAGES = 60_000
"""Training images of MNIST, and of the data sets made after it."""
TRAINING_IMAGES = {DIGITS: 1_437}
"""Training images of other data sets."""

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
SUBFOLDERS = {
    "data": ("raw", "subsets", "features"),
    "artifacts": ("partitions", "runs"),
    "reports": ("tables", "figures"),
    "logs": (
        *("fetch", "subset", "features", "partition", "calibrate", "train", "account", "audit", "predict", "infer"),
        *("table", "figure"),
    ),
}
"""Outputs of the workflow in each folder."""


def check_device(config: Config) -> None:
    """Raise a :class:`UserError` if the configured device is not available."""
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("device: got cuda, but torch finds no CUDA device; allowed on this machine: cpu")


def check_folders(folders: Mapping[str, str], project: Path) -> None:
    """Raise a :class:`UserError` unless each folder is writable and reserved for its outputs.

    The check creates no folder.

    Parameters
    ----------
    folders : mapping
        Key, for instance ``artifacts`` -> path.
    project : Path
        The folder of the Snakefile.
    """
    _check_foreign_content(folders, project)
    _check_overlap(folders)
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


def _check_overlap(folders: Mapping[str, str]) -> None:
    """Raise a :class:`UserError` if two kinds of outputs share a folder."""
    places = {key: Path(folder).resolve() for key, folder in folders.items()}
    for (key, path), (other, outer) in itertools.permutations(places.items(), 2):
        if path == outer:
            raise UserError(f"folders.{key}: {folders[key]} is also folders.{other}; give each a separate folder")
        if outer in path.parents and (part := path.relative_to(outer).parts[0]) in SUBFOLDERS[other]:
            raise UserError(
                f"folders.{key}: {folders[key]} lies in {part} of folders.{other}, {folders[other]}, which uses it "
                "for its own outputs; give each a separate folder"
            )


def check_last_batch(config: Config, fallback: str | None) -> None:
    """Raise a :class:`UserError` if a model that normalises by batches would be given a batch of one record.

    Parameters
    ----------
    config : Config
        What is asked for.
    fallback : str or None
        The data set that replaces all others.
    """
    for name, arm in config.arms.items():
        if arm.model not in WITH_STATISTICS:
            continue
        official = TRAINING_IMAGES.get(fallback or config.dataset_of(name), MNIST_TRAINING_IMAGES)
        records = min(config.data.train, official)
        batch = records if arm.training.batch_size == "all" else arm.training.batch_size
        if (records % batch or min(batch, records)) == 1:
            raise UserError(
                f"arms.{name}.training.batch_size: got {arm.training.batch_size!r} for {records} records: the last "
                f"batch has one record, and model {arm.model!r} normalises each batch by the mean and the variance of "
                "its records; change training.batch_size or data.train"
            )


def resolve_data(config: Config, raw: Path) -> str | None:
    """Return the data set that replaces all others because theirs cannot be had, None if none has to.

    Raises
    ------
    UserError
        A data set has no source and ``data.fallback`` is null.
    """
    data = config.data
    for dataset in sorted({config.dataset_of(arm) for arm in config.arms} - {DIGITS}):
        if not available(dataset, raw / dataset, data.mirrors, download=data.download):
            if data.fallback is None:
                raise UserError(
                    f"data.dataset: no source has {dataset} and data.fallback is null; looked in {raw / dataset}, "
                    f"data.mirrors {list(data.mirrors)}, PPML_DATA_MIRROR"
                    + (" and the public mirrors" if data.download else " (data.download is false)")
                    + "; provide one of them, or set data.fallback: digits"
                )
            return data.fallback
    return None
