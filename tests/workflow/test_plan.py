"""What the plan says of the configuration: the arms of each table, and whether all data are published."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from pathlib import Path

import pytest

from ppml.config.load import load_config
from ppml.data.catalogue import CATALOGUE
from ppml.errors import UserError
from ppml.pipeline.plan import Plan, prepare_jobs
from ppml.pipeline.publish import require_published_folders
from tests.workflow.project import ROOT


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(ROOT)
    return Plan(load_config(Path("config/smoke.yaml")), None)


def test_the_arms_of_every_table_are_composed(plan: Plan) -> None:
    together = plan.shown_together()
    techniques = plan.config.experiments["techniques"]
    compared = sorted({row.arm for row in techniques.compare if row.arm})
    assert sorted(techniques.arms) in together and compared in together
    (claims,) = (spec for spec in plan.config.experiments.values() if spec.claims)
    assert sorted({arm for claim in claims.claims for arm in claim.arms}) in together
    assert together == sorted(together) and len(together) == len({tuple(arms) for arms in together})


def test_the_name_of_an_experiment_composes_nothing_anew(plan: Plan) -> None:
    renamed = {f"x-{name}": spec for name, spec in reversed(plan.config.experiments.items())}
    other = Plan(plan.config.model_copy(update={"experiments": renamed}), None)
    assert other.collect_spec() == plan.collect_spec()


def test_data_that_are_not_published_are_not_sent(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.data_published
    monkeypatch.setitem(CATALOGUE, "mnist", dataclasses.replace(CATALOGUE["mnist"], published=False))
    assert not plan.data_published
    monkeypatch.setattr(Plan, "check", lambda given, files: plan)
    with pytest.raises(UserError, match=r"own\.yaml is not for publishing: the data of mnist are not published"):
        require_published_folders(["own.yaml"])


@pytest.mark.parametrize("name", ['a "b"', "a$b", "a`b`", "a\\b"])
def test_a_path_that_a_submitted_job_cannot_be_given_is_refused_in_one_line(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    plan.check_passed_on(executable="/usr/bin/it's python")
    with pytest.raises(SystemExit, match=r"^error: the path /opt/.* holds ") as caught:
        plan.check_passed_on(executable=f"/opt/{name}/python")
    assert "\n" not in str(caught.value)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(SystemExit, match="cannot be given"):
        plan.check_passed_on(executable="/usr/bin/python3")


def test_a_folder_that_parts_the_search_path_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    monkeypatch.chdir(tmp_path / "a:b")
    with pytest.raises(UserError, match="move or rename the folder"):
        prepare_jobs(main=True)
    assert list(Path().iterdir()) == []


def test_a_file_is_one_word_of_a_command(plan: Plan) -> None:
    for file in ("-a b", "it's", '"$x"', "`id`", "*", "~"):
        for given in (file, [file]):
            command = plan.option("--noise", given)
            assert shlex.split(command) == ["--noise", file]
            told = subprocess.run(
                ["bash", "-c", f'printf "<%s>" {command}'], capture_output=True, text=True, check=True
            )
            assert told.stdout == f"<--noise><{file}>"
    assert plan.option("--noise", []) == ""
