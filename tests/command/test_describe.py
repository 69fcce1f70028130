"""The command ``ppml describe``: the configuration that it writes loads, and reads the file."""

from __future__ import annotations

import csv
import datetime
import gzip
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from ppml.command.main import main
from ppml.config.columns import Column
from ppml.config.datasets import CsvDataset, ParquetDataset
from ppml.config.load import load_config
from ppml.config.model import Config
from ppml.data.describe.entry import yaml_text
from ppml.data.describe.files import guess_text_format, has_header
from ppml.data.describe.roles import ColumnGuess, within_limit
from ppml.data.loading import load_splits
from ppml.data.raw_examples import RawExamples
from tests.workflow.project import ROOT

ADULT = (
    "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,capital-gain,"
    "capital-loss,hours-per-week,native-country,income"
)


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


# --- whole tables ---------------------------------------------------------------------------------------------------


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


def test_a_european_file_packed_by_gzip(tmp_path: Path) -> None:
    columns = people()
    columns["weight"] = [str(value).replace(".", ",") for value in columns["weight"]]
    plain = write_csv(tmp_path / "plain.csv", columns, delimiter=";", lineterminator="\r\n")
    packed = tmp_path / "Übersicht 2024.csv"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    found = Described(tmp_path, packed)
    config, _ = found.read()
    spec = found.dataset()
    assert isinstance(spec, CsvDataset)
    assert (config.data.dataset, spec.delimiter, spec.decimal) == ("ubersicht_2024", ";", ",")
    assert list(spec.columns) == list(columns)
    assert "feature" in spec.columns["weight"].role
    assert isinstance(spec.columns["weight"].missing, float)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(delimiter: str, tmp_path: Path) -> None:
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", people(), delimiter=delimiter))
    found.read()
    assert getattr(found.dataset(), "delimiter", None) == delimiter


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_encoding_is_found(encoding: str, tmp_path: Path) -> None:
    columns = people() | {"city_of_work": ["Köln", "Zürich", "Graz"] * 100}
    path = write_csv(tmp_path / "a.csv", columns)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    found = Described(tmp_path, path)
    found.read()
    assert getattr(found.dataset(), "encoding", None) == encoding
    assert {*found.columns()["city_of_work"].values} == {"Köln", "Zürich", "Graz"}


def test_a_letter_behind_the_first_lines_decides_the_encoding(tmp_path: Path) -> None:
    columns = people(5000) | {"place": ["Graz"] * 4900 + ["Köln"] * 100}
    path = write_csv(tmp_path / "a.csv", columns)
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    found = Described(tmp_path, path)
    found.read()
    assert getattr(found.dataset(), "encoding", None) == "latin-1"


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


# --- roles ----------------------------------------------------------------------------------------------------------


def test_roles_of_people(tmp_path: Path) -> None:
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", people()))
    config, _ = found.read()
    roles = found.roles()
    assert roles == {
        "patient_id": ("identifier",),
        "mailbox": ("identifier",),
        "age": ("feature", "quasi_identifier"),
        "visit": ("time",),
        "born_on": ("ignored",),
        "hospital": ("site",),
        "sex": ("category", "quasi_identifier"),
        "stage": ("feature",),
        "weight": ("feature",),
        "smoker": ("category",),
        "comment": ("ignored",),
        "unit_of_weight": ("ignored",),
        "ill": ("label",),
    }
    columns = found.columns()
    assert columns["visit"].format == "%d.%m.%Y"
    assert (columns["smoker"].names, columns["smoker"].missing) == (("no", "yes", "missing"), "category")
    assert (columns["stage"].low, columns["stage"].high) == (1, 4)
    partition = config.partitions[str(config.arms["fl"].partition)]
    assert (partition.kind, config.clients_of("fl")) == ("natural", 3)


def test_values_of_identifiers_are_nowhere(tmp_path: Path) -> None:
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", people()))
    shown = found.text + found.result.output + found.result.stderr
    assert "example.org" not in shown
    assert "10000019" not in shown and str(10_000_019 + 7 * 299) not in shown
    assert sum("patient_id" in line and "mailbox" in line for line in found.warnings) == 1


