"""Paths as users write them: what is replaced, what is refused, and that one rule holds for all keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml.config.load import parse_config
from ppml.config.paths import expanded, output_folder
from ppml.data.sources import local_candidates
from ppml.errors import UserError
from ppml.preflight import check_folders

from .small import small

HOME, ROOT_HOME = "/home/ada", str(Path("~root").expanduser())
REPLACED = [
    ("~", HOME),
    ("~/runs", f"{HOME}/runs"),
    ("~root/runs", f"{ROOT_HOME}/runs"),
    ("$PLACE", "/scratch/my place"),
    ("$PLACE/$NAME/runs", "/scratch/my place/ada/runs"),
    ("/disk/${NAME}-runs", "/disk/ada-runs"),
    ("runs/", "runs"),
    ("./a//b/../c/.", "a/b/../c"),
    ("./~ada", "~ada"),
]
KEPT = [
    'it\'s a "test" $HOME ~ ü',
    "a/b~",
    "$5 each",
    "a$NAME",
    "*?[x]",
    "a;b&c|d`e`",
    "$(id)",
    "tab\\t#1 %s",
    "a > b < c",
]
REFUSED = [
    ("", "expected the path"),
    ("  ", "expected the path"),
    ("a\nb", "line break"),
    ("$TWO_LINES/a", "line break"),
    ("~nobody-of-this-name/a", "no user 'nobody-of-this-name'"),
    ("$ABSENT/a", "ABSENT is not set"),
    ("/a/${EMPTY}/b", "EMPTY is not set, or is empty"),
    ("s3://bucket/a", "address"),
]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"HOME": HOME, "PLACE": "/scratch/my place", "NAME": "ada", "EMPTY": "", "TWO_LINES": "a\nb"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ABSENT", raising=False)


@pytest.mark.parametrize(("written", "path"), [*REPLACED, *((path, path) for path in KEPT)])
def test_folders_and_mirrors_of_file_and_environment_are_read_by_one_rule(
    written: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(small(folders={"artifacts": written}, data={"train": 1000, "mirrors": [written]}), "my.yaml")
    assert config.folders.artifacts == path
    assert config.data.mirrors == (path,)
    monkeypatch.setenv("PPML_DATA_MIRROR", written)
    (candidate,) = local_candidates("mnist", "x.gz", [])
    assert str(candidate) == f"{path}/mnist/x.gz"


@pytest.mark.parametrize(("written", "why"), REFUSED)
@pytest.mark.parametrize("section", ["folders", "data"])
def test_a_path_that_is_none_is_refused_by_its_key(section: str, written: str, why: str) -> None:
    parts = {"folders": {"logs": written}} if section == "folders" else {"data": {"train": 1000, "mirrors": [written]}}
    with pytest.raises(UserError) as caught:
        parse_config(small(**parts), "my.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("my.yaml: " + ("folders.logs: " if section == "folders" else "data.mirrors.0: "))
    assert why in line and repr(written) in line


@pytest.mark.parametrize("written", ["~nobody-of-this-name/a", "$ABSENT/a", "/good/one:a\nb"])
def test_a_mirror_of_the_environment_that_is_no_path_is_refused_by_its_name(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPML_DATA_MIRROR", written)
    with pytest.raises(UserError, match=r"^PPML_DATA_MIRROR: got ") as caught:
        local_candidates("mnist", "x.gz", [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["runs{arm}", "a/<logs>/b", "${BRACES}/a"])
def test_signs_that_snakemake_replaces_are_refused_in_folders_alone(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRACES", "/a/{b}")
    assert expanded(written)
    with pytest.raises(ValueError, match="which Snakemake replaces"):
        output_folder(written)


def test_a_folder_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_folder("-r") == output_folder("./-r") == str(tmp_path / "-r")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project, as the current one, in the home of a user."""
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    return folder


def folders(**changed: str) -> dict[str, str]:
    return {**{key: f"build/x/{key}" for key in ("data", "artifacts", "reports", "logs")}, **changed}


@pytest.mark.parametrize(
    "place",
    ["/", ".", "..", "../..", "~", "src", "src/ppml/runs", "workflow", "config/mine", ".git/x", "link", "link/a"],
)
def test_no_output_lies_where_other_files_do(project: Path, place: str) -> None:
    (project / "src").mkdir()
    (project / "link").symlink_to("src")
    with pytest.raises(UserError) as caught:
        check_folders(folders(reports=expanded(place)), project)
    assert str(caught.value).startswith(f"folders.reports: {expanded(place)} ") and "\n" not in str(caught.value)
    assert sorted(path.name for path in project.iterdir()) == ["link", "src"]


@pytest.mark.parametrize("place", ["runs", "../runs", "~/runs", "build", "source", "reports/src"])
def test_an_output_may_lie_everywhere_else_and_nothing_is_made(project: Path, place: str) -> None:
    check_folders(folders(reports=expanded(place)), project)
    assert list(project.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"logs": "build/x/reports"}, ("logs", "reports")),
        ({"logs": "link"}, ("logs", "reports")),
        ({"artifacts": "build/x/data/raw"}, ("artifacts", "data")),
        ({"reports": "build/x/artifacts/runs/mine"}, ("reports", "artifacts")),
        ({"data": "build/x/logs/train"}, ("data", "logs")),
    ],
)
def test_two_kinds_of_outputs_do_not_share_a_folder(
    project: Path, changed: dict[str, str], named: tuple[str, str]
) -> None:
    (project / "build/x/reports").mkdir(parents=True)
    (project / "link").symlink_to("build/x/reports")
    with pytest.raises(UserError, match="folder of its own") as caught:
        check_folders(folders(**changed), project)
    assert all(f"folders.{key}" in str(caught.value) for key in named)


def test_a_folder_within_another_that_has_nothing_there_is_allowed(project: Path) -> None:
    check_folders(folders(data="build/x", logs="build/x/artifacts/logs"), project)
