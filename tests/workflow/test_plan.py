"""The plan: the arms of each table, jobs and their commands, and checks of folders."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from ppml.config.datasets import DATASETS, parse_dataset
from ppml.config.load import load_config
from ppml.config.transforms import Scattering
from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.jobs.job import Job
from ppml.pipeline.job_environment import require_shell_safe_paths, set_job_environment
from ppml.pipeline.plan import Plan
from ppml.pipeline.publish import require_public_data
from ppml.pipeline.published_configs import published_configurations
from ppml.pipeline.published_files import is_publishable, private_runs
from ppml.pipeline.stages import STAGE
from tests.workflow.project import ROOT


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(ROOT)
    return Plan(load_config(Path("config/smoke.yaml")), None)


def test_arms_of_every_table_are_composed(plan: Plan) -> None:
    together = plan.joint_arm_sets()
    techniques = plan.config.experiments["techniques"]
    compared = sorted({row.arm for row in techniques.compare if row.arm})
    assert sorted(techniques.arms) in together and compared in together
    (claims,) = (spec for spec in plan.config.experiments.values() if spec.claims)
    assert sorted({arm for claim in claims.claims for arm in claim.arms}) in together
    assert together == sorted(together) and len(together) == len({tuple(arms) for arms in together})


def test_names_of_experiments_change_no_composition(plan: Plan) -> None:
    renamed = {f"x-{name}": spec for name, spec in reversed(plan.config.experiments.items())}
    other = Plan(plan.config.model_copy(update={"experiments": renamed}), None)
    assert other.collect_spec() == plan.collect_spec()


def test_transform_job_depends_on_the_contract_of_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = Plan(load_config(Path("config/default.yaml")), None)
    jobs = {(job.key["dataset"], job.key["transform"]): job for job in plan.jobs() if job.stage.name == "transform"}
    assert {*jobs} == {*plan.transforms}
    specs = {key: job.spec for key, job in jobs.items()}
    for arm, settings in plan.config.arms.items():
        if settings.transforms:
            (place,) = (key for key, job in jobs.items() if job.outputs == plan.examples(arm))
            assert json.loads(specs[place])["contract"] == plan.config.contract_of(arm).to_json()
    # A change of the calculation runs the jobs again, in the same places.
    monkeypatch.setattr(Scattering, "output", lambda settings, contract: contract.features(settings.components + 2))
    changed = {
        (job.key["dataset"], job.key["transform"]): job
        for job in Plan(plan.config, None).jobs()
        if job.stage.name == "transform" and "scattering" in job.key["transform"]
    }
    assert changed and all(job.spec != specs[key] for key, job in changed.items())
    assert all(job.outputs == jobs[key].outputs for key, job in changed.items())


def test_private_data_are_not_published(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.public
    private = parse_dataset({**DATASETS["mnist"].to_json(), "redistributable": False})
    monkeypatch.setattr("ppml.config.model.DATASETS", {**DATASETS, "mnist": private})
    assert not plan.public
    with pytest.raises(UserError, match=r"own\.yaml .*mnist"):
        require_public_data(plan, "own.yaml")


@pytest.mark.parametrize(("public", "published"), [(True, True), (None, False), (False, False)])
def test_results_follow_the_key_public(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, public: bool | None, published: bool
) -> None:
    entry = parse_dataset({**DATASETS["mnist"].to_json(), "redistributable": False, "public": public})
    monkeypatch.setattr("ppml.config.model.DATASETS", {**DATASETS, "mnist": entry})
    assert plan.public is published


@pytest.mark.parametrize("path", published_configurations(ROOT))
def test_published_configuration_is_for_publishing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    require_public_data(Plan(load_config(Path(path)), None), path)


def test_pictures_that_may_not_be_passed_on_are_in_no_published_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(Path("config/cifar.yaml"))
    name, shown = next(iter(config.experiments.items()))
    figures = (*shown.figures, "predictions")
    experiments = {**config.experiments, name: shown.model_copy(update={"figures": figures})}
    changed = config.model_copy(update={"experiments": experiments})
    with pytest.raises(UserError, match=r"^own\.yaml .*pictures of cifar10_jpeg, .*remove the figure$"):
        require_public_data(Plan(changed, None), "own.yaml")


def test_results_of_public_data_are_published_without_their_files() -> None:
    kept = [name for name, spec in DATASETS.items() if spec.contract.public and not spec.redistributable]
    assert kept
    repo = Repo(str(ROOT))
    for name in kept:
        subset = f"{name}-100-100-first-test"
        files = [
            *(f"data/raw/{name}/{file}" for file in DATASETS[name].file_names),
            f"data/decoded/{name}/pictures.safetensors",
            f"data/subsets/{subset}/train.safetensors",
            f"data/transformed/{subset}/patches-1/train.safetensors",
        ]
        for file in files:
            assert not is_publishable(file) and repo.dvcignore.is_ignored(repo.fs, str(ROOT / file)), file
            other = file.replace(name, "mnist")
            assert not repo.dvcignore.is_ignored(repo.fs, str(ROOT / other)), other
        assert is_publishable(f"artifacts/partitions/{name}/iid-8/seed0.json")


def test_run_of_private_data_is_named_whatever_its_configuration(tmp_path: Path) -> None:
    contents = {
        "runs/fl/seed0": {"data": {"contract": {"public": True}}},
        "own/runs/public/seed0": {"data": {"contract": {"public": True}}},
    }
    for place, content in contents.items():
        write_json(tmp_path / "artifacts" / place / "config.json", content)
    assert private_runs(tmp_path) == []
    private = {
        "runs/clinic/seed0": {"data": {"contract": {"public": False}, "largest_unit": 7}},
        "own/runs/clinic/seed1": {"data": {"contract": {}}},
        "runs/old/seed2": [],
    }
    for place, content in private.items():
        write_json(tmp_path / "artifacts" / place / "config.json", content)
    assert private_runs(tmp_path) == sorted(f"artifacts/{one}" for one in private)


@pytest.mark.parametrize("name", ['a "b"', "a$b", "a`b`", "a\\b"])
def test_path_that_shell_changes_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    require_shell_safe_paths(executable="/usr/bin/it's python")
    with pytest.raises(SystemExit, match=r"^error: the path /opt/.* has ") as caught:
        require_shell_safe_paths(executable=f"/opt/{name}/python")
    assert "\n" not in str(caught.value)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(SystemExit, match=r"^error: the path "):
        require_shell_safe_paths(executable="/usr/bin/python3")


def test_folder_with_path_separator_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    monkeypatch.chdir(tmp_path / "a:b")
    with pytest.raises(UserError, match="move or rename the folder"):
        set_job_environment(main=True)
    assert list(Path().iterdir()) == []


def test_job_survives_its_command_line(plan: Plan) -> None:
    for planned in plan.jobs():
        stage, *options = shlex.split(planned.arguments(threads=2))
        job = Job.parse(options)
        assert stage == planned.stage.name and job.threads == 2 and job.digest == planned.digest
        assert job.spec == json.loads(planned.spec) and job.seed == int(planned.key.get("seed", 0))
        single = {name: Path(path) for name, path in planned.outputs.items() if isinstance(path, str)}
        assert job.outputs == single


@pytest.mark.parametrize("text", ["-a b", "it's", '"$x"', "`id`", "*", "~", "a\nb"])
def test_any_text_of_a_job_survives_a_shell(plan: Plan, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    partition = next(plan.jobs(STAGE["partition"]))
    monkeypatch.setattr(Plan, "partition_name", lambda self, content: text)
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {partition.arguments()}"], capture_output=True, text=True, check=True
    )
    _, *options, _ = printed.stdout.split("\0")
    assert Job.parse(options).notes == {"name": text}
