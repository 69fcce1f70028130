"""Mistakes of a user give one message without traceback, an exit status other than 0, and no incomplete file."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from ppml.config.load import load_config
from tests.workflow.project import MIRROR, Project

CONFIG = "config/smoke.yaml"
needs_mirror = pytest.mark.skipif(not MIRROR.exists(), reason="the local mirror is missing")


def run_and_fail(project: Project, *parts: str, target: str = "all") -> str:
    """Run a project, check that its error contains ``parts``, and return the output."""
    status, output = project.run(target)
    assert status != 0, output
    assert "Traceback" not in output
    for part in parts:
        assert part in output
    return output


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("seeds:", "sedes:", ("unknown key 'sedes'", "did you mean 'seeds'")),
        ("clients: 4}", "clients: 4000}", ("partitions.iid4.clients", "4000", "at most 1200")),
        ("seeds:", "device: cuda\nseeds:", ("device: got cuda", ": cpu")),
    ],
)
def test_invalid_configuration_is_refused_before_first_job(
    tmp_path: Path, old: str, new: str, parts: tuple[str, ...]
) -> None:
    project = Project(tmp_path)
    project.replace(CONFIG, old, new)
    output = run_and_fail(project, "error: config/smoke.yaml" if "device" not in new else "error: device", *parts)
    assert len([line for line in output.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "build").exists()


def test_missing_source_and_fallback_are_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path).without_data()
    project.replace(CONFIG, "dataset: mnist,", "dataset: mnist, fallback: null,")
    run_and_fail(project, "error: data.dataset: no source has mnist", "data.fallback")
    assert not (tmp_path / "build").exists()


@needs_mirror
def test_damaged_data_file_is_named_with_both_checksums(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(MIRROR / "mnist", mirror / "mnist")
    file = mirror / "mnist" / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[100] ^= 1
    file.write_bytes(gzip.compress(bytes(content)))
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project").without_data()
    project.environment["PPML_DATA_MIRROR"] = str(mirror)
    output = run_and_fail(
        project, "train-labels-idx1-ubyte.gz", "MD5", "d53e105ee54ea40749a09fcbcd1e9432", "local mirror"
    )
    assert output.count("is published with") == 1
    assert not list((project.folder / "data/raw").rglob("train-labels*"))
    assert not list(project.folder.rglob("mnist-*/*"))
    config = load_config(project.folder / CONFIG)
    trained = {path.parents[1].name for path in (project.folder / "build").rglob("*.safetensors")}
    assert "mnist" not in map(config.dataset_of, trained)


@needs_mirror
def test_partition_with_empty_client_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.replace(CONFIG, "{kind: dirichlet, clients: 4, alpha: 0.5}", "{kind: dirichlet, clients: 60, alpha: 0.001}")
    target = "build/smoke/artifacts/runs/fl_dirichlet/seed0/model.safetensors"
    run_and_fail(project, "partitions.dirichlet4: dirichlet with 60 clients leaves client", target=target)
    assert not list((tmp_path / "build/smoke/artifacts").rglob("*.json"))


def test_file_in_place_of_output_folder_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("taken", "taken-digits"):  # the folders of the data set and of its fallback
        (tmp_path / name).write_text("")
    project.replace(CONFIG, "reports: build/smoke/reports", "reports: taken")
    run_and_fail(project, "error: folders.reports: taken", "cannot be made")


def test_large_delta_is_warned_of(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.replace(CONFIG, "delta: 1.0e-5", "delta: 0.01")
    output = project.complete("-n")
    assert "warning: arms.dp.privacy.delta: 0.01 is not below 1/n for n = 1200" in output


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist; configurations in config: adult.yaml, best.yaml, "), ("a: [", "is not valid YAML")],
)
@pytest.mark.parametrize("script", ["status", "html_report"])
def test_unreadable_configuration_is_one_line(tmp_path: Path, script: str, content: str | None, message: str) -> None:
    project = Project(tmp_path)
    if content is not None:
        (tmp_path / "config/mine.yaml").write_text(content)
    status, output = project.python("-m", f"ppml.pipeline.{script}", "--configfile", "config/mine.yaml")
    assert status == 1
    assert output.startswith(f"error: config/mine.yaml: {message}")
    assert len(output.splitlines()) == 1
