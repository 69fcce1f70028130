"""What a user gets for a mistake: one message, no traceback, a status that is not 0, nothing half-written."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from tests.workflow.project import MIRROR, Project

needs_mirror = pytest.mark.skipif(not MIRROR.exists(), reason="the local mirror is not there")


def change(project: Project, old: str, new: str) -> None:
    path = project.folder / "config/smoke.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refused(project: Project, *said: str, **how: str) -> str:
    status, output = project.run(**how)
    assert status != 0, output
    assert "Traceback" not in output
    for part in said:
        assert part in output
    return output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds:", "sedes:", ("unknown key 'sedes'", "did you mean 'seeds'")),
        ("rounds: 3", "rounds: three", ("arms.fl.topology.rounds", "'three'", "valid integer")),
        ("epsilon: 8.0", "epsilon: 0.0", ("arms.dp.privacy.epsilon", "0.0", "greater than 0")),
        ("clients: 4}", "clients: 4000}", ("partitions.iid4.clients", "4000", "at most 1200")),
        ("kind: ckks}", "kind: ckks, coeff_mod_bit_sizes: [60, 60]}", ("aggregation", "under 128 bits", "at most 109")),
        ("kind: ckks}", "kind: ckks, clip: 1.0e+6}", ("aggregation", "overflows", "4 clients")),
        ("seeds:", "device: cuda\nseeds:", ("device: got cuda", "allowed here: cpu")),
        ("data: {dataset: mnist,", "data: {dataset: mnits,", ("unknown data set 'mnits'", "mnist")),
    ],
)
def test_a_wrong_configuration_is_refused_before_the_first_job(
    tmp_path: Path, old: str, new: str, said: tuple[str, ...]
) -> None:
    project = Project(tmp_path)
    change(project, old, new)
    output = refused(project, "error: config/smoke.yaml" if "device" not in new else "error: device", *said)
    assert len([line for line in output.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "build").exists()


def test_no_source_and_no_fallback_is_one_line(tmp_path: Path) -> None:
    project = Project(tmp_path, mirror=None)
    change(project, "dataset: mnist,", "dataset: mnist, mirrors: [], download: false, fallback: null,")
    refused(project, "error: data.dataset: no source has mnist", "data.fallback is null")
    assert not (tmp_path / "build").exists()


@needs_mirror
@pytest.mark.parametrize("harm", ["truncated", "altered"])
def test_a_damaged_data_file_is_not_used_and_named_with_both_sums(tmp_path: Path, harm: str) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(MIRROR / "mnist", mirror / "mnist")
    file = mirror / "mnist" / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[100] ^= 1
    file.write_bytes(file.read_bytes()[:-100] if harm == "truncated" else gzip.compress(bytes(content)))
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", mirror=mirror)
    change(project, "dataset: mnist,", "dataset: mnist, mirrors: [], download: false,")
    output = refused(project, "train-labels-idx1-ubyte.gz", "MD5", "d53e105ee54ea40749a09fcbcd1e9432", "local mirror")
    assert output.count("is published with") == 1
    assert not list((project.folder / "data/raw").rglob("train-labels*"))
    assert not list((project.folder / "build").rglob("*.safetensors"))


def test_a_partition_that_leaves_a_client_empty_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    change(project, "{kind: dirichlet, clients: 4, alpha: 0.5}", "{kind: dirichlet, clients: 60, alpha: 0.001}")
    status, output = project.run("build/smoke/artifacts/runs/fl_dirichlet/seed0/model.safetensors")
    if "digits" in output:
        pytest.skip("the fallback keeps its artifacts elsewhere")
    assert status != 0
    assert "Traceback" not in output
    assert "partitions.dirichlet4: dirichlet with 60 clients leaves client" in output
    assert not list((tmp_path / "build/smoke/artifacts").rglob("*.json"))


def test_an_output_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("taken", "taken-digits"):  # the second is what the fallback makes of it
        (tmp_path / name).write_text("")
    change(project, "reports: build/smoke/reports", "reports: taken")
    refused(project, "error: folders.reports: taken", "cannot be made")


def test_a_delta_that_permits_publishing_a_record_is_warned_of(tmp_path: Path) -> None:
    project = Project(tmp_path)
    change(project, "delta: 1.0e-5", "delta: 0.01")
    status, output = project.run("-n")
    assert status == 0, output
    assert "warning: arms.dp.privacy.delta: 0.01 is not below 1/n for n = 1200" in output


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist; in config there are: best.yaml, "), ("a: [", "is not valid YAML")]
)
@pytest.mark.parametrize("script", ["status", "publish", "html_report"])
def test_a_configuration_that_cannot_be_read_is_one_line(
    tmp_path: Path, script: str, content: str | None, said: str
) -> None:
    project = Project(tmp_path)
    if content is not None:
        (tmp_path / "config/mine.yaml").write_text(content)
    status, output = project.python("-m", f"ppml.pipeline.{script}", "--configfile", "config/mine.yaml")
    assert status == 1
    assert output.startswith(f"error: config/mine.yaml: {said}")
    assert len(output.splitlines()) == 1
