"""A code digest changes with the pins of imported packages, and not with the file of the modules' digests."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml.pipeline.code_digest import CodeDigest, read_pins
from tests.workflow.code_tree import NUMPY, TRAIN, Tree
from tests.workflow.project import ROOT

# --- pins ------------------------------------------------------------------------------------------------------------


def test_pins_are_those_of_imported_packages(tree: Tree) -> None:
    always = {"numpy": NUMPY, "pyyaml": "6.0.3", "torch": "2.14.1"}
    assert tree.pins() == tree.pins("Alone") == always
    assert tree.pins("Together") == {**always, "flwr": "1.41.0"}
    assert tree.pins("Noisy", "Together") == {**always, "flwr": "1.41.0", "opacus": "1.6.0"}


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("torch[all]==2.14.1", "torch[all]==2.14.2", {"Alone", "Together"}),
        ("torch[all]==2.14.1", "torch==2.14.1", set()),
        ("PyYAML==6.0.3", "pyyaml==6.0.4", {"Alone", "Together"}),
        ("PyYAML==6.0.3", "pyyaml==6.0.3", set()),
        ("numpy==2.5.5", "numpy==2.5.6", {"Alone", "Together"}),
        ("< '3.12'", "< '3.13'", {"Alone", "Together"}),
        ("flwr==1.41.0", "flwr==1.42.0", {"Together"}),
        ("pandas==3.1.1", "pandas==3.1.2", set()),
        ("sha256:05", "sha256:06", set()),
        ("    --hash=sha256:02\n", "", set()),
        ("# via torch==0.0.1", "# via torch==0.0.2", set()),
        ("# made by hand", "# made by uv", set()),
    ],
)
def test_pin_changes_digests_of_jobs_that_import_package(tree: Tree, old: str, new: str, stale: set[str]) -> None:
    before = {name: tree.text(name) for name in ("Alone", "Together")}
    tree.replace("requirements.lock", old, new)
    assert {name for name in before if tree.text(name) != before[name]} == stale


@pytest.mark.parametrize(
    ("package", "name"),
    [("yaml", "PyYAML"), ("sklearn.base", "scikit-learn"), ("pydantic_core", "pydantic-core"), ("IPython", "ipython")],
)
def test_package_is_found_by_name_of_distribution(tree: Tree, package: str, name: str) -> None:
    tree.lock.write_text(f"{name}==1.2.3\n")
    tree.write("stages/lone.py", f"import {package}\n")
    assert tree.pins(stage="lone") == {name.lower(): "1.2.3"}


def test_package_without_pin_is_named(tree: Tree) -> None:
    tree.replace("requirements.lock", "opacus==1.6.0\n", "")
    tree.text("Alone")
    with pytest.raises(KeyError, match="opacus, which has no line in the lock file"):
        tree.text("Noisy")


def test_pins_of_all_computed_digests_are_listed(tree: Tree) -> None:
    digests = tree.digests()
    assert digests.pins() == {} == digests.by_text
    first, second = digests.of("train", ("Noisy",)), digests.of("other", ())
    assert digests.by_text == {first.text: first, second.text: second}
    assert digests.pins() == {**first.pins, "pandas": "3.1.1"}


def test_all_lines_of_lock_file_are_read() -> None:
    pins = read_pins(ROOT / "requirements.lock")
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if re.match(r"[^\s#]", line)]
    assert sum(len(pin.split(" | ")) for pin in pins.values()) == len(lines) > 100
    assert all(re.match(r"\d\S*( ; \S.*)?$", pin) and "\\" not in pin for pin in pins.values())


# --- the file with the digests of modules ---------------------------------------------------------------------------


@pytest.fixture
def cached(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[CodeDigest, int]]:
    """Return a function that computes a digest with the file, and counts the parsed modules."""
    parsed: list[str | bytes] = []
    parse = ast.parse

    def count(source: str | bytes) -> ast.Module:
        parsed.append(source)
        return parse(source)

    def compute() -> tuple[CodeDigest, int]:
        parsed.clear()
        digests = tree.digests(cache=tmp_path / "code.json")
        found = digests.of("train", ("Together",))
        digests.save()
        return found, len(parsed)

    monkeypatch.setattr(ast, "parse", count)
    return compute


def test_only_changed_modules_are_parsed_again(tree: Tree, cached: Callable[[], tuple[CodeDigest, int]]) -> None:
    first, parsed = cached()
    assert parsed > 5 and first == tree.digests().of("train", ("Together",))
    assert cached() == (first, 0)
    tree.replace(TRAIN, "RATE = 0.5", "RATE = 0.25")
    changed, parsed = cached()
    assert parsed == 1 and changed == tree.digests().of("train", ("Together",)) != first


DAMAGES = {
    "no JSON": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "another version": lambda text: text.replace('"version":"', '"version":"0'),
    "no modules": lambda text: re.sub(r'"modules":.*,"version"', '"modules":7,"version"', text),
    "an entry is null": lambda text: re.sub(r":\[", ':null,"x":[', text, count=1),
    "entries are texts": lambda text: re.sub(r'\["(\w+)",\[.*?\],\[.*?\]\]', r'"\1"', text),
    "entries have two parts": lambda text: re.sub(r",\[[^\[\]]*\]\]", "]", text),
    "digests are numbers": lambda text: re.sub(r'\["\w+",', "[7,", text),
    "imports are numbers": lambda text: re.sub(r"\[\]", "[7]", text),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_of_modules_is_computed_again(
    tmp_path: Path, cached: Callable[[], tuple[CodeDigest, int]], damage: Callable[[str], str]
) -> None:
    first, _ = cached()
    file = tmp_path / "code.json"
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    found, parsed = cached()
    assert found == first and parsed > 0
    assert file.read_text() == text
