"""One source of pins: pyproject.toml says what, requirements.lock which, environment.yml reads the lock."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]


def locked_entries():
    """Return each entry of the lock as its requirement and its hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [
        line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    return [(Requirement(line.split(" --hash=", 1)[0].strip()), re.findall(r"--hash=(\S+)", line)) for line in lines]


ENTRIES = locked_entries()
LOCKED: dict[str, set[Version]] = {}
for requirement, _ in ENTRIES:
    LOCKED.setdefault(canonicalize_name(requirement.name), set()).add(Version(str(requirement.specifier)[2:]))


def test_lock_was_read_whole():
    assert len(LOCKED) > 100


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_lock_has_what_the_project_asks_for(wanted):
    versions = LOCKED[canonicalize_name(wanted.name)]
    assert all(wanted.specifier.contains(version) for version in versions)
    pinned = [Version(part.version) for part in wanted.specifier if part.operator == "=="]
    assert not pinned or versions == set(pinned)


def test_every_entry_of_the_lock_is_exact_and_has_hashes():
    for requirement, hashes in ENTRIES:
        assert str(requirement.specifier).startswith("=="), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


def test_torch_and_torchvision_are_the_pair_built_for_each_other():
    assert (LOCKED["torch"], LOCKED["torchvision"]) == ({Version("2.14.1")}, {Version("0.29.1")})


def test_conda_environment_takes_everything_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, rest = environment["dependencies"]
    assert python == f"python {PROJECT['requires-python']}"
    assert pip.startswith("pip ")
    assert rest == {"pip": ["--require-hashes", "-r requirements.lock"]}


def test_python_versions_are_3_11_to_3_14():
    assert PROJECT["requires-python"] == ">=3.11,<3.15"


def test_installed_pins_are_those_of_the_lock():
    from importlib.metadata import version

    for name in ("torch", "torchvision", "pydantic", "snakemake", "flwr", "tenseal", "opacus", "safetensors"):
        assert Version(version(name)).public in {one.public for one in LOCKED[name]}, name
