"""The stages of this project, run on small data in one process that records their imports."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ppml.config.load import parse_config
from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.plan import Plan
from ppml.pipeline.stages import OVERVIEW, STAGES
from tests.workflow.project import ROOT

CONFIG = """
seeds: [0]
data: {dataset: digits, train: 60, test: 30}
audit: {kind: canary, steps: 64}
partitions: {halves: {kind: iid, clients: 2}}
arms:
  plain: {training: {epochs: 1, batch_size: 20}}
  independent:
    extends: plain
    topology: {kind: independent, partition: halves}
    privacy: {kind: example, noise_multiplier: 1.5, accountant: rdp}
  federated:
    extends: plain
    topology: {kind: federated, partition: halves, rounds: 1}
  private:
    extends: federated
    privacy: {kind: example, noise_multiplier: 1.5, accountant: rdp}
    aggregation: {kind: ckks}
  transformed:
    extends: plain
    transforms: [{kind: scattering, components: 20, strokes: 30}]
    model: linear
  encrypted:
    extends: plain
    model: logistic
    inference: {kind: ckks, images: 4, single_images: 1}
experiments:
  both:
    title: Both
    arms: [plain, private, encrypted]
    tables: [published, audit, inference]
    figures: [labels, audit]
    compare: [{published: private-ai/1/ml-only, arm: plain}]
"""
TRACED = """
import builtins, importlib, json, sys, threading

given, written = sys.argv[1:]
original_import, original_import_module = builtins.__import__, importlib.import_module
imports, calls = set(), set()


def ours(name):
    return name.partition(".")[0] == "ppml"


def record_import(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if ours(importer):
        assert level == 0
        imports.update((importer, target) for target in (name, *(f"{name}.{part}" for part in fromlist or ())))
    return original_import(name, globals, locals, fromlist, level)


def record_import_module(name, package=None):
    imports.add((sys._getframe(1).f_globals["__name__"], name))
    return original_import_module(name, package)


def record_call(frame, event, argument):
    caller = frame.f_back
    if event == "call" and caller and frame.f_globals.get("__name__", "").startswith("ppml.config."):
        calls.add((caller.f_globals.get("__name__", ""), frame.f_code.co_qualname))


with open(given) as file:
    content = json.load(file)
# The slow modules are imported once for all stages, before calls are recorded.
for name in content["preload"]:
    importlib.import_module(name)
builtins.__import__, importlib.import_module = record_import, record_import_module
traces = []
for stage, *arguments in content["jobs"]:
    # Each stage imports the code again, as in a new process.
    for name in [name for name in sys.modules if ours(name)]:
        del sys.modules[name]
    imports.clear()
    calls.clear()
    from ppml.jobs.runner import run_stage

    threading.setprofile(record_call)
    sys.setprofile(record_call)
    run_stage(stage, arguments)
    sys.setprofile(None)
    threading.setprofile(None)
    loaded = [name for name in sys.modules if ours(name)]
    traces.append({"loaded": loaded, "imports": list(imports), "calls": list(calls)})
with open(written, "w") as file:
    json.dump(traces, file)
"""


@dataclass(frozen=True)
class Traced:
    """The imports and calls of one job.

    Parameters
    ----------
    stage : str
        The stage.
    stamp : CodeDigest
        The parts of its code digest.
    loaded : set of str
        The modules of this project in the process after the job.
    imports : set of tuple
        Importer and target: a module, or a name in a module.
    calls : set of tuple
        Caller, and the called function of ``ppml.config``.
    """

    stage: str
    stamp: CodeDigest
    loaded: set[str]
    imports: set[tuple[str, str]]
    calls: set[tuple[str, str]]

    def reached(self) -> set[str]:
        """Return the modules that the stage imported, directly or not, except by the configuration."""
        return self._reached(
            [f"ppml.stages.{self.stage}", "ppml.jobs.threads"], through=lambda name: not is_settings(name)
        )

    def reached_by_settings(self) -> set[str]:
        """Return the modules that the configuration imported, directly or not."""
        return self._reached(filter(is_settings, self.loaded), through=lambda name: True)

    def _reached(self, starts: Iterable[str], through: Callable[[str], bool]) -> set[str]:
        found: set[str] = set()
        waiting = list(starts)
        while waiting:
            name = waiting.pop()
            # The import of a module runs the packages above it.
            waiting += [name.rpartition(".")[0]] if "." in name else []
            if name in self.loaded and name not in found and through(name):
                found.add(name)
                waiting += [target for importer, target in self.imports if importer == name]
        return found

    def packages(self) -> set[str]:
        """Return the packages of third parties that these modules imported."""
        reached = self.reached()
        tops = {target.partition(".")[0] for importer, target in self.imports if importer in reached}
        return tops - sys.stdlib_module_names - {"ppml"}


def is_settings(name: str) -> bool:
    return name == "ppml.config" or name.startswith("ppml.config.")


def run_traced(folder: Path) -> dict[str, Traced]:
    """Run every job but fetch, from the data to the report, in one process, and return its trace by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        plan = Plan(parse_config(yaml.safe_load(CONFIG), "CONFIG"), None)
        patch.chdir(folder)
        jobs = [job for job in plan.jobs(*STAGES, OVERVIEW) if job.stage.name != "fetch"]
        content = {
            "preload": sorted({name for stage in STAGES for name in stage.preload}),
            "jobs": [shlex.split(job.arguments()) for job in jobs],
        }
    (folder / "jobs.json").write_text(json.dumps(content))
    command = [sys.executable, "-c", TRACED, "jobs.json", "traces.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    traces = json.loads((folder / "traces.json").read_text())
    return {
        " ".join([job.stage.name, *(job.key[name] for name in ("arm", "kind") if name in job.key)]): Traced(
            stage=job.stage.name,
            stamp=plan.digests.made[job.digest],
            loaded=set(trace["loaded"]),
            imports={(importer, target) for importer, target in trace["imports"]},
            calls={(caller, function) for caller, function in trace["calls"]},
        )
        for job, trace in zip(jobs, traces, strict=True)
    }
