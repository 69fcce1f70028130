"""A small workflow of five rules, with records and a record book, and its plan."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.job_status import JobRecords
from ppml.pipeline.tracked_jobs import TrackedJob
from tests.workflow.preloaded import run_python
from tests.workflow.project import ROOT

PATHS = f"import sys\n\nsys.path[:0] = {[str(ROOT)]}\n"
SNAKEFILE = """import shlex
import sys

from ppml.pipeline.rule_inputs import RuleInputs
from tests.workflow.small import SmallPlan

plan = SmallPlan.read()
records = plan.records()
inputs = RuleInputs(workflow, checkpoints, records, lambda: None)


def of(pattern):
    return lambda wildcards: inputs.mark_inputs(pattern.format(**wildcards), plan.inputs[pattern.format(**wildcards)])


def job(command):
    return f"{shlex.quote(sys.executable)} -m tests.workflow.small_job {{output}} '{command}'"


onsuccess:
    records.save_book()


rule all:
    input:
        lambda wildcards: inputs.targets([path for job in records.jobs if job.required for path in job.outputs]),


rule data:
    input:
        unpack(of("data/data.txt")),
    output:
        "data/data.txt",
    shell:
        job("echo data >> ran.txt; cp {input.source} {output}")


rule calibrate:
    input:
        unpack(of("runs/{arm}/seed{seed}/noise.json")),
    output:
        "runs/{arm}/seed{seed}/noise.json",
    shell:
        job("echo calibrate {wildcards.arm} {wildcards.seed} >> ran.txt; echo noise > {output}")


rule train:
    input:
        unpack(of("runs/{arm}/seed{seed}/model.txt")),
    output:
        model="runs/{arm}/seed{seed}/model.txt",
        cost="runs/{arm}/seed{seed}/cost.txt",
    shell:
        job(
            "echo train {wildcards.arm} {wildcards.seed} >> ran.txt; cat {input.data} {input.noise} > {output.model}; "
            "echo seed {wildcards.seed} >> {output.model}; date +%s%N > {output.cost}"
        )


rule predict:
    input:
        unpack(of("runs/{arm}/seed{seed}/predictions.txt")),
    output:
        "runs/{arm}/seed{seed}/predictions.txt",
    shell:
        job("echo predict {wildcards.arm} {wildcards.seed} >> ran.txt; cp {input.model} {output}")


rule collect:
    input:
        unpack(of("reports/table.txt")),
    output:
        plan.every_run("record.txt"),
        table="reports/table.txt",
    shell:
        job("echo collect >> ran.txt; for file in {output}; do cat {input.runs} > $file; done")
"""
OPTIONS = ("--nolock", "--drop-metadata", "--ignore-incomplete", "--rerun-triggers", "mtime")
"""The options of profiles/default."""
SEEDS = (0, 1)
SETTINGS = {
    "arms": {"private": '{"epochs":1}', "alone": '{"epochs":2}'},
    "specs": {"data": '{"n":3}', "calibrate": '{"noise":1}', "predict": '{"device":"cpu"}', "collect": "[1]"},
    "digest": "0123456789abcdef",
    "note": "",
}


class SmallPlan:
    """The plan of the small workflow, by ``settings.json``."""

    def __init__(self, settings: dict) -> None:
        self.arms, self.specs, self.digest = settings["arms"], settings["specs"], settings["digest"]
        self.note = settings["note"]
        self.commands = settings.get("commands", {})
        self.public = settings.get("public", True)
        self.top, self.partitioned = settings.get("top", ""), settings.get("partitioned", False)
        self.inputs: dict[str, dict] = {}
        self.code = {self.digest: CodeDigest({"ppml.stages.train": self.digest}, {"torch": "2.14.1"})}

    @classmethod
    def read(cls) -> SmallPlan:
        return cls(json.loads(Path("settings.json").read_text()))

    def records(self) -> JobRecords:
        """Return the jobs and their records."""
        book = Path("reports/provenance.json")
        return JobRecords(self.jobs(), book, public=self.public, code=self.code)

    def outputs(self) -> list[str]:
        return [path for job in self.jobs() for path in job.outputs]

    def every_run(self, *names: str) -> list[str]:
        return [f"{self.top}runs/{arm}/seed{seed}/{name}" for arm in self.arms for seed in SEEDS for name in names]

    def jobs(self) -> list[TrackedJob]:
        jobs = [self._job("data", self.specs["data"], {"source": "source.txt"}, ["data/data.txt"], required=False)]
        partition = [f"{self.top}partitions/half.txt"] if self.partitioned else []
        if partition:
            jobs.append(self._job("partition", "{}", {"data": "data/data.txt"}, partition, required=False))
        for arm, spec in self.arms.items():
            for seed in SEEDS:
                wildcards = {"arm": arm, "seed": str(seed)}
                folder = f"{self.top}runs/{arm}/seed{seed}"
                noise = [f"{folder}/noise.json"] if "private" in arm else []
                data = {"data": "data/data.txt"}
                if noise:
                    jobs.append(self._job("calibrate", self.specs["calibrate"], data, noise, **wildcards))
                files = [f"{folder}/model.txt", f"{folder}/cost.txt"]
                inputs = {**data, "noise": noise, "partition": partition}
                jobs.append(self._job("train", spec, inputs, files, **wildcards))
                files, model = [f"{folder}/predictions.txt"], {"model": f"{folder}/model.txt"}
                jobs.append(self._job("predict", self.specs["predict"], model, files, **wildcards))
        runs = {"runs": self.every_run("predictions.txt", "cost.txt")}
        outputs = [*self.every_run("record.txt"), "reports/table.txt"]
        jobs.append(self._job("collect", self.specs["collect"], runs, outputs, 'It\'s a "title"', self.note))
        return jobs

    def _job(
        self,
        rule: str,
        spec: str,
        inputs: dict,
        outputs: list[str],
        *texts: str,
        required: bool = True,
        **wildcards: str,
    ) -> TrackedJob:
        params = tuple(sorted([spec, self.digest, *texts], key=repr))
        command = self.commands.get(rule, f"the command of {rule}")
        self.inputs.update(dict.fromkeys(outputs, inputs))
        paths = [path for value in inputs.values() for path in ([value] if isinstance(value, str) else value)]
        return TrackedJob(rule, command, params, tuple(paths), tuple(outputs), wildcards, rule, required)


class Small:
    """The small workflow in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> Small:
        """Create the workflow in an empty folder, and run it."""
        self = cls(folder)
        (folder / "Snakefile").write_text(PATHS + SNAKEFILE)
        (folder / "source.txt").write_text("numbers\n")
        self.set(**SETTINGS)
        self.run()
        return self

    def copy(self, folder: Path) -> Small:
        """Return a copy with the times of files."""
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2)
        return Small(folder)

    def set(self, **changes: object) -> None:
        path = self.folder / "settings.json"
        settings = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**settings, **changes}))

    def run(self, *options: str) -> list[str]:
        """Run the workflow and return the jobs that ran."""
        status, output = self.snakemake(*OPTIONS, *options)
        assert status == 0, output
        return self.ran()

    def snakemake(self, *options: str) -> tuple[int, str]:
        """Run Snakemake, and return its status and its messages."""
        (self.folder / "ran.txt").write_text("")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return run_python(["-m", "snakemake", "--cores", "1", *options], self.folder, environment)

    def ran(self) -> list[str]:
        """Return the jobs of the last run."""
        return sorted((self.folder / "ran.txt").read_text().splitlines())
