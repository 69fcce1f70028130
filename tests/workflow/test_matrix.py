"""The jobs after each kind of change, in a clone after a pull: exactly the jobs whose content has changed."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ppml.pipeline.job_status import NO_RECORD
from tests.workflow.project import DATASET, Project, jobs

SEEDS = ("0", "1")
ENCRYPTED = ("fl_he", "fl_dp_he")
DIGITS_CNNS = ("centralized", "dp", "local", "fl", "fl_shards", "fl_dirichlet", "fl_he", "fl_dp", "fl_dp_he")
INFERRING = ("encrypted",)
TABLE = ("table", "table_dp", "table_reference")
COLOUR = ("colour", "colour_dp")
CNNS = (*DIGITS_CNNS, *COLOUR)
ARMS = (*DIGITS_CNNS, *INFERRING, *TABLE, *COLOUR)
DIGITS_PRIVATE = ("dp", "fl_dp", "fl_dp_he")
PRIVATE = (*DIGITS_PRIVATE, "table_dp", "colour_dp")
TABLES = (
    *("table_summary techniques", "table_published techniques", "table_epsilon_interpretations techniques"),
    *("table_claims claims", "table_summary partitions", "table_audit audit"),
    *("table_inference inference", "table_headline techniques", "table_recommendations techniques"),
    *("table_summary table", "table_classes table", "table_summary colour"),
)
FIGURES = (
    *("figure_history techniques", "figure_privacy_utility techniques", "figure_cost techniques"),
    *("figure_epsilon techniques", "figure_loss claims", "figure_size claims", "figure_labels partitions"),
    *("figure_history partitions", "figure_audit audit", "figure_confusion table", "figure_predictions colour"),
)
REPORT = {"collect", *TABLES, *FIGURES}
MODEL = "artifacts/runs/fl/seed0/model.safetensors"
SOURCES = ("src", "workflow", "config", "profiles", "Snakefile", "requirements.lock", "environment.yml")


def trained(*arms: str, seeds: Iterable[str] = SEEDS) -> set[str]:
    """Return the jobs of a new training of arms."""
    encrypted = [arm for arm in arms if arm in INFERRING]
    return jobs(("train", "predict", "account"), arms, seeds) | inferred(*encrypted, seeds=seeds) | REPORT


def inferred(*arms: str, seeds: Iterable[str] = SEEDS) -> set[str]:
    """Return the jobs of a new encrypted prediction of arms."""
    return jobs(["infer"], arms, seeds) | REPORT


def audited(*arms: str) -> set[str]:
    """Return the jobs of a new audit of arms."""
    return jobs(["audit"], arms, ("0",)) | REPORT


EVERY_PARTITION = {
    f"partition {DATASET}/{name}/{seed}" for name in ("iid-4", "shards-4-2", "dirichlet-4-0.5") for seed in SEEDS
}
EVERYTHING_FROM_THE_DIGITS = (
    trained(*DIGITS_CNNS, *INFERRING)
    | EVERY_PARTITION
    | jobs(["calibrate"], DIGITS_PRIVATE, SEEDS)
    | audited(*DIGITS_PRIVATE)
    | {f"subset_{DATASET}"}
)
EVERYTHING_FROM_THE_SUBSETS = (
    EVERYTHING_FROM_THE_DIGITS
    | trained(*TABLE, *COLOUR)
    | jobs(["calibrate"], PRIVATE, SEEDS)
    | audited(*PRIVATE)
    | {"subset_breast_cancer", "subset_photo_patches"}
)


# --- a project, and a clone of it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(publisher: Project) -> Project:
    """Return a clone after a pull, without a source of raw data and with random times of files."""
    folder = publisher.folder.parent / "clone"
    publisher.git("clone", "-q", str(publisher.folder), str(folder))
    project = Project(folder, mirror=None, config=publisher.config)
    project.call("-m", "ppml.pipeline.pull")
    scatter_times(project)
    return project


def scatter_times(project: Project) -> None:
    """Set a different time of every result within a day, in a fixed random order."""
    paths = sorted(path for part in ("data", "artifacts", "reports") for path in (project.folder / part).rglob("*"))
    random.Random(0).shuffle(paths)
    newest = time.time() - 86_400
    for number, path in enumerate(paths):
        if path.is_file():
            os.utime(path, (newest - number, newest - number))


# --- changes --------------------------------------------------------------------------------------------------------


def settings(edit: Callable[[dict], object]) -> Callable[[Project], None]:  # type: ignore[type-arg]
    """Change the smoke configuration by its content."""

    def change(project: Project) -> None:
        file = project.folder / "config" / "smoke.yaml"
        content = yaml.safe_load(file.read_text())
        edit(content)
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    return change


def code(module: str) -> Callable[[Project], None]:
    """Add a statement to a module."""
    return lambda project: project.append(f"src/ppml/{module}", "\nPLANTED = 1\n")


def comments(project: Project) -> None:
    for path in (project.folder / "src").rglob("*.py"):
        path.write_text("# A comment.\n" + path.read_text() + "\n\n# Another one.\n")
    for path in (project.folder / "config").glob("*.yaml"):
        path.write_text("# A comment.\n" + path.read_text())


def formatting(project: Project) -> None:
    style = ("--config", "line-length = 70", "--config", "format.quote-style = 'single'")
    command = [sys.executable, "-m", "ruff", "format", "--isolated", *style, "src"]
    subprocess.run(command, cwd=project.folder, check=True, capture_output=True)
    assert "'" in (project.folder / "src/ppml/learning/dpsgd.py").read_text()


def pin(package: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        file = project.folder / "requirements.lock"
        text, found = re.subn(rf"(?m)^({package}==[0-9.]+)", r"\g<1>.post1", file.read_text())
        assert found
        file.write_text(text)

    return change


def damage(name: str) -> Callable[[Project], None]:
    """Change the bytes of a file, and neither its size nor its time."""

    def change(project: Project) -> None:
        path = project.folder / name
        before = path.stat()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def delete(name: str) -> Callable[[Project], None]:
    return lambda project: (project.folder / name).unlink()


def rename_arm(content: dict) -> None:  # type: ignore[type-arg]
    text = yaml.safe_dump(content["arms"], sort_keys=False)
    content["arms"] = yaml.safe_load(text.replace("fl_dp_he:", "everything:"))
    for experiment in content["experiments"].values():
        experiment["arms"] = ["everything" if arm == "fl_dp_he" else arm for arm in experiment["arms"]]


def use_own_folders(project: Project) -> None:
    """Set other folders of all results, as a configuration that extends another one does."""
    published = "artifacts: artifacts, reports: reports, logs: logs"
    own = "artifacts: build/own/artifacts, reports: build/own/reports, logs: build/own/logs"
    project.replace(project.config, published, own)


def rename_partition(content: dict) -> None:  # type: ignore[type-arg]
    content["partitions"]["equal"] = content["partitions"].pop("iid4")
    for arm in content["arms"].values():
        if arm.get("topology", {}).get("partition") == "iid4":
            arm["topology"]["partition"] = "equal"


def rename_experiment(content: dict) -> None:  # type: ignore[type-arg]
    content["experiments"]["owners"] = content["experiments"].pop("partitions")


OWNERS = {"table_summary owners", "figure_labels owners", "figure_history owners"}
STRICT = {"extends": "dp", "privacy": {"epsilon": 4.0}}


@dataclass(frozen=True)
class Case:
    """A change, and the jobs that it repeats.

    Jobs that depend on the result of a new calibration count as repeated.
    """

    change: Callable[[Project], object]
    expected: set[str]


CASES = {
    "nothing": Case(lambda project: None, set()),
    "comments": Case(comments, set()),
    "formatting": Case(formatting, set()),
    "a DP setting": Case(
        settings(lambda it: it["arms"]["fl_dp"]["training"].update(batch_size=60)),
        jobs(["calibrate"], ["fl_dp", "fl_dp_he"], SEEDS) | trained("fl_dp", "fl_dp_he") | audited("fl_dp", "fl_dp_he"),
    ),
    "a learning rate": Case(
        settings(lambda it: it["arms"]["dp"]["training"].update(learning_rate=3.0)),
        trained(*DIGITS_PRIVATE) | audited(*DIGITS_PRIVATE),
    ),
    "the title of an experiment": Case(
        settings(lambda it: it["experiments"]["partitions"].update(title="Owners")),
        {"table_summary partitions", "figure_labels partitions", "figure_history partitions"},
    ),
    "a label": Case(
        settings(lambda it: it["arms"]["fl_shards"].update(label="Shards")),
        {"table_summary partitions", "figure_labels partitions", "figure_history partitions"},
    ),
    "a published number": Case(
        lambda project: project.replace("config/published.yaml", "0.971", "0.972"),
        {
            *("table_published techniques", "table_headline techniques", "table_epsilon_interpretations techniques"),
            "figure_privacy_utility techniques",
        },
    ),
    "the HE module": Case(code("aggregation/ckks.py"), trained(*ENCRYPTED)),
    "the DP module": Case(code("learning/dpsgd.py"), trained(*PRIVATE) | audited(*PRIVATE)),
    "the audit's module": Case(code("auditing/canary.py"), audited(*PRIVATE)),
    "how audits are judged": Case(code("auditing/verdict.py"), REPORT),
    "the confidence of the audit": Case(settings(lambda it: it["audit"].update(confidence=0.95)), REPORT),
    "the steps of one audit": Case(settings(lambda it: it["audit"].update(steps_by_arm={"dp": 96})), audited("dp")),
    "no audit": Case(
        settings(lambda it: (it.pop("audit"), it["experiments"].pop("audit"))),
        REPORT - {"table_audit audit", "figure_audit audit"},
    ),
    # Encrypted prediction imports the square network, which imports the CNN.
    "the model module": Case(
        code("models/cnn.py"), trained(*CNNS) | audited(*DIGITS_PRIVATE, "colour_dp") | inferred(*INFERRING)
    ),
    "the module of encrypted prediction": Case(code("encrypted_inference/batch.py"), inferred(*INFERRING)),
    "how many encrypted images": Case(
        settings(lambda it: it["arms"]["encrypted"]["inference"].update(single_images=3)), inferred(*INFERRING)
    ),
    "the epochs of an arm with encrypted prediction": Case(
        settings(lambda it: it["arms"]["encrypted"]["training"].update(epochs=4)), trained("encrypted")
    ),
    "no encrypted prediction": Case(
        settings(lambda it: (it["arms"]["encrypted"].pop("inference"), it["experiments"].pop("inference"))),
        REPORT - {"table_inference inference"},
    ),
    "the accounting module": Case(
        code("accounting/epsilon.py"),
        jobs(["calibrate"], PRIVATE, SEEDS) | trained(*PRIVATE) | audited(*PRIVATE) | jobs(["account"], ARMS, SEEDS),
    ),
    "the module of a figure": Case(code("reporting/figure_cost.py"), {"figure_cost techniques"}),
    "where raw data come from": Case(
        settings(lambda it: it["data"].update(mirrors=["/elsewhere"], download=False)), set()
    ),
    "the configuration's code": Case(code("config/technique.py"), set()),
    "the pin of opacus": Case(
        pin("opacus"),
        jobs(["calibrate"], PRIVATE, SEEDS) | trained(*PRIVATE) | audited(*PRIVATE) | jobs(["account"], ARMS, SEEDS),
    ),
    "the pin of tenseal": Case(pin("tenseal"), trained(*ENCRYPTED) | inferred(*INFERRING)),
    "the pin of torch": Case(pin("torch"), EVERYTHING_FROM_THE_SUBSETS),
    "the pin of matplotlib": Case(pin("matplotlib"), {*FIGURES}),
    "the pin of a package without stage": Case(pin("snakemake"), set()),
    "raw data": Case(damage("data/raw/mnist/train-labels-idx1-ubyte.gz"), {"fetch_mnist"} | EVERYTHING_FROM_THE_DIGITS),
    "a seed added": Case(
        settings(lambda it: it.update(seeds=[0, 1, 2])),
        {job[:-1] + "2" for job in EVERY_PARTITION} | jobs(["calibrate"], PRIVATE, "2") | trained(*ARMS, seeds="2"),
    ),
    "an arm added": Case(
        settings(lambda it: it["arms"].update(dp_strict=STRICT)),
        jobs(["calibrate"], ["dp_strict"], SEEDS) | trained("dp_strict") | audited("dp_strict"),
    ),
    "an arm removed": Case(
        settings(lambda it: (it["arms"].pop("fl_dirichlet"), it["experiments"]["partitions"]["arms"].pop())), REPORT
    ),
    "an artifact deleted": Case(delete(MODEL), trained("fl", seeds="0")),
    "an artifact's bytes": Case(damage(MODEL), trained("fl", seeds="0")),
    "a figure deleted": Case(delete("reports/figures/techniques-cost.svg"), {"figure_cost techniques"}),
    "a table edited by hand": Case(
        lambda project: project.append("reports/tables/techniques-summary.md", "by hand\n"),
        {"table_summary techniques"},
    ),
    "an arm renamed": Case(settings(rename_arm), REPORT),
    "a partition renamed": Case(settings(rename_partition), set()),
    "an experiment renamed": Case(settings(rename_experiment), OWNERS),
    "other folders": Case(use_own_folders, REPORT),
}

COPIED = {
    "an arm renamed": [f"artifacts/runs/everything/seed{seed}/model.safetensors" for seed in SEEDS],
    "other folders": [f"build/own/artifacts/runs/{arm}/seed{seed}/events.json" for arm in ARMS for seed in SEEDS],
}
"""Cases with copies of equal runs, and a file of each copied run."""


@pytest.mark.parametrize("name", CASES)
def test_change_reruns_exactly_dependent_jobs(clone: Project, tmp_path: Path, name: str) -> None:
    """With times of the sources before, and after, those of all results."""
    if name == "raw data" and DATASET != "mnist":
        pytest.skip("without a mirror there are no raw data")
    project = clone.copy(tmp_path / "project")
    CASES[name].change(project)
    date_sources(project, time.time() - 365 * 86_400)
    if name in COPIED:
        # A real run copies the files, and a dry run does not: an existing target then needs no job.
        status, output = project.run(*COPIED[name])
        assert status == 0 and "nothing to be done" in output, output
    assert project.planned() == CASES[name].expected
    # The records know no times of sources.
    date_sources(project, time.time())
    assert project.dry_run() == CASES[name].expected


def date_sources(project: Project, moment: float) -> None:
    """Set the times of all sources."""
    for part in SOURCES:
        place = project.folder / part
        for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
            os.utime(path, (moment, moment))


LIST_PLAN = """
import json, sys
from ppml.pipeline.status import job_records, read_plan
jobs = job_records(read_plan([sys.argv[1]])).jobs
print(json.dumps([[job.name, job.params, job.outputs] for job in jobs]))
"""


def test_commands_contain_specification_and_digest(clone: Project) -> None:
    planned = clone.evaluate(LIST_PLAN)
    output = clone.complete("-n", "-F", "--printshellcmds")
    commands = dict(re.findall(r"^(\w+(?: \S.*)?)  \(.*\)\n    (.*)$", output, re.MULTILINE))
    commands = {re.sub(r"\bseed(?=-?\d+$)", "", name): command for name, command in commands.items()}
    assert commands.keys() == {name for name, *_ in planned}
    for name, params, outputs in planned:
        assert all(shlex.quote(param) in commands[name] for param in params), name
        assert outputs[-1] in commands[name], name


def test_clone_after_pull_has_no_job(clone: Project, publisher: Project) -> None:
    output = clone.complete()
    assert "nothing to be done" in output
    assert clone.files("data", "artifacts", "reports") == publisher.files("data", "artifacts", "reports")


def test_change_in_accounting_repeats_no_training(clone: Project, tmp_path: Path) -> None:
    """A new calibration with the same result repeats no job that depends on it."""
    project = clone.copy(tmp_path / "project")
    code("accounting/epsilon.py")(project)
    results = [f"seed{seed}/{name}" for seed in SEEDS for name in ("predictions.safetensors", "privacy.json")]
    targets = [f"artifacts/runs/dp/{result}" for result in (*results, "seed0/audit.json")]
    assert run_and_list(project, *targets) == jobs(["calibrate", "account"], ["dp"], SEEDS)
    assert project.files("artifacts") == clone.files("artifacts")
    stale = CASES["the accounting module"].expected - trained("dp") - audited("dp") - jobs(["calibrate"], ["dp"], SEEDS)
    assert project.planned() == stale | REPORT


def test_other_branch_is_noticed_without_its_artifacts(clone: Project, publisher: Project, tmp_path: Path) -> None:
    other = publisher.copy(tmp_path / "other")
    other.git("checkout", "-q", "-b", "other")
    change = CASES["the epochs of an arm with encrypted prediction"]
    change.change(other)
    assert run_and_list(other) == change.expected
    (tmp_path / "store").symlink_to(publisher.folder.parent / "store")
    other.publish()

    project = clone.copy(tmp_path / "project")
    project.git("fetch", "-q", str(other.folder), "other:other")
    project.git("checkout", "-q", "other")
    assert project.planned() == change.expected
    project.call("-m", "ppml.pipeline.pull")
    assert project.planned() == set()
    project.git("checkout", "-q", "main")
    assert project.planned() == change.expected


def run_and_list(project: Project, *targets: str) -> set[str]:
    """Run the workflow, or the jobs of some targets, and return the jobs that ran, by the times of their logs."""
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "logs").rglob("*.log")}
    project.complete(*targets)
    ran = [path for path in (project.folder / "logs").rglob("*.log") if before.get(path) != path.stat().st_mtime_ns]
    return {_job(path.relative_to(project.folder / "logs")) for path in ran}


def _job(log: Path) -> str:
    if log.parent.name in ("table", "figure"):
        experiment, _, kind = log.stem.partition("-")
        return f"{log.parent.name}_{kind} {experiment}"
    if log.parent == Path():
        return log.stem
    *words, seed = log.stem.split("-seed")
    return f"{log.parent.name} {words[0]}/{seed}"


def test_status_names_key_module_pin_and_data(clone: Project, tmp_path: Path) -> None:
    project = clone.copy(tmp_path / "project")
    *results, total = status_of(project).splitlines()
    assert total == "45 of 45 results are up to date"
    # The order is that of the configuration.
    assert [line.split()[1] for line in results if line.startswith("arm ")] == list(ARMS)
    for name in ("a learning rate", "the HE module", "the pin of matplotlib", "an artifact's bytes"):
        CASES[name].change(project)
    status = status_of(project)
    assert "arm.training.learning_rate 4.0 -> 3.0" in status
    assert "module ppml.aggregation.ckks" in status
    assert re.search(r"pin matplotlib \S+ -> \S+\.post1", status)
    assert f"{NO_RECORD} (train 0)" in status
    assert not list((project.folder / "logs").rglob("*.log"))


def status_of(project: Project) -> str:
    return project.call("-m", "ppml.pipeline.status", "--configfile", project.config)
