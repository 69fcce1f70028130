"""The roles of columns that ``ppml describe`` guesses, and those that its options name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command.described import Described, people, refusal, write_csv


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


def test_sensitive_columns_and_groups(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", people())
    found = Described(tmp_path, path, "--sensitive", "smoker", "--sensitive", "comment", "--group", "stage")
    _, train = found.read()
    roles = found.roles()
    assert (roles["smoker"], roles["comment"]) == (("category", "sensitive"), ("sensitive",))
    assert roles["stage"] == ("feature", "group")
    assert {*train.groups} == {"stage", "hospital"}


def test_missing_labels_and_sites_leave_rows_out(tmp_path: Path) -> None:
    columns = people() | {"ill": ["", *people()["ill"][1:]], "hospital": [*people()["hospital"][:-1], "?"]}
    found = Described(tmp_path, write_csv(tmp_path / "a.csv", columns))
    train, test = found.splits()
    assert len(train) + len(test) == 298
    assert found.columns()["ill"].missing == found.columns()["hospital"].missing == "drop_row"
