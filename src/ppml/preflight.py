"""What is checked before the first job besides the configuration itself: device, folders, data."""

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

OF_MNIST = 60_000
"""Training images of MNIST, and of the data sets made after it."""
TRAINING_IMAGES = {DIGITS: 1_437}
"""Training images of other data sets."""

OWN = ("src", "workflow", "config", "profiles", "tests", "docs", "benchmarks", ".git", ".dvc", ".venv", ".snakemake")
"""Folders of the project that no output may lie in."""
PARTS = {
    "data": ("raw", "subsets", "features"),
    "artifacts": ("partitions", "runs"),
    "reports": ("tables", "figures"),
    "logs": (
        *("fetch", "subset", "features", "partition", "calibrate", "train", "account", "audit", "predict", "infer"),
        *("table", "figure"),
    ),
}
"""What the workflow makes in each folder."""


def check_device(config: Config) -> None:
    """Raise a :class:`UserError` if the configuration asks for a device that is not there."""
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("device: got cuda, but torch finds no CUDA device here; allowed here: cpu")


def check_folders(folders: Mapping[str, str], project: Path) -> None:
    """Raise a :class:`UserError` unless each folder can be written to, and holds nothing but what belongs there.

    Nothing is written: the folders are made when there is something to write.

    Parameters
    ----------
    folders : mapping
        Key, for instance ``artifacts`` -> path.
    project : Path
        The folder of the Snakefile.
    """
    _refuse_occupied(folders, project)
    _refuse_shared(folders)
    for key, folder in folders.items():
        path = Path(folder)
        try:
            # The folder itself, or the nearest one above it that is there.
            there = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
            if not stat.S_ISDIR(there.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise UserError(
                f"folders.{key}: {folder} cannot be made: {error.strerror}; name a folder that can be written"
            ) from None
        if not os.access(there, os.W_OK | os.X_OK):
            within = "" if there == path else f", since {there} cannot"
            raise UserError(
                f"folders.{key}: {folder} cannot be written{within}; name a folder that can, or grant permission"
            )


def _refuse_occupied(folders: Mapping[str, str], project: Path) -> None:
    """Refuse folders of outputs that hold what is no output."""
    kept = {(project / name).resolve() for name in OWN}
    above = {Path.home().resolve(), project.resolve(), Path.cwd()}
    for key, folder in folders.items():
        path = Path(folder).resolve()
        if any(path == one or path in one.parents for one in above):
            why = "holds more than results: it is the folder of the project or of a user, or one above"
        elif any(path == one or one in path.parents for one in kept):
            why = "belongs to the project's own files"
        else:
            continue
        raise UserError(f"folders.{key}: {folder} {why}; name a folder for {key} alone, for instance build/{key}")


def _refuse_shared(folders: Mapping[str, str]) -> None:
    """Refuse one folder for two kinds of outputs, or one where another puts its own."""
    places = {key: Path(folder).resolve() for key, folder in folders.items()}
    for (key, path), (other, outer) in itertools.permutations(places.items(), 2):
        if path == outer:
            raise UserError(f"folders.{key}: {folders[key]} is also folders.{other}; give each a folder of its own")
        if outer in path.parents and (part := path.relative_to(outer).parts[0]) in PARTS[other]:
            raise UserError(
                f"folders.{key}: {folders[key]} lies in {part} of folders.{other}, {folders[other]}, which has that "
                "for itself; give each a folder of its own"
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
        official = TRAINING_IMAGES.get(fallback or config.dataset_of(name), OF_MNIST)
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
