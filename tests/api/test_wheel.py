"""The wheel: its content, and its use without the packages of the extras."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import RealData
from tests.workflow.project import ROOT

from .conftest import Run

OF_EXTRAS = (
    *(
        "snakemake",
        "snakemake_interface_common",
        "dvc",
        "flwr",
        "ray",
        "tenseal",
        "zstandard",
        "sklearn",
        "pyarrow",
        "yaml",
    ),
    *("pandas", "matplotlib", "seaborn", "pygments", "pytest", "kymatio", "cyclonedx"),
)
"""Modules of the packages that the base installation lacks."""
WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder
class Base(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in {OF_EXTRAS} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Base
sys.argv[0] = "ppml"
"""
COMMAND = f"{WITHOUT_EXTRAS}from ppml.command.main import main; main()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "tree/src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=folder / "tree", check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Return the folder of an installed wheel."""
    folder = wheel.with_name("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(installed: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the wheel and without this checkout: -S leaves out the editable installation."""
    path = os.pathsep.join([str(installed), sysconfig.get_paths()["purelib"]])
    command = [sys.executable, "-S", "-P", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_wheel_has_all_modules_and_the_mark_of_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")} <= names
    assert "ppml/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "config"))]
    assert points.split() == ["[console_scripts]", "ppml", "=", "ppml.command.main:main"]


def test_base_installation_loads_and_predicts(
    installed: Path, runs: dict[str, Run], real_data: RealData, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", real_data.test.inputs[:2])
    done = python(installed, "-c", COMMAND, "predict", runs["dp"].folder, "images.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["images.npy[0]", "images.npy[1]"]
    assert done.stderr.startswith("privacy: epsilon ")


def test_base_installation_accounts_clips_and_aggregates(installed: Path, tmp_path: Path) -> None:
    code = f"""{WITHOUT_EXTRAS}
import ppml, torch
assert ppml.__file__.startswith({str(installed)!r})
print(ppml.account(sample_rate=0.01, noise_multiplier=1.0, steps=100).accountant)
print(len(ppml.clip(torch.nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1]))))
print([float(ppml.aggregate([[1.0], [2.0]], name).values[0]) for name in ("plaintext", "secret_sharing", "masking")])
try:
    ppml.aggregate([[1.0], [2.0]], "ckks")
except ppml.UserError as error:
    print(error)
"""
    done = python(installed, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accountant, parameters, sums, refused = done.stdout.splitlines()
    assert (accountant in ("pld", "prv"), parameters, sums) == (True, "6", "[3.0, 3.0, 3.0]")
    assert "ppml-comparison[he]" in refused


def test_command_of_workflow_names_its_extra(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "Snakefile").touch()
    (tmp_path / "src/ppml").mkdir(parents=True)
    done = python(installed, "-c", COMMAND, "status", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "ppml-comparison[workflow]" in done.stderr
