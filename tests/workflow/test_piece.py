"""A piece of the results: the runs of some arms, one table, one figure; unknown targets; the reasons of a dry run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from ppml.errors import UserError
from ppml.pipeline.piece import find_arms, find_reports, run_files
from ppml.pipeline.plan import Plan
from snakemake_logger_plugin_ppml import description
from tests.workflow.project import LIST_JOBS, ROOT, Project


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(ROOT)
    return Plan.check({"data": {"dataset": "digits"}}, ["config/smoke.yaml"])


@pytest.mark.parametrize("names", ["fl,dp", "fl dp", " fl, dp,"])
def test_arms_are_found(plan: Plan, names: str) -> None:
    assert find_arms(plan, names) == ["fl", "dp"]
    files = run_files(plan, ["fl", "dp"])
    assert {Path(file).parts[-3] for file in files} == {"fl", "dp"}
    assert {Path(file).name for file in files} >= {"model.safetensors", "privacy.json", "predictions.safetensors"}


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("figure", "techniques-privacy_utility", {"privacy_utility"}),
        ("figure", "techniques privacy_utility", {"privacy_utility"}),
        ("table", "techniques", {"summary", "published", "headline", "recommendations", "epsilon_interpretations"}),
    ],
)
def test_reports_are_found(plan: Plan, kind: str, name: str, found: set[str]) -> None:
    jobs = find_reports(plan, kind, name)  # type: ignore[arg-type]
    assert {job.key["kind"] for job in jobs} == found
    assert {job.key["experiment"] for job in jobs} == {"techniques"}


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [("arm", "fl_pd", "fl_dp"), ("figure", "technique-cost", "techniques-cost"), ("table", "zzz", ""), ("arm", "", "")],
)
def test_unknown_name_is_one_line_with_nearest_name(plan: Plan, kind: str, name: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        find_arms(plan, name) if kind == "arm" else find_reports(plan, kind, name)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and ("ARMS" if kind == "arm" else "NAME") in message
    assert repr(near) in message or not near


TARGETS = {"figure_cost": ["reports/figures/a-cost.svg", "reports/figures/b-cost.svg"], "collect": ["reports/a.csv"]}


@pytest.mark.parametrize(
    ("message", "arguments", "near"),
    [
        ("No rule to produce figure_kost (if you use input functions ...).", ["figure_kost"], "figure_cost"),
        ("No rule to produce reports/figure/b-cost.svg (if you use input ...).", [], "reports/figures/b-cost.svg"),
        ("Target rules may not contain wildcards. Please ...", ["-n", "figure_cost"], "reports/figures/a-cost.svg"),
        ("Another message", ["figure_cost"], ""),
    ],
)
def test_unknown_target_has_nearest_name(
    monkeypatch: pytest.MonkeyPatch, message: str, arguments: list[str], near: str
) -> None:
    monkeypatch.setattr(description.DESCRIPTION, "targets", lambda: TARGETS)
    line = description.target_error(message, arguments)
    assert near in line and "\n" not in line
    assert bool(line) is bool(near)


def test_one_arm_runs_without_the_others(publisher: Project, tmp_path: Path) -> None:
    project = publisher.copy(tmp_path / "copy")
    expected = pd.read_csv(project.folder / "reports/records.csv").set_index("arm")["accuracy_all"]
    for arm in ("fl", "dp"):
        (project.folder / f"artifacts/runs/{arm}/seed0/predictions.safetensors").unlink()
    before = project.files("reports")
    output = project.call("-m", "ppml.pipeline.piece", "only", "dp", "--configfile", project.config, "--cores", "1")
    assert re.search(r"^expected: 1 job,", output, re.MULTILINE), output
    assert (project.folder / "artifacts/runs/dp/seed0/predictions.safetensors").exists()
    assert not (project.folder / "artifacts/runs/fl/seed0/predictions.safetensors").exists()
    assert {name for name, sha256 in project.files("reports").items() if before[name] != sha256} <= {
        "reports/provenance.json"
    }
    line = output.splitlines()[-1]
    assert line.startswith("dp: ") and line.endswith("artifacts/runs/dp")
    assert f"{100 * expected['dp'].mean():.2f} %" in line
    # The noise of this arm is seeded: its epsilon does not hold towards the root seed in the configuration.
    assert "epsilon " in line and "readers of the configuration" in line


def test_dry_run_gives_reasons_and_copies_no_code(publisher: Project, tmp_path: Path) -> None:
    project = publisher.copy(tmp_path / "copy")
    project.replace("config/smoke.yaml", "epochs: 6, batch_size: 120", "epochs: 7, batch_size: 120")
    code = project.folder / ".snakemake/ppml/code"
    for path in sorted(code.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    output = project.complete("-n")
    reasons = dict(re.findall(r"^(\w+(?: \S+)?)  \((.*)\)$", output, re.MULTILINE))
    assert reasons["train dp/seed0"] == "arm.training.epochs 6 -> 7"
    assert reasons["predict dp/seed0"].startswith("follows arm dp")
    assert "train centralized/seed0" not in reasons
    assert re.search(r"^reasons: .*arm\.training\.epochs 6 -> 7 \(\d+ jobs\)", output, re.MULTILINE)
    found = re.search(r"^expected: (\d+) jobs, ", output, re.MULTILINE)
    assert found and int(found[1]) == len(project.evaluate(LIST_JOBS)), output
    assert not list(code.rglob("*.py"))


def test_use_as_module_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        f"module other:\n    snakefile: {json.dumps(str(ROOT / 'Snakefile'))}\n\nuse rule * from other as other_*\n"
    )
    project = Project(tmp_path)
    status, output = project.python("-m", "snakemake", "-n", "--cores", "1")
    assert status == 1 and "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "module" in lines[0] and "snakemake -s" in lines[0], output
