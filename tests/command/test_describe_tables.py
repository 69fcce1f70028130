"""The command ``ppml describe`` on whole tables: the configuration that it writes loads, and reads the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from ppml.config.columns import Column
from ppml.config.load import load_config
from ppml.data.describe.roles import ColumnGuess, within_limit
from tests.command.described import Described, breast_cancer, call, people, refusal, write_csv
from tests.workflow.project import ROOT

ADULT = (
    "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,capital-gain,"
    "capital-loss,hours-per-week,native-country,income"
)


@pytest.fixture(scope="module")
def adult(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = ROOT.parent / "shared" / "datasets" / "adult" / "adult.data"
    if not source.is_file():
        pytest.skip("no local mirror has adult")
    path = tmp_path_factory.mktemp("adult") / "Adult Census.csv"
    path.write_text(f"{ADULT}\n{source.read_text()}", encoding="utf-8")
    return path


def test_adult_has_the_columns_of_the_catalogue(adult: Path, tmp_path: Path) -> None:
    found = Described(tmp_path, adult, "--sensitive", "occupation", "--group", "education")
    config, train = found.read()
    columns, known = found.columns(), load_config(ROOT / "config" / "smoke.yaml").dataset("adult").columns
    assert config.data.dataset == "adult_census"
    assert list(columns) == list(known)
    for name in ("workclass", "education", "occupation", "race", "sex", "native-country"):
        assert {*columns[name].values} == {*known[name].values}, name
        assert columns[name].missing == known[name].missing, name
    for name in ("age", "education-num", "capital-gain", "hours-per-week"):
        assert (columns[name].low, columns[name].high) == (known[name].low, known[name].high), name
    assert columns["occupation"].role == ("category", "sensitive")
    assert columns["education"].role == ("category", "quasi_identifier", "group")
    assert columns["income"].role == ("label",)
    assert found.dataset().quasi_identifiers_as_inputs
    assert {"?", ""} <= {*found.dataset().missing_texts}
    assert train.inputs.shape[1] == known_width(columns)


def known_width(columns: dict[str, Column]) -> int:
    return sum(column.width for column in columns.values() if column.is_input)


def test_adult_without_names(tmp_path: Path, adult: Path) -> None:
    raw = tmp_path / "adult.data"
    raw.write_text("\n".join(adult.read_text().splitlines()[1:5_000]) + "\n")
    guessed, told = Described(tmp_path, raw).text, Described(tmp_path, raw, "--no-header")
    assert guessed == told.text
    config, _ = told.read()
    # config/datasets.yaml has a data set adult.
    assert config.data.dataset not in ("adult", "")
    assert not told.dataset().header
    assert "label" in told.columns()["column_15"].role


def test_arms_compare_the_techniques(adult: Path, tmp_path: Path) -> None:
    config = Described(tmp_path, adult).config
    assert {arm.privacy.epsilon for arm in config.arms.values() if arm.is_private} == {8.0, 3.0, 1.0}
    assert {arm.privacy.delta for arm in config.arms.values() if arm.is_private} == {1e-6}
    assert {(arm.topology.kind, arm.is_private, arm.aggregation.kind) for arm in config.arms.values()} == {
        ("centralized", False, "plaintext"),
        ("centralized", True, "plaintext"),
        ("federated", False, "plaintext"),
        ("federated", True, "plaintext"),
        ("federated", False, "ckks"),
    }
    assert [arm.model for arm in config.arms.values() if arm.predicts_encrypted] == ["logistic"]
    assert {*config.experiments["techniques"].arms} == {*config.arms}
    assert {config.clients_of(name) for name in ("fl", "fl_dp", "fl_he")} == {4}
    assert all(folder.startswith(f"build/{config.data.dataset}/") for _, folder in config.folders)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_keep_their_exact_range(kind: str, tmp_path: Path) -> None:
    columns, path = breast_cancer(), tmp_path / f"table.{kind}"
    if kind == "csv":
        write_csv(path, columns)
    else:
        parquet.write_table(pyarrow.table(columns), path)
    found = Described(tmp_path, path, "--name", "cells")
    config, train = found.read()
    assert (config.data.dataset, found.dataset().kind) == ("cells", kind)
    for name, values in columns.items():
        if name != "diagnosis":
            assert (found.columns()[name].low, found.columns()[name].high) == (min(values), max(values))
    assert (train.inputs.min(), train.inputs.max()) == (-1, 1)


def test_several_files_are_one_table(tmp_path: Path) -> None:
    columns = people()
    halves = [{name: values[place::2] for name, values in columns.items()} for place in (0, 1)]
    files = [write_csv(tmp_path / f"{place}.csv", half) for place, half in enumerate(halves)]
    whole = Described(tmp_path, write_csv(tmp_path / "whole.csv", columns)).columns()
    found = Described(tmp_path, *files)
    found.read()
    assert found.columns() == whole
    other = write_csv(tmp_path / "other.csv", breast_cancer())
    assert str(other) in refusal(files[0], other)


def test_a_thousand_sites(tmp_path: Path) -> None:
    columns = {
        "x": [row % 977 for row in range(12_000)],
        "town": [f"town {row % 1000}" for row in range(12_000)],
        "y": [0, 1, 1] * 4_000,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns), "--site", "town")
    config, _ = found.read()
    assert config.clients_of("fl_he") == 1000
    assert config.arms["fl_he"].aggregation.kind == "bfv"


def test_ten_thousand_columns(tmp_path: Path) -> None:
    rows, columns = 60, 10_000
    numbers = np.random.default_rng(0).normal(size=(rows, columns))
    path = tmp_path / "wide.csv"
    lines = [",".join([*(f"gene {place}" for place in range(columns)), "class"])]
    lines += [",".join([*map("{:.4f}".format, row), str(place % 2)]) for place, row in enumerate(numbers)]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = Described(tmp_path, path)
    config, train = found.read()
    assert train.inputs.shape[1] == columns
    assert any("10001 columns" in line for line in found.warnings)
    assert any("60 rows" in line for line in found.warnings)
    assert not any(arm.predicts_encrypted for arm in config.arms.values())


def test_columns_beyond_the_limit_of_a_file_are_ignored() -> None:
    columns = [ColumnGuess(str(place), ("feature",), limits=(0.0, 1.0)) for place in range(5)]
    label = ColumnGuess("y", ("label",), values=("a", "b"))
    kept = within_limit([*columns, label], most=sum(column.size for column in columns) + label.size - 1)
    assert [column.roles for column in kept] == [("feature",)] * 4 + [("ignored",), ("label",)]
    assert within_limit([*columns, label], most=sum(column.size for column in [*columns, label])) == [*columns, label]


def test_warnings_are_one_line_each(tmp_path: Path) -> None:
    columns = {name: values[:100] for name, values in people().items()} | {"ill": [0, 1] * 47 + [2] * 6}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.splits()
    assert all(line.startswith("warning: ") for line in found.warnings)
    assert len(found.warnings) == 4
    clean = {"x": list(range(100)) * 3, "y": [0, 1] * 150}
    assert len(Described(tmp_path, write_csv(tmp_path / "b.csv", clean)).warnings) == 1


def test_standard_output_is_the_same_text(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", people())
    assert call(path).stdout == Described(tmp_path, path).text


def test_the_configuration_stands_beside_the_others(tmp_path: Path) -> None:
    text = Described(tmp_path, write_csv(tmp_path / "a.csv", people())).text
    assert "extends: default.yaml" not in text
    assert text.startswith("# yaml-language-server")
