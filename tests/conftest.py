"""Real data for every test: MNIST where a local mirror has it, scikit-learn's digits everywhere else."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ppml.data.loading import Split

ROOT = Path(__file__).parents[1]

# Where these are set, pytest compares line by line what is not equal: for two models that had no end in eight minutes.
# The others are git's, in a hook of which tests would find the project's repository in the place of their own.
for variable in ("CI", "BUILD_NUMBER", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
    os.environ.pop(variable, None)

# In the background of a shell this is ignored, by all that tests start as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW = tuple(f"{ROOT / 'tests' / folder}{os.sep}" for folder in ("workflow", "auditing"))
"""Folders whose files take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files: at the end, all processes are busy with short ones."""
    items.sort(key=lambda item: not str(item.path).startswith(SLOW))


@pytest.fixture(autouse=True, scope="module")
def nothing_of_other_files() -> None:
    """End parties that nobody closed and that a circle of references keeps: who counts processes would see them."""
    gc.collect()


@dataclass(frozen=True)
class RealData:
    """A small real data set.

    Parameters
    ----------
    dataset : str
        Its name in the catalogue: ``mnist`` or ``digits``.
    raw : tuple of Path
        The published files it was read from; none for the digits.
    train, test : Split
        The first 1,200 training and the first 300 test images.
    """

    dataset: str
    raw: tuple[Path, ...]
    train: Split
    test: Split


def mirrored(dataset: str) -> tuple[Path, ...]:
    """Return the published files of ``dataset`` in a local mirror, none where no mirror has them all."""
    from ppml.data.catalogue import dataset_info

    given = [Path(part) for part in os.environ.get("PPML_DATA_MIRROR", "").split(os.pathsep) if part]
    for mirror in (*given, ROOT.parent / "shared" / "datasets"):
        for folder in (dataset, dataset.replace("_", "-")):
            files = tuple(mirror / folder / name for name in dataset_info(dataset).files)
            if all(path.is_file() for path in files):
                return files
    return ()


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the Snakefile."""
    return ROOT


@pytest.fixture(scope="session")
def published() -> Callable[[str], tuple[Path, ...]]:
    """Return a function to the published files of a data set; it skips the test where no local mirror has them."""
    return lambda dataset: mirrored(dataset) or pytest.skip(f"no local mirror has {dataset}")


@pytest.fixture(scope="session")
def real_data() -> RealData:
    """Return a small real data set, the same in every test of a session."""
    from ppml.data.loading import Split, load_splits

    raw = mirrored("mnist")
    dataset = "mnist" if raw else "digits"
    train, test = load_splits(dataset, raw)
    return RealData(
        dataset,
        raw,
        Split(train.images[:1200].copy(), train.labels[:1200].copy()),
        Split(test.images[:300].copy(), test.labels[:300].copy()),
    )
