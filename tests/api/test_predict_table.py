"""The trained model of a table predicts the rows of a CSV or Parquet file as its training read them."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import ppml
from ppml.command.main import main
from ppml.config.arm import Arm
from ppml.config.datasets import DATASETS, CsvDataset
from ppml.config.load import load_config
from ppml.data.formats import table_files, table_inputs, table_text
from ppml.data.formats.table_encoding import encode_table
from ppml.data.formats.table_files import read_table_file
from ppml.data.formats.table_inputs import input_batches
from ppml.io.atomic import write_json
from ppml.models.registry import build_model
from ppml.pipeline.plan import Plan
from ppml.pipeline.stages import STAGE
from tests.workflow.test_synthetic_data import run_all

COLUMNS: dict[str, Any] = {
    "name": {"role": "identifier"},
    "age": {"role": "feature", "low": 0, "high": 100},
    "income": {"role": "feature", "low": 0, "high": 9000, "scale": "log", "missing": 100},
    "weight": {"role": "feature", "scale": "fitted"},
    "city": {"role": ["category", "group"], "values": ["Graz", "Wien", "Linz"], "missing": "category"},
    "job": {"role": "category", "values": ["nurse", "clerk", "rest"], "other": "rest"},
    "height": {"role": "feature", "low": 100, "high": 220, "missing": "drop_row"},
    "ill": {"role": "label", "values": ["no", "yes"]},
}
INPUTS = [name for name in COLUMNS if name not in ("name", "ill")]


def people(rows: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "name": [f"p{row}" for row in range(rows)],
            "age": rng.integers(0, 100, rows),
            "income": [*rng.integers(0, 9000, rows - 1).astype(str), ""],
            "weight": rng.normal(70, 9, rows).round(1),
            "city": rng.choice(["Graz", "Wien", "Linz", ""], rows),
            "job": rng.choice(["nurse", "clerk", "pilot"], rows),
            "height": rng.integers(150, 200, rows).astype(str),
            "ill": ["no", "yes"] * (rows // 2),
        }
    )


class Trained(NamedTuple):
    """A run on the table of people, its configuration, and the file of the training."""

    run: Path
    config: Path
    table: Path

    def call(self, *files: object, config: Path | None = None) -> Result:
        """Return the result of the command."""
        options = ["--configfile", config or self.config]
        return CliRunner().invoke(main, [str(one) for one in ("predict", self.run, *files, *options)])

    def rows(self, path: Path) -> list[list[str]]:
        """Return class and score of each row of a file, after a check of its places."""
        done = self.call(path)
        assert done.exit_code == 0, done.stderr
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert [row[0] for row in rows] == [f"{path}[{place}]" for place in range(len(rows))]
        assert done.stderr.startswith("privacy: ") and done.stderr.count("\n") == 1
        return [row[1:] for row in rows]

    def refusal(self, path: Path, **options: Any) -> str:
        """Return the one line of the error."""
        done = self.call(path, **options)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("privacy: ")]
        assert (done.exit_code, len(lines)) == (1, 1), done.output
        return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("people")
    table, path = folder / "people.csv", folder / "people.yaml"
    people().to_csv(table, index=False)
    entry = {"kind": "csv", "files": [str(table)], "split": {"kind": "stratified", "test": 0.2}, "columns": COLUMNS}
    content = {
        "seeds": [0],
        "folders": {key: str(folder / key) for key in ("data", "artifacts", "reports", "logs")},
        "data": {"dataset": "people", "train": 72, "test": 18, "fallback": None, "define": {"people": entry}},
        "arms": {"a": {"model": "mlp", "training": {"epochs": 2, "batch_size": 8, "learning_rate": 0.5}}},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    run_all(Plan(load_config(path), None), *(STAGE[name] for name in ("subset", "train", "account")))
    return Trained(folder / "artifacts" / "runs" / "a" / "seed0", path, table)


@pytest.fixture
def expected(trained: Trained) -> list[list[str]]:
    """Return class and score of each row of the training's file, by the reader of the training."""
    spec = load_config(trained.config).dataset("people")
    assert isinstance(spec, CsvDataset)
    examples = encode_table(spec, read_table_file(spec, spec.files[0], trained.table))
    found = ppml.load(trained.run).predict(examples.inputs)
    assert len(set(found.names)) == 2
    return [[name, f"{scores.max():.4f}"] for name, scores in zip(found.names, found.scores, strict=True)]


# --- rows -----------------------------------------------------------------------------------------------------------


def test_file_of_training_is_encoded_as_in_training(trained: Trained, expected: list[list[str]]) -> None:
    assert trained.rows(trained.table) == expected


