"""Which files are published: what the workflow makes of public data, and nothing else."""

from __future__ import annotations

import re

from ppml.data.catalogue import CATALOGUE, DIGITS
from ppml.pipeline.plan import AUDIT, INFERENCE, RUN_FILES

_PUBLISHED = {dataset: info for dataset, info in CATALOGUE.items() if info.published}
_DATASETS = "|".join((*_PUBLISHED, DIGITS))
_SUBSET = rf"({_DATASETS})-[0-9]+-[0-9]+-[a-z_]+-[a-z_]+"
# Of an arm, a partition or features: no hidden folder, and not the folder above.
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_SEED = "seed-?[0-9]+"
_OF_A_RUN = (*RUN_FILES, "noise.json", AUDIT, *INFERENCE)
_PATTERN = re.compile(
    "|".join(
        [
            *(f"data/raw/{dataset}/{re.escape(name)}" for dataset, info in _PUBLISHED.items() for name in info.files),
            # A subset's folder is named by its data set and settings.
            rf"data/subsets/{_SUBSET}/(train\.safetensors|test\.safetensors|about\.json)",
            rf"data/features/{_SUBSET}/{_NAME}/(train|test)\.safetensors",
            rf"artifacts/partitions/({_DATASETS})/{_NAME}/{_SEED}\.json",
            rf"artifacts/runs/{_NAME}/{_SEED}/({'|'.join(map(re.escape, _OF_A_RUN))})",
        ]
    )
)


def is_publishable(path: str) -> bool:
    """Tell whether a file, by its path from the top level, is one that the workflow makes of public data.

    Examples
    --------
    >>> [is_publishable(f"artifacts/runs/{path}") for path in ("fl/seed0/cost.json", "../a.py", "fl/seed0/a.py")]
    [True, False, False]
    """
    return _PATTERN.fullmatch(path) is not None
