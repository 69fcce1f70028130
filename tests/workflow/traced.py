"""Traces of the imports and calls of all stages on small data, in one process."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ppml.config.load import parse_config
from ppml.pipeline.code_digest import CodeDigest
from ppml.pipeline.plan import Plan
from ppml.pipeline.stages import PAGES, STAGES
from tests.workflow.project import ROOT

CONFIG = """
seeds: [0]
data:
  dataset: digits
  train: 60
  test: 30
  define:
    pictures:
      kind: folder
      folder: FOLDER/pictures
      shape: [1, 14, 14]
      classes: [dark, light]
      split: {kind: stratified, test: 0.25}
    people:
      kind: csv
      files: [FOLDER/people.csv]
      split: {kind: random}
      columns:
        age: {role: feature, low: 0, high: 100}
        site: {role: site, values: [a, b]}
        ill: {role: label, values: ["no", "yes"]}
audit: {kind: canary, steps: 64}
partitions: {halves: {kind: iid, clients: 2}, sites: {kind: natural, by: site}}
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
  similar:
    extends: plain
    transforms: [{kind: patches, patches: 30, components: 20, strokes: 30}]
    model: linear
  encrypted:
    extends: plain
    model: logistic
    inference: {kind: ckks, images: 4, single_images: 1}
  pictures:
    extends: plain
    dataset: pictures
  people:
    extends: federated
    dataset: people
    model: logistic
    topology: {partition: sites}
  reference:
    dataset: people
    model: random_forest
experiments:
  both:
    title: Both
    arms: [plain, private, encrypted]
    tables: [published, audit, inference]
    figures: [labels, audit]
    compare: [{published: private-ai/1/ml-only, arm: plain}]
"""
TRACER = """
import builtins, importlib, json, sys, threading

jobs_file, traces_file = sys.argv[1:]
original_import, original_import_module = builtins.__import__, importlib.import_module
imports, calls = set(), set()


def is_own(name):
    return name.partition(".")[0] == "ppml"


def record_import(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if is_own(importer):
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


with open(jobs_file) as file:
    content = json.load(file)
# Import the slow modules once for all stages, before the record of calls.
for name in content["preload"]:
    importlib.import_module(name)
builtins.__import__, importlib.import_module = record_import, record_import_module
traces = []
for stage, *arguments in content["jobs"]:
    # Each stage imports the code anew, as in a new process.
    for name in [name for name in sys.modules if is_own(name)]:
        del sys.modules[name]
    imports.clear()
    calls.clear()
    from ppml.jobs.runner import run_stage

    threading.setprofile(record_call)
    sys.setprofile(record_call)
    run_stage(stage, arguments)
    sys.setprofile(None)
    threading.setprofile(None)
    loaded = [name for name in sys.modules if is_own(name)]
    traces.append({"loaded": loaded, "imports": list(imports), "calls": list(calls)})
with open(traces_file, "w") as file:
    json.dump(traces, file)
"""


@dataclass(frozen=True)
class Trace:
    """The imports and calls of one job.

    Parameters
    ----------
    stage : str
        The stage.
    digest : CodeDigest
        The code digest.
    loaded : set of str
        The loaded modules of this project after the job.
    imports : set of tuple
        The importers, and the imported modules or names.
    calls : set of tuple
        The callers, and the called functions of ``ppml.config``.
    """

    stage: str
    digest: CodeDigest
    loaded: set[str]
    imports: set[tuple[str, str]]
    calls: set[tuple[str, str]]

    def imported_by_stage(self) -> set[str]:
        """Return the modules that the stage imported, directly or not, except by the configuration."""
        return self._follow_imports(
            [f"ppml.stages.{self.stage}", "ppml.jobs.threads"], through=lambda name: not is_settings(name)
        )

    def imported_by_configuration(self) -> set[str]:
        """Return the modules that the configuration imported, directly or not."""
        return self._follow_imports(filter(is_settings, self.loaded), through=lambda name: True)

    def _follow_imports(self, starts: Iterable[str], through: Callable[[str], bool]) -> set[str]:
        found: set[str] = set()
        waiting = list(starts)
        while waiting:
            name = waiting.pop()
            # The import of a module also imports its parent packages.
            waiting += [name.rpartition(".")[0]] if "." in name else []
            if name in self.loaded and name not in found and through(name):
                found.add(name)
                waiting += [target for importer, target in self.imports if importer == name]
        return found

    def packages(self) -> set[str]:
        """Return the third-party packages that these modules imported."""
        imported = self.imported_by_stage()
        tops = {target.partition(".")[0] for importer, target in self.imports if importer in imported}
        return tops - sys.stdlib_module_names - {"ppml"}


def is_settings(name: str) -> bool:
    return name == "ppml.config" or name.startswith("ppml.config.")


def write_data(folder: Path) -> None:
    """Write a folder of pictures, and a table."""
    rng = np.random.default_rng(0)
    for brightness, name in enumerate(("dark", "light")):
        (folder / "pictures" / name).mkdir(parents=True)
        for number, pixels in enumerate(rng.integers(0, 128, (40, 14, 14)) + 127 * brightness):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / name / f"{number}.png")
    rows = [f"{age},{'ab'[number % 2]},{'yes' if age > 50 else 'no'}" for number, age in enumerate(rng.permutation(80))]
    (folder / "people.csv").write_text("\n".join(["age,site,ill", *rows, ""]))


def trace_stages(folder: Path) -> dict[str, Trace]:
    """Run all jobs except fetch in one process, and return the trace of each by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        write_data(folder)
        plan = Plan(parse_config(yaml.safe_load(CONFIG.replace("FOLDER", str(folder))), "CONFIG"), None)
        patch.chdir(folder)
        jobs = [job for job in plan.jobs(*STAGES, *PAGES) if job.stage.name != "fetch"]
        content = {
            "preload": sorted({name for stage in (*STAGES, *PAGES) for name in stage.preload}),
            "jobs": [shlex.split(job.arguments()) for job in jobs],
        }
    (folder / "jobs.json").write_text(json.dumps(content))
    command = [sys.executable, "-c", TRACER, "jobs.json", "traces.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    traces = json.loads((folder / "traces.json").read_text())
    return {
        " ".join([job.stage.name, *(job.key[name] for name in ("dataset", "arm", "kind") if name in job.key)]): Trace(
            stage=job.stage.name,
            digest=plan.digests.by_text[job.digest],
            loaded=set(trace["loaded"]),
            imports={(importer, target) for importer, target in trace["imports"]},
            calls={(caller, function) for caller, function in trace["calls"]},
        )
        for job, trace in zip(jobs, traces, strict=True)
    }
