"""Paths as users write them: expansion and errors, by one rule for all keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml.config.load import parse_config
from ppml.config.paths import expand_output_folder, expand_path
from ppml.data.sources import local_candidates
from ppml.errors import UserError
from ppml.pipeline.stages import SUBFOLDERS
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
def test_folders_and_mirrors_are_expanded_by_one_rule(written: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(small(folders={"artifacts": written}, data={"train": 1000, "mirrors": [written]}), "my.yaml")
    assert config.folders.artifacts == path
    assert config.data.mirrors == (path,)
    monkeypatch.setenv("PPML_DATA_MIRROR", written)
    (candidate,) = local_candidates("mnist", "x.gz", [])
    assert str(candidate) == f"{path}/mnist/x.gz"


@pytest.mark.parametrize(("written", "why"), REFUSED)
@pytest.mark.parametrize("section", ["folders", "data"])
def test_invalid_path_is_refused_with_its_key(section: str, written: str, why: str) -> None:
    parts = {"folders": {"logs": written}} if section == "folders" else {"data": {"train": 1000, "mirrors": [written]}}
    with pytest.raises(UserError) as caught:
        parse_config(small(**parts), "my.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("my.yaml: " + ("folders.logs: " if section == "folders" else "data.mirrors.0: "))
    assert why in line and repr(written) in line


@pytest.mark.parametrize("written", ["~nobody-of-this-name/a", "$ABSENT/a", "/good/one:a\nb"])
def test_invalid_mirror_of_the_environment_is_refused(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPML_DATA_MIRROR", written)
    with pytest.raises(UserError, match=r"^PPML_DATA_MIRROR: got ") as caught:
        local_candidates("mnist", "x.gz", [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["runs{arm}", "a/<logs>/b", "${BRACES}/a"])
def test_placeholders_of_snakemake_are_refused_only_in_folders(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRACES", "/a/{b}")
    assert expand_path(written)
    with pytest.raises(ValueError, match="which Snakemake replaces"):
        expand_output_folder(written)


def test_folder_is_never_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert expand_output_folder("-r") == expand_output_folder("./-r") == str(tmp_path / "-r")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project in the home of a user, as the working folder."""
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
def test_output_folder_may_not_contain_other_files(project: Path, place: str) -> None:
    (project / "src").mkdir()
    (project / "link").symlink_to("src")
    with pytest.raises(UserError) as caught:
        check_folders(folders(reports=expand_path(place)), project, SUBFOLDERS)
    assert str(caught.value).startswith(f"folders.reports: {expand_path(place)} ") and "\n" not in str(caught.value)
    assert sorted(path.name for path in project.iterdir()) == ["link", "src"]


@pytest.mark.parametrize("place", ["runs", "../runs", "~/runs", "build", "source", "reports/src"])
def test_other_output_folder_is_accepted_and_not_made(project: Path, place: str) -> None:
    check_folders(folders(reports=expand_path(place)), project, SUBFOLDERS)
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
def test_two_kinds_of_outputs_have_different_folders(
    project: Path, changed: dict[str, str], named: tuple[str, str]
) -> None:
    (project / "build/x/reports").mkdir(parents=True)
    (project / "link").symlink_to("build/x/reports")
    with pytest.raises(UserError, match="separate folder") as caught:
        check_folders(folders(**changed), project, SUBFOLDERS)
    assert all(f"folders.{key}" in str(caught.value) for key in named)


def test_folder_in_an_unused_part_of_another_is_accepted(project: Path) -> None:
    check_folders(folders(data="build/x", logs="build/x/artifacts/logs"), project, SUBFOLDERS)
