"""The direction of imports: no package imports one that stands above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ppml"
LAYERS = (
    ("errors", "contract", "project", "randomness", "aggregation_parameters"),
    ("io", "example_draws"),
    ("system_errors", "ipc"),
    ("jobs",),
    ("config",),
    ("models", "data", "accounting"),
    ("mechanism", "preflight", "learning", "aggregation"),
    ("proofs", "federation", "encrypted_inference"),
    ("training", "reference_training"),
    ("auditing",),
    ("results",),
    ("reporting",),
    ("stages",),
    ("api", "pipeline"),
    ("command",),
)
"""Packages and modules of the package, the lowest first; those of one layer may import each other in one direction."""
PLACE = {name: place for place, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> Iterator[str]:
    """Yield the packages and modules of ``ppml`` that a file imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    ignored = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in ignored:
            names = [node.module]
        elif isinstance(node, ast.Import) and id(node) not in ignored:
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("ppml."))


def edges() -> dict[tuple[str, str], str]:
    """Return each pair of an importing and an imported package, with a file that has the import."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "__init__":
            found.update({(parts[0], name): str(path) for name in imports(path) if name != parts[0]})
    return found


def test_every_package_has_a_layer() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names - {"__init__"} == set(PLACE)


def test_no_package_imports_upwards() -> None:
    upwards = {pair: file for pair, file in edges().items() if PLACE[pair[1]] > PLACE[pair[0]]}
    assert not upwards


def test_packages_import_each_other_in_one_direction() -> None:
    pairs = edges().keys()
    assert not {pair for pair in pairs if pair[::-1] in pairs}


@pytest.mark.parametrize("text", ["import ppml.pipeline.plan", "from ppml.pipeline import plan"])
def test_an_upward_import_is_found(text: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(f"def late():\n    {text}\n")
    assert list(imports(planted)) == ["pipeline"]