@pytest.mark.parametrize("name", ["id", "Name", "e-mail", "phone", "SSN", "iban", "homeAddress", "customer_id"])
def test_names_of_identifiers(name: str, tmp_path: Path) -> None:
    columns = people() | {name: ["secret-1", "secret-2", "secret-3"] * 100, "last": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    assert found.roles()[name] == ("identifier",)
    assert "secret-" not in found.text + found.result.stderr


@pytest.mark.parametrize("name", ["zip", "Postcode", "birth_year", "race", "country", "education", "marital-status"])
def test_names_of_quasi_identifiers(name: str, tmp_path: Path) -> None:
    columns = {name: [1, 2, 3, 4, 5] * 60, "x": list(range(150)) * 2, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    assert "quasi_identifier" in found.roles()[name]
    assert found.dataset().quasi_identifiers_as_inputs


def test_a_code_keeps_its_zeros(tmp_path: Path) -> None:
    columns = {
        "zip": [f"{row % 90:05}" for row in range(300)],
        "code": ["01", "02", "13"] * 100,
        "x": list(range(100)) * 3,
        "y": [0, 1] * 150,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert found.roles()["zip"] == ("quasi_identifier",)
    assert tuple(found.columns()["code"].values) == ("01", "02", "13")


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%y", "%m/%d/%Y %H:%M", "%d-%b-%Y"]
)
def test_times(form: str, tmp_path: Path) -> None:
    day = datetime.datetime(2021, 2, 3, 4, 5, 6)
    days = [day + datetime.timedelta(days=row % 97, hours=row % 7) for row in range(300)]
    columns = {"seen": [one.strftime(form) for one in days], "x": list(range(100)) * 3, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    _, train = found.read()
    assert found.roles()["seen"] == ("time",)
    assert train.times is not None
    epoch = datetime.datetime(1970, 1, 1)
    exact = {(datetime.datetime.strptime(text, form) - epoch).total_seconds() for text in columns["seen"]}
    assert {*train.times.tolist()} <= exact


def test_an_impossible_day_is_no_time(tmp_path: Path) -> None:
    columns = {"seen": ["01.02.2021", "31.02.2021"] * 150, "x": list(range(100)) * 3, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert found.roles()["seen"] == ("category",)


def test_one_time_and_no_time_with_many_gaps(tmp_path: Path) -> None:
    columns = {
        "sparse": ["2021-01-01", "", ""] * 100,
        "epoch_time": [1_600_000_000 + 60 * (row // 2) for row in range(300)],
        "date": ["2021-01-01", "2021-01-02"] * 150,
        "x": list(range(100)) * 3,
        "y": [0, 1] * 150,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert [role for role, *_ in found.roles().values()] == ["ignored", "time", "ignored", "feature", "label"]


def test_missing_labels_and_sites_leave_rows_out(tmp_path: Path) -> None:
    columns = people() | {"ill": ["", *people()["ill"][1:]], "hospital": [*people()["hospital"][:-1], "?"]}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    train, test = found.splits()
    assert len(train) + len(test) == 298
    assert found.columns()["ill"].missing == found.columns()["hospital"].missing == "drop_row"


def test_texts_of_missing_numbers_are_values_elsewhere(tmp_path: Path) -> None:
    columns = {"sign": ["+", "-", "-"] * 100, "x": ["-", *range(1, 100)] * 3, "y": ["+", "-"] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert found.columns()["sign"].values.keys() == found.columns()["y"].values.keys() == {"+", "-"}
    assert isinstance(found.columns()["x"].missing, float)


def test_a_point_beside_a_decimal_comma_is_no_number(tmp_path: Path) -> None:
    columns = {
        "x": ["1,5", "2,5", "3,75"] * 100,
        "odd": ["1.234", "5", "2.345"] * 100,
        "price": ["1.234,5", "2,5", "7.001,25"] * 100,
        "y": [0, 1] * 150,
    }
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns, delimiter=";"))
    found.read()
    assert [role for role, *_ in found.roles().values()] == ["feature", "category", "category", "label"]


def test_rare_values_are_no_inputs(tmp_path: Path) -> None:
    columns = people() | {"rare": [0] * 299 + [1], "gap": ["x"] * 298 + ["", ""], "ill": people()["ill"]}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns), "--label", "ill")
    found.read()
    assert found.roles()["rare"] == found.roles()["gap"] == ("ignored",)


def test_numbers_beyond_float32_are_no_inputs(tmp_path: Path) -> None:
    columns = people() | {"huge": ["1e300", "2e300", "3"] * 100, "endless": ["inf", "1", "2"] * 100}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns), "--label", "ill")
    found.read()
    assert found.roles()["huge"] == ("ignored",)
    assert "feature" not in found.roles()["endless"]


def test_small_numbers_have_a_point(tmp_path: Path) -> None:
    columns = {"x": [f"{row}e-9" for row in range(1, 151)] * 2, "z": [-1e20, 1e20, 0] * 100, "y": [0, 1] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert (found.columns()["x"].low, found.columns()["x"].high) == (1e-9, 150e-9)
    assert (found.columns()["z"].low, found.columns()["z"].high) == (-1e20, 1e20)


# --- the named columns ----------------------------------------------------------------------------------------------


def test_label_is_the_last_column_with_few_values_or_the_named_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", people())
    assert found_label(Described(tmp_path, path)) == "ill"
    assert "--label" in Described(tmp_path, path).text
    named = Described(tmp_path, path, "--label", "smoker")
    assert found_label(named) == "smoker"
    assert "--label" not in named.text
    named.splits()


def found_label(found: Described) -> str:
    return str(found.dataset().column_with("label"))


def test_no_label_is_one_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", {"x": range(300), "z": [row / 7 for row in range(300)]})
    assert "--label" in refusal(path)


@pytest.mark.parametrize(
    "options",
    [
        ["--label", "il"],
        ["--label", "patient_id"],
        ["--label", "mailbox"],
        ["--label", "unit_of_weight"],
        ["--site", "patient_id"],
        ["--site", "nowhere"],
        ["--label", "ill", "--site", "ill"],
        ["--label", "ill", "--sensitive", "ill"],
        ["--group", "mailbox"],
        ["--name", "Großbuchstaben"],
        ["--name", "adult"],
    ],
)
def test_refused_options(options: list[str], tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", people())
    message = refusal(path, *options)
    assert options[-1] in message and "example.org" not in message


def test_site_is_the_partition(tmp_path: Path) -> None:
    columns = people() | {"town": ["A"] * 150 + ["B"] * 145 + ["C"] * 5}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns), "--site", "town", "--label", "ill")
    config, train = found.read()
    partition: Any = config.partitions[str(config.arms["fl_he"].partition)]
    assert (partition.by, config.clients_of("fl_he")) == ("town", 2)
    assert "category" in found.roles()["hospital"]
    assert {*np.unique(train.groups["town"])} <= {0, 1, 2}


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


def test_sensitive_columns_and_groups(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", people())
    found = Described(tmp_path, path, "--sensitive", "smoker", "--sensitive", "comment", "--group", "stage")
    _, train = found.read()
    roles = found.roles()
    assert (roles["smoker"], roles["comment"]) == (("category", "sensitive"), ("sensitive",))
    assert roles["stage"] == ("feature", "group")
    assert {*train.groups} == {"stage", "hospital"}


# --- odd files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "0 bytes"),
        (b"a,b,a\n1,2,3\n", "twice"),
        (b"a,b\n", "no rows"),
        (b"\n\n", ""),
        (b"PK\x03\x04" + bytes(100), ""),
        (b"PAR1" + bytes(100), "Parquet"),
        (b"a,b\0\n1,2\n", ""),
        (gzip.compress(b"a,b\n" + b"1,2\n" * 9999, mtime=0)[:-20], "gzip"),
        (b"a,b\n1,2\n" + b"1,2\n" * 50 + b"Jane Roe,1,2\n", "row 53"),
        (b'a,b\n1,2\n3,"Jane Roe\n', "row 3"),
        (b"a\n1\n2\n", ""),
    ],
)
def test_odd_files_are_one_line(content: bytes, part: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_bytes(content)
    message = refusal(path)
    assert part in message and (str(path) in message or "--label" in message)
    assert "Jane" not in message


def test_absent_file_and_present_output_are_one_line(tmp_path: Path) -> None:
    assert "absent.csv" in refusal(tmp_path / "absent.csv")
    path = write_csv(tmp_path / "a.csv", people())
    assert "--output" in refusal(path, "--output", path)
    assert path.read_text().startswith("patient_id")


@pytest.mark.parametrize("name", ["a{b}.csv", "<a>.csv", "$HOME/a.csv", "a\nb.csv"])
def test_a_path_that_a_configuration_reads_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_csv(path, people())
    done = call(path)
    assert (done.exit_code, done.stdout) == (1, "")


def test_an_odd_path_is_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / 'it\'s "my" file: #1 & more.csv', people())
    found = Described(tmp_path, path)
    found.read()
    assert found.dataset().files[0].path == str(path)


ODD_NAMES = (
    *("a: b", 'the "best"', "it's", " spaces inside ", "größe", "1st value", "2024", "no", "null", "~", "#", "- a"),
    *("{x}", "[y]", "a,b", "*z", "&w", "!t", "%d", "@at", "`tick", "? q", "a\\b", "tab\tin", "n\u00a0b", "l\u2028s"),
    *("<<", "=", "1e5", "0x1f", "0o7", "12:30", "2020-01-01", "日本", "🙂", "y", "x" * 1200, "back\u0085", "", "a\nb"),
)


def test_odd_names_of_columns(tmp_path: Path) -> None:
    columns = {name: [(row * (place + 3)) % 47 for row in range(300)] for place, name in enumerate(ODD_NAMES)}
    columns |= {"last": ["yes", "no"] * 150}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert list(found.columns()) == [name.strip() for name in columns]
    assert [name for name, role in found.roles().items() if role != ("feature",)] == ["last"]


def test_odd_values_of_categories(tmp_path: Path) -> None:
    values = [name.strip() for name in ODD_NAMES if name.strip() and len(name) < 100 and name not in ("null", "NA")]
    columns = {"kind": [values[row % len(values)] for row in range(600)], "x": list(range(200)) * 3, "y": [0, 1] * 300}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    found.read()
    assert {*found.columns()["kind"].values} == {*values}


@pytest.mark.parametrize("text", [*ODD_NAMES, "true", "None", "NaN", "1_000", "0", "+5", ".5", "a #b", "a:", "x y"])
def test_texts_stay_texts(text: str) -> None:
    import yaml

    assert yaml.safe_load(f"{{key: {yaml_text(text)}, list: [{yaml_text(text)}]}}") == {"key": text, "list": [text]}


def test_parquet_of_every_type(tmp_path: Path) -> None:
    from decimal import Decimal

    rows = 300
    table = pyarrow.table(
        {
            "whole": pyarrow.array([row % 60 for row in range(rows)], pyarrow.int16()),
            "half": pyarrow.array([row / 3 for row in range(rows)], pyarrow.float32()),
            "gaps": pyarrow.array([None if row % 3 else row / 8 for row in range(rows)]),
            "nan": pyarrow.array([float("nan") if row % 3 else row / 8 for row in range(rows)]),
            "flag": pyarrow.array([row % 2 == 0 for row in range(rows)]),
            "word": pyarrow.array(["a", "b", None] * 100).dictionary_encode(),
            "price": pyarrow.array([Decimal(row % 70) / 4 for row in range(rows)], pyarrow.decimal128(9, 2)),
            "day": pyarrow.array([datetime.date(2021, 1, 1 + row % 28) for row in range(rows)]),
            "list": pyarrow.array([[1, 2]] * rows),
            "struct": pyarrow.array([{"secret_field": 1}] * rows),
            "empty": pyarrow.nulls(rows),
            "bytes": pyarrow.array([b"\xff\xfe"] * rows),
            "length": pyarrow.array([datetime.timedelta(seconds=row % 9) for row in range(rows)]),
            " target ": pyarrow.array([row % 2 for row in range(rows)], pyarrow.uint8()),
        }
    )
    parquet.write_table(table, tmp_path / "a.bin")
    found = Described(tmp_path, tmp_path / "a.bin")
    found.read()
    roles = {name: role[0] for name, role in found.roles().items()}
    assert {name: roles[name] for name in ("list", "struct", "empty", "bytes", "length")} == dict.fromkeys(
        ("list", "struct", "empty", "bytes", "length"), "ignored"
    )
    features = ["whole", "half", "gaps", "nan", "price"]
    assert [name for name, role in roles.items() if role == "feature"] == features
    assert (roles["flag"], roles["word"], roles["day"], roles["target"]) == ("category", "category", "time", "label")
    assert found.columns()["word"].missing == "category"
    assert "secret_field" not in found.text


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Vienna"])
def test_times_of_parquet(unit: str, zone: str | None, tmp_path: Path) -> None:
    seen = pyarrow.array([1_600_000_000 + row % 90 for row in range(300)]).cast(pyarrow.timestamp("s"))
    table = pyarrow.table(
        {"seen": seen.cast(pyarrow.timestamp(unit, zone)), "x": [row % 77 for row in range(300)], "y": [0, 1] * 150}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    found = Described(tmp_path, tmp_path / "a.parquet")
    _, train = found.read()
    assert found.roles()["seen"] == ("time",)
    assert train.times is not None and train.times.min() >= 1_600_000_000


def test_parquet_with_a_repeated_column_is_one_line(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array([1, 2])] * 2, names=["a", "a "])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "twice" in refusal(tmp_path / "a.parquet")


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


# --- warnings and guesses -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["a", "b"], ["1", "x"], ["2", "y"]], True),
        ([["1", "x"], ["2", "y"]], False),
        ([["?", "1", "x"], ["5", "2", "y"]], False),
        ([["id", "2019", "2020"], ["a", "5.5", "6"]], True),
        ([["0", "1", "2"], ["5.5", "6", "9"]], True),
        ([["red", "round"], ["red", "square"], ["blue", "round"]], False),
        ([["colour", "shape"], ["red", "square"], ["blue", "round"]], True),
        ([["a", "b"]], True),
        ([["Jane", "jane@example.org"], ["Max", "max@example.org"]], False),
        ([["who", "1990-01-31"], ["Max", "1991-12-01"]], False),
        ([["gene", "2020-01-31"], ["x", "5.5"]], True),
    ],
)
def test_header_is_guessed(rows: list[list[str]], expected: bool) -> None:
    assert has_header(rows) == expected


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a;b\n1,5;2,5\n3,5;4,5\n", ";"),
        ('a,b\n"x;y","z"\n', ","),
        ('a\tb\n1\t"x, y"\n', "\t"),
        ("a,b\n1,2,3\n4,5\n", ","),
        ("1,5;2,5;3,7\n1,6;2,6;3,8\n", ";"),
    ],
)
def test_delimiter_is_guessed(text: str, delimiter: str) -> None:
    assert guess_text_format(text).delimiter == delimiter


def test_a_header_that_looks_like_values_can_be_told(tmp_path: Path) -> None:
    columns = {"10": list(range(100)) * 3, "40": [0, 1] * 150}
    path = write_csv(tmp_path / "a.csv", columns)
    assert list(Described(tmp_path, path).columns()) == ["column_1", "column_2"]
    assert list(Described(tmp_path, path, "--header").columns()) == ["10", "40"]
