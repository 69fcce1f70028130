"""A small workflow of five rules, with the record book, and a plan that answers what the book asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from ppml.pipeline.code_digest import Stamp
from tests.workflow.project import ROOT

PATHS = f"import sys\n\nsys.path[:0] = {[str(ROOT)]}\n"
SNAKEFILE = """from ppml.pipeline.option_guard import guard
from ppml.pipeline.provenance import Provenance
from tests.workflow.small import SmallPlan

plan = SmallPlan.read()
provenance = Provenance(plan)


onsuccess:
    provenance.save()


rule all:
    input:
        [path for path in plan.outputs() if not path.startswith("data/")],


rule data:
    input:
        "source.txt",
    output:
        "data/data.txt",
    params:
        spec=plan.specs["data"],
        stamp=plan.stamp,
    shell:
        "echo data >> ran.txt; cp {input} {output}"


rule calibrate:
    input:
        "data/data.txt",
    output:
        "runs/{arm}/seed{seed}/noise.json",
    params:
        spec=lambda wildcards: plan.specs["calibrate"],
        stamp=plan.stamp,
    shell:
        "echo calibrate {wildcards.arm} {wildcards.seed} >> ran.txt; echo noise > {output}"


rule train:
    input:
        data="data/data.txt",
        noise=lambda wildcards: plan.noise_of(wildcards.arm, wildcards.seed),
    output:
        model="runs/{arm}/seed{seed}/model.txt",
        cost="runs/{arm}/seed{seed}/cost.txt",
    params:
        spec=lambda wildcards: plan.arms[wildcards.arm],
        stamp=plan.stamp,
    shell:
        "echo train {wildcards.arm} {wildcards.seed} >> ran.txt; cat {input} > {output.model}; "
        "echo seed {wildcards.seed} >> {output.model}; date +%s%N > {output.cost}"


rule predict:
    input:
        "runs/{arm}/seed{seed}/model.txt",
    output:
        "runs/{arm}/seed{seed}/predictions.txt",
    params:
        spec=lambda wildcards: plan.specs["predict"],
        stamp=plan.stamp,
    shell:
        "echo predict {wildcards.arm} {wildcards.seed} >> ran.txt; cp {input} {output}"


rule collect:
    input:
        plan.every_run("predictions.txt", "cost.txt"),
    output:
        plan.every_run("record.txt"),
        table="reports/table.txt",
    params:
        spec=plan.specs["collect"],
        stamp=plan.stamp,
        title="It's a \\"title\\"",
        note=plan.note,
    shell:
        "echo collect >> ran.txt; for file in {output}; do cat {input} > $file; done"


if workflow.is_main_process:
    provenance.reconcile({rule.name: rule.shellcmd for rule in workflow.rules})
    guard(workflow, provenance)
"""
SEEDS = (0, 1)
SETTINGS = {
    "arms": {"private": '{"epochs":1}', "alone": '{"epochs":2}'},
    "specs": {"data": '{"n":3}', "calibrate": '{"noise":1}', "predict": '{"device":"cpu"}', "collect": "[1]"},
    "stamp": "0123456789abcdef",
    "note": "",
}


class SmallPlan:
    """What the record book asks of a plan."""

    def __init__(self, settings: dict) -> None:
        self.reports = "reports"
        self.arms, self.specs, self.stamp = settings["arms"], settings["specs"], settings["stamp"]
        self.note = settings["note"]
        self.data_published = settings.get("data_published", True)
        self.stamps = SimpleNamespace(made={self.stamp: Stamp({"ppml.stages.train": self.stamp}, {"torch": "2.14.1"})})

    @classmethod
    def read(cls) -> SmallPlan:
        return cls(json.loads(Path("settings.json").read_text()))

    def every_run(self, *names: str) -> list[str]:
        return [f"runs/{arm}/seed{seed}/{name}" for arm in self.arms for seed in SEEDS for name in names]

    def noise_of(self, arm: str, seed: str | int) -> list[str]:
        return [f"runs/{arm}/seed{seed}/noise.json"] if "private" in arm else []

    def outputs(self) -> dict[str, frozenset[str]]:
        noise = [name for arm in self.arms for seed in SEEDS for name in self.noise_of(arm, seed)]
        made = {
            "data/data.txt": self.specs["data"],
            **dict.fromkeys(noise, self.specs["calibrate"]),
            **{name: spec for arm, spec in self.arms.items() for name in self._trained(arm)},
            **dict.fromkeys(self.every_run("predictions.txt"), self.specs["predict"]),
            **dict.fromkeys([*self.every_run("record.txt"), "reports/table.txt"], self.specs["collect"]),
        }
        return {name: frozenset([spec, self.stamp]) for name, spec in made.items()}

    def _trained(self, arm: str) -> list[str]:
        return [f"runs/{arm}/seed{seed}/{name}" for seed in SEEDS for name in ("model.txt", "cost.txt")]

    def trainings(self) -> dict[str, frozenset[str]]:
        return {
            f"runs/{arm}/seed{seed}": frozenset([spec, self.stamp]) for arm, spec in self.arms.items() for seed in SEEDS
        }


class Small:
    """The small workflow in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def first(cls, folder: Path) -> Small:
        """Make the workflow anew, and run it."""
        self = cls(folder)
        (folder / "Snakefile").write_text(PATHS + SNAKEFILE)
        (folder / "source.txt").write_text("numbers\n")
        self.set(**SETTINGS)
        self.run()
        return self

    def copy(self, folder: Path) -> Small:
        """Return a copy as it is now, times of files included."""
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2)
        return Small(folder)

    def set(self, **changes: object) -> None:
        path = self.folder / "settings.json"
        settings = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**settings, **changes}))

    def run(self) -> list[str]:
        """Run the workflow and return the jobs that ran."""
        ran = self.folder / "ran.txt"
        ran.write_text("")
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--max-checksum-file-size", "1TB", "--nolock"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
        return sorted(ran.read_text().splitlines())
