"""Tables for the tests of ``ppml describe``, and the configurations that it writes for them."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from ppml.command.main import main
from ppml.config.columns import Column
from ppml.config.datasets import CsvDataset, ParquetDataset
from ppml.config.load import load_config
from ppml.config.model import Config
from ppml.data.loading import load_splits
from ppml.data.raw_examples import RawExamples


class Described:
    """A described table: the result of the command, its configuration, and the examples that it reads."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.path = folder / "config" / "mine.yaml"
        self.path.unlink(missing_ok=True)
        self.result = call(*arguments, "--output", self.path)
        assert self.result.exit_code == 0, self.result.stderr
        self.text = self.path.read_text(encoding="utf-8")

    @property
    def warnings(self) -> list[str]:
        return self.result.stderr.splitlines()

    @cached_property
    def config(self) -> Config:
        return load_config(self.path)

    def dataset(self) -> CsvDataset | ParquetDataset:
        config = self.config
        found = config.dataset(config.data.dataset)
        assert isinstance(found, CsvDataset | ParquetDataset)
        return found

    def columns(self) -> dict[str, Column]:
        return self.dataset().columns

    def roles(self) -> dict[str, tuple[str, ...]]:
        return {name: column.role for name, column in self.columns().items()}

    def splits(self) -> list[RawExamples]:
        spec = self.dataset()
        return load_splits(spec, {str(file.path): Path(str(file.path)) for file in spec.files})

    def read(self) -> tuple[Config, RawExamples]:
        """Return the configuration and all examples, after a check of the stated numbers of rows."""
        config = self.config
        train, test = self.splits()
        assert (len(train), len(test)) == (config.data.train, config.data.test)
        assert np.isfinite(train.inputs).all()
        assert not config.warnings()
        return config, train


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["describe", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    """Return the one line of the error."""
    done = call(*arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    return done.stderr


def write_csv(path: Path, columns: dict[str, Sequence[Any]], **options: Any) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, **options)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def people(rows: int = 300) -> dict[str, list[Any]]:
    """Return a table with columns of every kind."""
    draw = random.Random(0)
    return {
        "patient_id": [10_000_019 + 7 * row for row in range(rows)],
        "mailbox": [f"person{row % 90}@example.org" for row in range(rows)],
        "age": [draw.randint(18, 90) for _ in range(rows)],
        "visit": [f"{draw.randint(1, 28):02}.0{draw.randint(1, 9)}.2024" for _ in range(rows)],
        "born_on": [f"19{draw.randint(50, 99)}-02-11" for _ in range(rows)],
        "hospital": [draw.choice(["North", "South", "West"]) for _ in range(rows)],
        "sex": [draw.choice("fm") for _ in range(rows)],
        "stage": [draw.randint(1, 4) for _ in range(rows)],
        "weight": [draw.choice(["", "NA"]) if row % 20 == 0 else round(draw.gauss(70, 9), 1) for row in range(rows)],
        "smoker": [draw.choice(["yes", "no", "?"]) for _ in range(rows)],
        "comment": [f"note {draw.randint(0, 200)}" for _ in range(rows)],
        "unit_of_weight": ["kg"] * rows,
        "ill": [draw.choice([0, 1]) for _ in range(rows)],
    }


def breast_cancer() -> dict[str, Any]:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    columns = {str(name): values for name, values in zip(bunch.feature_names, bunch.data.T, strict=True)}
    return {**columns, "diagnosis": [str(bunch.target_names[label]) for label in bunch.target]}
