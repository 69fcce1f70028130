"""The published configurations: those with artifacts in DVC's folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ppml.config.load import load_config, merge_layers, read_layers
from ppml.config.model import Folders
from ppml.errors import UserError
from ppml.pipeline.stages import SUBFOLDERS

DEFAULT = "default"
"""The configuration in the top folders; each other one has folders of its own name in them."""
OWN = ("artifacts", "reports", "logs")
"""The folders that no two configurations share; the data are shared."""


def published_configurations(root: Path) -> list[str]:
    """Return the paths of the configurations whose artifacts are in ``artifacts/``, the default first.

    A file ``config/NAME.yaml`` is published if ``folders.artifacts`` is ``artifacts/NAME``; then its reports are in
    ``reports/NAME``, and its logs in ``logs/NAME``. So no configuration writes into the folders of another one.

    Raises
    ------
    UserError
        A configuration with artifacts in ``artifacts/`` has other folders; the message names the key.
    """
    paths = sorted((root / "config").glob("*.yaml"), key=lambda path: (path.stem != DEFAULT, path.stem))
    found = []
    for path in paths:
        folders = _folders(path)
        if folders and Path(folders.artifacts).parts[:1] == ("artifacts",):
            _require_own_folders(path, folders)
            found.append(path.relative_to(root).as_posix())
    return found


def _folders(path: Path) -> Folders | None:
    """Return the folders of a configuration, None for another file."""
    content = merge_layers(read_layers(path))
    if not isinstance(content.get("arms"), Mapping):
        return None
    try:
        return Folders.model_validate(content.get("folders", {}))
    except ValidationError:
        # The message of the whole configuration names file and line.
        return load_config(path).folders


def _require_own_folders(path: Path, folders: Folders) -> None:
    name = path.stem
    if any(name in SUBFOLDERS[key] for key in OWN):
        raise UserError(f"config/{path.name}: {name} is a folder of the default configuration; rename the file")
    own = {key: key if name == DEFAULT else f"{key}/{name}" for key in OWN}
    for key, expected in {"data": "data", **own}.items():
        if (value := getattr(folders, key)) != expected:
            raise UserError(
                f"config/{path.name}: folders.{key}: got {value}; its artifacts are published, so {expected} is "
                f"needed; for results that are not published set folders.artifacts to build/{name}/artifacts"
            )
