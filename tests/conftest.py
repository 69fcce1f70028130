"""Real data for every test: MNIST if a local mirror has it, otherwise scikit-learn's digits."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ppml.config.datasets import DATASETS

if TYPE_CHECKING:
    from ppml.contract import DataContract
    from ppml.data.raw_examples import RawExamples

ROOT = Path(__file__).parents[1]

# With the first two, pytest compares unequal values line by line; for two models, this takes more than eight minutes.
# The others are set in a git hook: tests would find the project's repository in place of their own.
for variable in ("CI", "BUILD_NUMBER", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
    os.environ.pop(variable, None)

# A background process of a shell ignores this signal, and so do its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW = tuple(f"{ROOT / 'tests' / folder}{os.sep}" for folder in ("workflow", "auditing"))
"""Folders whose files take minutes."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Return the name and the length of bytes: each process must find the same names of tests.

    Packed bytes may hold the time of day.
    """
    return f"{argname}: {len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, so that all processes end at about the same time."""
    items.sort(key=lambda item: not str(item.path).startswith(SLOW))


def pytest_collection_finish() -> None:
    """Exclude the imported modules from all searches for garbage, which take half a second each with them."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def collect_garbage() -> None:
    """End parties of other files that a reference cycle keeps, since some tests count processes."""
    gc.collect()


@dataclass(frozen=True)
class RealData:
    """A small real data set.

    Parameters
    ----------
    dataset : str
        The name, ``mnist`` or ``digits``.
    raw : mapping
        Its published files by name; none for the digits.
    train, test : RawExamples
        The first 1,200 training and the first 300 test images.
    """

    dataset: str
    raw: dict[str, Path]
    train: RawExamples
    test: RawExamples

    @property
    def contract(self) -> DataContract:
        """The contract of the data set."""
        return DATASETS[self.dataset].contract


def mirrored(dataset: str) -> dict[str, Path]:
    """Return the published files of ``dataset`` in a local mirror by name, none if no mirror has all of them."""
    given = [Path(part) for part in os.environ.get("PPML_DATA_MIRROR", "").split(os.pathsep) if part]
    for mirror in (*given, ROOT.parent / "shared" / "datasets"):
        for folder in (dataset, dataset.replace("_", "-")):
            files = {name: mirror / folder / name for name in DATASETS[dataset].file_names}
            if all(path.is_file() for path in files.values()):
                return files
    return {}


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the Snakefile."""
    return ROOT


@pytest.fixture(scope="session")
def published() -> Callable[[str], dict[str, Path]]:
    """Return a function to the published files of a data set by name; it skips the test if no mirror has them."""
    return lambda dataset: mirrored(dataset) or pytest.skip(f"no local mirror has {dataset}")


@pytest.fixture(scope="session")
def real_data() -> RealData:
    """Return a small real data set, the same in every test of a session."""
    from ppml.data.loading import load_splits
    from ppml.data.raw_examples import RawExamples

    raw = mirrored("mnist")
    dataset = "mnist" if raw else "digits"
    train, test = load_splits(DATASETS[dataset], raw)
    return RealData(
        dataset,
        raw,
        RawExamples(train.inputs[:1200].copy(), train.labels[:1200].copy()),
        RawExamples(test.inputs[:300].copy(), test.labels[:300].copy()),
    )
