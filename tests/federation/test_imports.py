"""Allowed imports of libraries, and Flower without telemetry."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"

ALLOWED = {
    "flwr": ("ppml/federation/",),
    "tenseal": ("ppml/aggregation/", "ppml/encrypted_inference/"),
    "opacus": ("ppml/learning/", "ppml/accounting/"),
    "snakemake": ("snakemake_logger_plugin_ppml/", "ppml/pipeline/"),
    "ppml.stages": ("ppml/stages/", "ppml/pipeline/", "ppml/api/"),
}
"""Library or package -> folders that may import it."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield all modules that ``tree`` imports, by a statement or by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(level=0):
                yield node.module or ""
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                yield from (
                    one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
                )


def forbidden_importers(root: Path, library: str, folders: tuple[str, ...]) -> list[str]:
    """Return the modules in ``root``, except in ``folders``, that import ``library``."""
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        if not place.startswith(folders) and any(
            name == library or name.startswith((f"{library}.", f"{library}_")) for name in names
        ):
            found.append(place)
    return found


@pytest.mark.parametrize("library", ALLOWED)
def test_only_allowed_folders_import_a_library(library):
    assert forbidden_importers(SOURCES, library, ALLOWED[library]) == []


@pytest.mark.parametrize(
    "line",
    [
        "import flwr",
        "import flwr.app as app",
        "from flwr.serverapp import Grid",
        "def late():\n    from flwr import app",
        "import importlib\nimportlib.import_module('flwr.app')",
        "__import__('flwr')",
    ],
)
def test_forbidden_import_is_detected(line, tmp_path):
    for folder in ("ppml/learning", "ppml/federation"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "module.py").write_text(line)
    assert forbidden_importers(tmp_path, "flwr", ("ppml/federation/",)) == ["ppml/learning/module.py"]


def run_code(code: str, **environment: str) -> str:
    """Run ``code`` in a new interpreter without any FLWR variable and return its output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLWR")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_configuration_loads_without_heavy_libraries():
    heavy = run_code(
        "import sys, ppml.config.load, ppml.preflight\n"
        "print(*sorted({'torch', 'torchvision', 'tenseal', 'opacus', 'flwr', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    assert heavy.split() == []


SHOW = "import os, ppml.federation.{}; print(*('='.join(pair) for pair in os.environ.items() if pair[0][:4] == 'FLWR'))"


@pytest.mark.parametrize("module", ["client", "run", "server"])
def test_flower_telemetry_is_off(module):
    shown = dict(pair.split("=", 1) for pair in run_code(SHOW.format(module)).split())
    assert shown["FLWR_TELEMETRY_ENABLED"] == "0"
    assert shown["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert shown["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert shown["FLWR_HOME"]


@pytest.mark.parametrize("path", sorted((SOURCES / "ppml" / "federation").rglob("*.py")), ids=lambda path: path.stem)
def test_modules_import_flower_env_before_flower(path):
    names = list(imported(ast.parse(path.read_text(encoding="utf-8"))))
    flower = [place for place, name in enumerate(names) if name.split(".")[0] == "flwr"]
    if flower:
        assert "ppml.federation.flower_env" in names[: flower[0]]


def test_flower_variables_of_the_user_are_kept():
    shown = run_code("import os, ppml.federation.flower_env; print(os.environ['FLWR_HOME'])", FLWR_HOME="chosen")
    assert shown.strip() == "chosen"
