"""The bill of materials contains every pin of the lock with its hashes, and always has the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from ppml.errors import UserError
from ppml.pipeline.sbom import check_bom, main, make_bom, read_lock
from tests.locks import entries

ONE, TWO = "1" * 64, "2" * 64
LOCK = f"""# made by hand
packaging==25.0 \\
    --hash=sha256:{ONE} \\
    --hash=sha256:{TWO}
    # via
    #   demo (pyproject.toml)
    #   wheel
numpy==0.0.1 ; python_full_version < '3.12' \\
    --hash=sha256:{ONE}
    # via demo (pyproject.toml)
numpy==0.0.2 ; python_full_version >= '3.12' \\
    --hash=sha256:{TWO}
    # via demo (pyproject.toml)
wheel[test]==0.0.1 \\
    --hash=sha256:{ONE}
    # via demo (pyproject.toml)
"""
PROJECT = '[project]\nname = "demo"\nversion = "1.2"\ndescription = "A demonstration."\nlicense = "MIT"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


def bom_of(folder: Path) -> dict[str, Any]:
    return json.loads(make_bom(folder / "requirements.lock", folder / "pyproject.toml"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the bill of materials of this project from the command, which checks it against the schema."""
    path = tmp_path_factory.mktemp("sbom") / "new folder" / "sbom.cdx.json"
    main([str(path)])
    return json.loads(path.read_text(encoding="utf-8"))


def test_bom_contains_every_pin_with_version_and_hashes(whole: dict[str, Any]) -> None:
    locked = Counter(
        (canonicalize_name(one.requirement.name), str(one.requirement.specifier)[2:], one.hashes)
        for one in entries("requirements.lock")
    )
    billed = Counter(
        (
            one["name"],
            one["version"],
            frozenset(
                f"{digest['alg'].replace('-', '').lower()}:{digest['content']}"
                for reference in one["externalReferences"]
                for digest in reference["hashes"]
            ),
        )
        for one in whole["components"]
    )
    assert billed == locked
    assert billed.total() > 200


def test_bom_contains_root_licences_and_dependencies(whole: dict[str, Any]) -> None:
    root = whole["metadata"]["component"]
    assert (root["name"], root["version"], root["licenses"][0]["license"]["id"]) == ("ppml-comparison", "1.1.0", "MIT")
    requires = {one["ref"]: set(one.get("dependsOn", ())) for one in whole["dependencies"]}
    assert "flwr==1.41.0" in requires["ppml-comparison"]
    assert "antlr4-python3-runtime==4.9.3" in requires["omegaconf==2.3.1"] - requires["ppml-comparison"]
    # The project or another component requires each component.
    assert {one["bom-ref"] for one in whole["components"]} == set.union(*requires.values())
    licensed = {one["name"]: one["licenses"] for one in whole["components"] if "licenses" in one}
    assert licensed["tenseal"][0]["license"]["id"] == "Apache-2.0"
    assert "BSD-3-Clause" in licensed["numpy"][0]["expression"]
    assert "Apache-2.0" in licensed["torch"][0]["expression"]
    assert len(licensed) > 0.9 * len(whole["components"])


def test_bom_does_not_depend_on_order_of_sets(folder: Path) -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", "import sys; from pathlib import Path; from ppml.pipeline.sbom import make_bom; "
             "sys.stdout.write(make_bom(*map(Path, sys.argv[1:])))",
             str(folder / "requirements.lock"), str(folder / "pyproject.toml")],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert outputs[0] == outputs[1] == make_bom(folder / "requirements.lock", folder / "pyproject.toml").encode()


def test_bom_has_markers_and_serial_number_of_content(folder: Path) -> None:
    bom = bom_of(folder)
    markers = {one["version"]: one["properties"] for one in bom["components"] if one["name"] == "numpy"}
    assert markers["0.0.2"] == [{"name": "ppml:marker", "value": 'python_full_version >= "3.12"'}]
    requires = {one["ref"]: one.get("dependsOn", []) for one in bom["dependencies"]}
    assert requires["demo"] == ["numpy==0.0.1", "numpy==0.0.2", "packaging==25.0", "wheel==0.0.1"]
    assert requires["wheel==0.0.1"] == ["packaging==25.0"]
    # Only the installed version has a licence.
    assert not any("licenses" in one for one in bom["components"] if one["name"] != "packaging")
    assert "timestamp" not in bom["metadata"]
    (folder / "requirements.lock").write_text(LOCK.replace(TWO, "3" * 64))
    assert bom_of(folder)["serialNumber"] != bom["serialNumber"]


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=2",
        "numpy==2.*",
        "numpy",
        f"numpy==2 \\\n    --hash=md5:{'1' * 32}",
        "numpy==2 \\\n    --hash=sha256:12",
        "a b",
    ],
)
def test_inexact_pin_is_refused(folder: Path, line: str) -> None:
    extra = "" if "hash" in line else f" \\\n    --hash=sha256:{ONE}"
    (folder / "requirements.lock").write_text(LOCK + line + extra + "\n")
    with pytest.raises(UserError, match=str(folder / "requirements.lock")):
        read_lock(folder / "requirements.lock")


def test_invalid_bom_is_refused(folder: Path) -> None:
    bom = bom_of(folder)
    bom["components"][0]["externalReferences"][0]["hashes"][0]["content"] = "no digest"
    with pytest.raises(UserError, match="CycloneDX"):
        check_bom(json.dumps(bom))
    del bom["components"][0]
    check_bom(json.dumps(bom))
