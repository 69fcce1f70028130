"""What is checked before the first job besides the configuration itself: device, folders, data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ppml.config.model import Config
from ppml.data.catalogue import DIGITS
from ppml.data.sources import available
from ppml.errors import UserError


def check_device(config: Config) -> None:
    """Raise a :class:`UserError` if the configuration asks for a device that is not there."""
    if config.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("device: got cuda, but torch finds no CUDA device here; allowed here: cpu")


def check_folders(folders: Iterable[tuple[str, str]]) -> None:
    """Raise a :class:`UserError` unless each ``(key, folder)`` can be made and written to."""
    for key, folder in folders:
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"folders.{key}: {folder} cannot be made: {error.strerror}; name a folder that can be written"
            ) from None
        if not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"folders.{key}: {folder} cannot be written; name a folder that can, or grant permission")


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