def test_label_and_other_columns_are_not_needed_and_order_is_free(
    trained: Trained, expected: list[list[str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    frame = people()[[*reversed(INPUTS)]]
    frame.insert(2, "new column", "anything")
    frame.assign(ill="unknown").to_csv(path, index=False)
    assert trained.rows(path) == expected


def test_parquet_of_texts_and_numbers(trained: Trained, expected: list[list[str]], tmp_path: Path) -> None:
    path = tmp_path / "rows.pq"
    people()[INPUTS].astype({"height": float, "city": "category"}).to_parquet(path)
    assert trained.rows(path) == expected


def test_dropped_row_has_an_empty_prediction_in_its_place(
    trained: Trained, expected: list[list[str]], tmp_path: Path
) -> None:
    frame, path = people(), tmp_path / "rows.csv"
    frame.loc[[0, 40], "height"] = ""
    frame.to_csv(path, index=False)
    wanted = [["", ""] if row in (0, 40) else values for row, values in enumerate(expected)]
    assert trained.rows(path) == wanted
    frame.loc[:, "height"] = ""
    frame.to_csv(path, index=False)
    assert trained.rows(path) == [["", ""]] * len(frame)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_batches_change_nothing(
    trained: Trained, expected: list[list[str]], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "LARGEST_ROW", 600)
    monkeypatch.setattr(table_files, "BATCH_VALUES", 100)
    monkeypatch.setattr(table_inputs, "BATCH_NUMBERS", 50)
    path = tmp_path / f"rows.{kind}"
    frame = people().astype({"age": float})
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    assert trained.rows(path) == expected
    frame.loc[77, "age"] = -(10.0**300)
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    # A spreadsheet counts the header as row 1.
    assert f"row {79 if kind == 'csv' else 78}, column 'age'" in trained.refusal(path)


def test_python_has_labels_and_scores_of_rows(trained: Trained, expected: list[list[str]], tmp_path: Path) -> None:
    frame, path = people(), tmp_path / "rows.csv"
    frame.loc[3, "height"] = "NA"
    frame.to_csv(path, index=False)
    (found,) = ppml.load(trained.run).predict_table(path, configfile=trained.config)
    assert found.labels.dtype == np.int64 and found.scores.dtype == np.float32
    assert found.labels[3] == -1 and np.isnan(found.scores[3]).all() and found.names[3] == ""
    assert [found.names[row] for row in (0, 1, 89)] == [expected[row][0] for row in (0, 1, 89)]


# --- the format of the entry ----------------------------------------------------------------------------------------


def entry_without_header(**keys: Any) -> CsvDataset:
    columns = {name: COLUMNS[name] for name in ("age", "height", "ill")}
    given = {"files": [{"path": "/a.csv"}], "split": {"kind": "random"}, "columns": columns, "header": False}
    return CsvDataset.model_validate({**given, **keys})


@pytest.mark.parametrize("content", ["20,160,no\n70,190,yes\n", "20,160\n70,190\n", "height,age\n160,20\n190,70\n"])
def test_file_may_have_a_header_where_the_published_one_has_none(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.data"
    path.write_text(content)
    (found,) = input_batches(entry_without_header(), path)
    assert found.inputs.tolist() == [[pytest.approx(-0.6), 0.0], [pytest.approx(0.4), 0.5]]


def test_missing_column_under_a_header_is_named_where_the_published_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.data"
    path.write_text("age,hight\n20,160\n")
    with pytest.raises(ppml.UserError, match="has no column 'height'"):
        list(input_batches(entry_without_header(), path))


def test_delimiter_and_decimal_sign_are_those_of_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age;height\n25,5;160\n")
    (found,) = input_batches(entry_without_header(header=True, delimiter=";", decimal=","), path)
    assert found.inputs.tolist() == [[pytest.approx(-0.49), 0.0]]


def test_entry_of_the_catalogue_needs_no_configuration(tmp_path: Path) -> None:
    contract, run = DATASETS["adult"].contract, tmp_path / "run"
    run.mkdir()
    model = build_model("logistic", contract, torch.Generator().manual_seed(0))
    save_file({f"0.{name}": value for name, value in model.state_dict().items()}, run / "model.safetensors")
    arm = Arm.model_validate({"model": "logistic"}).to_json()
    data = {"dataset": "adult", "identity": None, "contract": contract.to_json()}
    write_json(run / "config.json", {"arm": arm, "data": data, "root_seed": 1})
    write_json(run / "privacy.json", {"epsilon": None, "unit": "none"})
    path = tmp_path / "adult.csv"
    row = "39, State-gov, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, ?"
    path.write_text(f"{', '.join(DATASETS['adult'].inputs)}\n{row}\n")  # type: ignore[union-attr]
    (found,) = ppml.load(run).predict_table(path)
    assert found.names[0] in ("<=50K", ">50K")


# --- refusals -------------------------------------------------------------------------------------------------------

VALUE = "; correct the value, or leave out the row"
ENTRY_WORDS = re.compile(r"\b(state|roles?|skip_rows|in columns|to values)\b")
"""Words of a remedy in the entry, which the user of a model cannot change."""


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        (lambda frame: frame.drop(columns="age"), ["no column 'age'"]),
        (
            lambda frame: frame.rename(columns={"age": "agee"}),
            ["no column 'age'", "agee", "correct the names in the file"],
        ),
        (lambda frame: frame.assign(age="old"), ["row 2, column 'age'", "'old' is no number", VALUE]),
        (lambda frame: frame.assign(age=""), ["row 2, column 'age'", "is missing", VALUE]),
        (lambda frame: frame.assign(city="Rom"), ["row 2, column 'city'", "'Rom'", "'Graz', 'Wien', 'Linz'", VALUE]),
        (lambda frame: frame[:0], ["no rows"]),
        (lambda frame: frame.assign(age=1e60), ["row 2, column 'age'", "not finite"]),
    ],
)
def test_unfit_file_is_one_line(trained: Trained, change: Any, pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    change(people()).to_csv(path, index=False)
    line = trained.refusal(path)
    assert line.startswith(f"error: {path}: ") and all(piece in line for piece in pieces), line
    assert not ENTRY_WORDS.search(line.rpartition("; ")[2]), line


@pytest.mark.parametrize(
    ("content", "keys", "problem"),
    [
        (b"age;height\n20;160\n", {}, "one column, 'age;height'"),
        (b"age,height\n20,160\n20\n", {}, "row 3 has 1 columns, and 2 are expected"),
        (b"age,height\n20,160\n\xff,160\n", {}, "row 3, column 'age': '\ufffd' is not in utf-8"),
        ("age,height\n20,160\n".encode("utf-16"), {}, "it begins as UTF-16 does"),
        (b"\n\n", {"skip_rows": 1}, "has no header after 1 lines"),
        (b'age,height\n"20,5",160\n', {}, "row 2, column 'age': '20,5' is no number"),
        (b"age;height\n20.5;160\n", {"delimiter": ";", "decimal": ","}, "'20.5' has a point"),
    ],
)
def test_file_in_another_format_is_told_the_format_of_the_model(
    content: bytes, keys: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    files = [{"path": "/a.csv", "skip_rows": keys.pop("skip_rows", 0)}]
    with pytest.raises(ppml.UserError) as caught:
        list(input_batches(entry_without_header(header=True, files=files, **keys), path))
    delimiter, decimal = keys.get("delimiter", ","), keys.get("decimal", ".")
    remedy = (
        f"; correct the file: the model reads utf-8 with the delimiter {delimiter!r} and the decimal sign {decimal!r}"
    )
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and problem in message and message.endswith(remedy), message


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([[1.0], [2.0]], "give flat columns"),
        ([b"\xff", b"1"], "convert it"),
        (["20,5", "1"], "correct the file: the model reads numbers with a decimal point"),
    ],
)
def test_unfit_column_of_parquet_is_one_line(values: list[Any], remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"age": values, "height": [160, 170]}).to_parquet(path)
    with pytest.raises(ppml.UserError, match=rf"^{path}: .*column 'age'.*; {remedy}$"):
        list(input_batches(entry_without_header(header=True), path))


def test_rows_before_an_unfit_one_are_predicted(trained: Trained, expected: list[list[str]], tmp_path: Path) -> None:
    path, frame = tmp_path / "rows.csv", people()
    frame["age"] = frame["age"].astype(object)
    frame.loc[77, "age"] = "old"
    frame.to_csv(path, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_inputs, "BATCH_NUMBERS", 50)
        done = trained.call(path)
    rows = [line.split("\t")[1:] for line in done.stdout.splitlines()]
    assert done.exit_code == 1 and "row 79, column 'age': 'old'" in done.stderr
    assert 0 < len(rows) < 78 and rows == expected[: len(rows)]


def test_empty_absent_and_damaged_files_are_one_line(trained: Trained, tmp_path: Path) -> None:
    for name, content in {"a.csv": b"", "b.parquet": b"PAR1 damaged", "c.csv": b"PK\x03\x04" + bytes(9)}.items():
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in trained.refusal(tmp_path / name)
    assert "absent.csv" in trained.refusal(tmp_path / "absent.csv")


def test_entry_is_that_of_the_training(trained: Trained, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["predict", str(trained.run), str(trained.table)])
    assert done.exit_code == 1 and "'people'" in done.stderr and "--configfile" in done.stderr
    text, other = trained.config.read_text(), tmp_path / "other.yaml"
    for before, after, piece in (
        ("high: 100", "high: 110", "is not the entry of the training"),
        ("Linz", "Rom", "columns is not that of the training"),
        ("people", "others", "no 'people'"),
    ):
        other.write_text(text.replace(before, after))
        line = trained.refusal(trained.table, config=other)
        assert line.startswith(f"error: {other}: ") and piece in line, line


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Arrow reads up to 32 blocks ahead; both files have more.
    monkeypatch.setattr(table_files, "LARGEST_ROW", 2**13)
    monkeypatch.setattr(table_text, "BLOCK", 2**13)
    path, peaks = tmp_path / "rows.csv", []
    for rows in (60_000, 240_000):
        path.write_text("age,height\n" + "25,160\n" * rows)
        before, peak, count = pyarrow.total_allocated_bytes(), 0, 0
        tracemalloc.start()
        for batch in input_batches(entry_without_header(header=True), path):
            count += len(batch.dropped)
            peak = max(peak, pyarrow.total_allocated_bytes() - before)
        peaks.append((tracemalloc.get_traced_memory()[1], peak))
        tracemalloc.stop()
        assert count == rows
    assert all(large < 2 * small for small, large in zip(*peaks, strict=True))
