"""One source of pins: pyproject.toml names the packages, the lock files their versions."""

import re
import sys
import tomllib
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.locks import Entry, entries
from tests.workflow.project import ROOT

FILE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = FILE["project"]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
WANTED = [
    wanted
    for wanted in (*map(Requirement, PROJECT["dependencies"]), *(one for extra in EXTRAS.values() for one in extra))
    if wanted.name != PROJECT["name"]
]
LOCKS = {name: entries(f"{name}.lock") for name in ("requirements", "build", "sdists")}
LOCKED: dict[str, set[Version]] = {}
for requirement, _ in LOCKS["requirements"]:
    LOCKED.setdefault(canonicalize_name(requirement.name), set()).add(Version(str(requirement.specifier)[2:]))


def unfixed(locked: list[Entry]) -> list[str]:
    """Return the entries without an exact version and hashes."""
    return [
        str(requirement)
        for requirement, hashes in locked
        if not re.fullmatch(r"==[^,*]+", str(requirement.specifier))
        or requirement.url
        or not hashes
        or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)
    ]


def test_lock_is_read_completely():
    assert len(LOCKED) > 100


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_lock_contains_the_requirements_of_the_project(wanted):
    versions = LOCKED[canonicalize_name(wanted.name)]
    assert all(wanted.specifier.contains(version) for version in versions)
    pinned = [Version(part.version) for part in wanted.specifier if part.operator == "=="]
    assert not pinned or versions == set(pinned)


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_of_a_lock_is_exact_and_has_hashes(name):
    assert not unfixed(LOCKS[name])


@pytest.mark.parametrize(
    ("requirement", "hashes"),
    [
        ("numpy>=2.1", {"sha256:" + 64 * "0"}),
        ("numpy==2.*", {"sha256:" + 64 * "0"}),
        ("numpy", {"sha256:" + 64 * "0"}),
        ("numpy @ https://example.org/numpy.whl", {"sha256:" + 64 * "0"}),
        ("numpy==2.4.6", set()),
        ("numpy==2.4.6", {"md5:" + 32 * "0"}),
        ("numpy==2.4.6", {"sha256:" + 64 * "0", "sha256:12"}),
    ],
)
def test_incomplete_entry_is_found(requirement, hashes):
    assert unfixed([Entry(Requirement(requirement), frozenset(hashes))])


def test_platform_has_one_version_of_a_package():
    # Markers of one package exclude each other on every Python and system with wheels.
    for version, system, machine in product(range(11, 15), ("linux", "darwin"), ("x86_64", "aarch64", "arm64")):
        place = {
            **default_environment(),
            "python_version": f"3.{version}",
            "python_full_version": f"3.{version}.0",
            "sys_platform": system,
            "platform_machine": machine,
        }
        there = [
            canonicalize_name(entry.requirement.name)
            for entry in LOCKS["requirements"]
            if not entry.requirement.marker or entry.requirement.marker.evaluate(place)
        ]
        assert len(there) == len(set(there))


def test_build_tools_are_pinned():
    groups = {name: [Requirement(text) for text in FILE["dependency-groups"][name]] for name in ("build", "sdists")}
    for name, wanted in groups.items():
        locked = {canonicalize_name(entry.requirement.name): entry for entry in LOCKS[name]}
        assert {canonicalize_name(one.name) for one in wanted} <= set(locked)
        for one in wanted:
            assert one.specifier.contains(str(locked[one.name].requirement.specifier)[2:])
    # The build requirements of this package are in the lock.
    assert {Requirement(text).name for text in FILE["build-system"]["requires"]} <= {
        entry.requirement.name for entry in LOCKS["build"]
    }


def test_locks_agree_on_versions_and_hashes():
    hashes = {(one.requirement.name, str(one.requirement.specifier)): one.hashes for one in LOCKS["requirements"]}
    for name in ("build", "sdists"):
        for requirement, own in LOCKS[name]:
            if requirement.name != "pip":
                assert hashes[requirement.name, str(requirement.specifier)] == own, requirement


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="an environment that `make` has not made")
def test_packages_without_wheels_were_built_by_the_pinned_tools():
    from importlib.metadata import distribution

    tools = {entry.requirement.name: str(entry.requirement.specifier)[2:] for entry in LOCKS["build"]}
    for requirement, _ in LOCKS["sdists"]:
        if not requirement.marker or requirement.marker.evaluate():
            said = distribution(requirement.name).read_text("WHEEL") or ""
            assert f"Generator: setuptools ({tools['setuptools']})" in said, requirement


def test_extra_dev_has_every_other_extra():
    # The lock is resolved for this extra.
    whole = {name for one in (*EXTRAS["dev"], *EXTRAS["all"]) if one.name == PROJECT["name"] for name in one.extras}
    assert whole == set(EXTRAS) - {"dev"}


def test_application_chooses_versions():
    # Formatters and checkers alone have one version.
    exact = {one.name for one in WANTED if any(part.operator == "==" for part in one.specifier)}
    assert exact == {"ruff", "snakefmt", "mypy"}


def test_torch_and_torchvision_are_the_pair_built_for_each_other():
    assert (LOCKED["torch"], LOCKED["torchvision"]) == ({Version("2.14.1")}, {Version("0.29.1")})


def test_conda_environment_takes_wheels_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, *others, rest = environment["dependencies"]
    assert python == f"python {PROJECT['requires-python']}"
    assert pip.startswith("pip ")
    assert rest == {"pip": ["--require-hashes", "--only-binary=:all:", "-r requirements.lock"]}
    of_conda = {"antlr4-python3-runtime": "antlr-python-runtime", "connection-pool": "connection_pool"}
    assert others == [
        f"{of_conda.get(one.name, one.name)} {one.specifier}"
        for one in (entry.requirement for entry in LOCKS["sdists"])
    ]


def test_python_versions_are_3_11_to_3_14():
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    assert (3, 11) <= sys.version_info[:2] <= (3, 14)


def test_installed_pins_are_those_of_the_lock():
    from importlib.metadata import version

    for name in ("torch", "torchvision", "pydantic", "snakemake", "flwr", "tenseal", "opacus", "safetensors"):
        assert Version(version(name)).public in {one.public for one in LOCKED[name]}, name
