"""The publishable files: results of public data, and redistributable data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ppml.config.datasets import DATASETS
from ppml.io.atomic import read_json
from ppml.pipeline.stages import STAGES, SUBFOLDERS, InRun

# The name of an arm, a partition or a transform: not hidden, and not `..`.
_NAME = "[A-Za-z0-9][A-Za-z0-9._+-]*"
_SEED = "seed-?[0-9]+"


def is_publishable(path: str) -> bool:
    """Return whether the workflow makes a file, given by its path from the top level, of public data.

    A file with examples, or their features, needs redistributable data. A configuration other than
    the default one has its artifacts in a folder with its name.

    Examples
    --------
    >>> [is_publishable(f"artifacts/runs/{path}") for path in ("fl/seed0/cost.json", "../a.py", "fl/seed0/a.py")]
    [True, False, False]
    >>> [is_publishable(f"artifacts/{path}/fl/seed0/cost.json") for path in ("a/runs", "a/a/runs", "runs/runs")]
    [True, False, False]
    """
    return _pattern().fullmatch(path) is not None


def private_runs(root: Path) -> list[str]:
    """Return the folders of runs whose data are not stated as public, relative to ``root``.

    The name of a run tells nothing about its data, and no configuration of the project may have it.
    """
    found = []
    for path in sorted((root / "artifacts").glob("**/runs/*/*/config.json")):
        try:
            public = read_json(path)["data"]["contract"]["public"] is True
        except (OSError, ValueError, LookupError, TypeError):
            public = False
        if not public:
            found.append(path.parent.relative_to(root).as_posix())
    return found


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile("|".join(_patterns()))


def _patterns() -> Iterator[str]:
    passed_on = {name: spec for name, spec in DATASETS.items() if spec.redistributable}
    datasets = "|".join(passed_on)
    # The name of a subset's folder contains its data set and settings.
    subset = rf"({datasets})-[0-9]+-[0-9]+-[a-z_]+-[a-z_]+"
    files = r"(train\.safetensors|test\.safetensors|about\.json)"
    for name, spec in passed_on.items():
        yield from (f"data/raw/{name}/{re.escape(file)}" for file in spec.file_names)
    yield rf"data/decoded/({datasets})/pictures\.safetensors"
    yield rf"data/subsets/{subset}/{files}"
    yield rf"data/transformed/{subset}/{_NAME}/{files}"
    own = f"(?!({'|'.join(SUBFOLDERS['artifacts'])})/){_NAME}"
    artifacts = rf"artifacts/({own}/)?"
    public = "|".join(name for name, spec in DATASETS.items() if spec.contract.public)
    yield rf"{artifacts}partitions/({public})/{_NAME}/{_SEED}\.json"
    run = [file for stage in STAGES if isinstance(stage.outputs, InRun) for file in stage.outputs.names.values()]
    yield rf"{artifacts}runs/{_NAME}/{_SEED}/({'|'.join(map(re.escape, [*run, 'record.json']))})"
