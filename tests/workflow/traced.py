"""The stages of this project, run on small data in one process that writes down what they import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ppml.config.load import parse_config
from ppml.pipeline.code_digest import Stamp
from ppml.pipeline.plan import RUN_FILES, Plan
from tests.workflow.project import ROOT

CONFIG = """
seeds: [0]
data: {dataset: digits, train: 60, test: 30}
audit: {kind: canary, steps: 64}
partitions: {halves: {kind: iid, clients: 2}}
arms:
  alone: {training: {epochs: 1, batch_size: 20}}
  apart:
    extends: alone
    topology: {kind: independent, partition: halves}
    privacy: {kind: example, noise_multiplier: 1.5, accountant: rdp}
  together:
    extends: alone
    topology: {kind: federated, partition: halves, rounds: 1}
  everything:
    extends: together
    privacy: {kind: example, noise_multiplier: 1.5, accountant: rdp}
    aggregation: {kind: ckks}
  whitened:
    extends: alone
    features: {kind: scattering, components: 20, strokes: 30}
    model: linear
  encrypted:
    extends: alone
    model: logistic
    inference: {kind: ckks, images: 4, single_images: 1}
experiments:
  both:
    title: Both
    arms: [alone, everything, encrypted]
    tables: [published, audit, inference]
    figures: [labels, audit]
    compare: [{published: private-ai/1/ml-only, arm: alone}]
"""
STAGES = ("calibrate", "audit", "train", "predict", "infer", "account")
SHOWN = ("records", "costs", "history", "audits", "inferences", "joint")
TRACED = """
import builtins, importlib, json, sys, threading

given, written = sys.argv[1:]
original_import, original_import_module = builtins.__import__, importlib.import_module
imports, calls = set(), set()


def ours(name):
    return name.partition(".")[0] == "ppml"


def noting_import(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if ours(importer):
        assert level == 0
        imports.update((importer, target) for target in (name, *(f"{name}.{part}" for part in fromlist or ())))
    return original_import(name, globals, locals, fromlist, level)


def noting_import_module(name, package=None):
    imports.add((sys._getframe(1).f_globals["__name__"], name))
    return original_import_module(name, package)


def note_call(frame, event, argument):
    caller = frame.f_back
    if event == "call" and caller and frame.f_globals.get("__name__", "").startswith("ppml.config."):
        calls.add((caller.f_globals.get("__name__", ""), frame.f_code.co_qualname))


from ppml.forkserver.preload import NEEDS

# Once for all stages, and before every call is looked at.
for name in {name for names in NEEDS.values() for name in names}:
    importlib.import_module(name)
builtins.__import__, importlib.import_module = noting_import, noting_import_module
traces = []
with open(given) as jobs:
    for stage, arguments in json.load(jobs):
        # Each stage reads the code anew, as in a process of its own.
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        imports.clear()
        calls.clear()
        from ppml.stages.runner import run_stage

        threading.setprofile(note_call)
        sys.setprofile(note_call)
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
    """What a stage did when it ran.

    Parameters
    ----------
    stage : str
        Its name.
    stamp : Stamp
        What it was to be made of.
    loaded : set of str
        The modules of this project that the process had in the end.
    imports : set of tuple
        Importer and what it imported: a module, or something in it.
    calls : set of tuple
        Caller and function of ``ppml.config`` that it called.
    """

    stage: str
    stamp: Stamp
    loaded: set[str]
    imports: set[tuple[str, str]]
    calls: set[tuple[str, str]]

    def reached(self) -> set[str]:
        """Return the modules that the stage reached, by whatever way but through the configuration."""
        return self._reached(
            [f"ppml.stages.{self.stage}", "ppml.stages.threads"], through=lambda name: not is_settings(name)
        )

    def reached_by_settings(self) -> set[str]:
        """Return the modules that came with the configuration."""
        return self._reached(filter(is_settings, self.loaded), through=lambda name: True)

    def _reached(self, starts: Iterable[str], through: Callable[[str], bool]) -> set[str]:
        found: set[str] = set()
        waiting = list(starts)
        while waiting:
            name = waiting.pop()
            # A module runs the packages that it lies in.
            waiting += [name.rpartition(".")[0]] if "." in name else []
            if name in self.loaded and name not in found and through(name):
                found.add(name)
                waiting += [target for importer, target in self.imports if importer == name]
        return found

    def packages(self) -> set[str]:
        """Return the packages of others that these modules imported."""
        reached = self.reached()
        tops = {target.partition(".")[0] for importer, target in self.imports if importer in reached}
        return tops - sys.stdlib_module_names - {"ppml"}


def is_settings(name: str) -> bool:
    return name == "ppml.config" or name.startswith("ppml.config.")


def options(**given: object) -> list[str]:
    """Return options as a command line has them; ``None`` and empty lists are left out."""
    parts = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        parts += [f"--{name.replace('_', '-')}", *map(str, values)] if values != [None] and value != [] else []
    return parts


def jobs(plan: Plan) -> Iterator[tuple[str, str, list[str]]]:
    """Yield every job from the data to the report: its name, the text of its stamp, and its options."""
    of = plan.stamps.of
    subset, tables, content = plan.subset_files("digits"), plan.collected(), plan.partition_content("halves")
    spec = plan.subset_spec("digits")
    yield "subset", of("subset", {"digits"}).text, [*options(spec=spec, **subset), "--raw"]
    (output,) = plan.partition_of("everything", 0)
    given = options(spec=plan.partition_spec(content), name="halves", seed=0, train=subset["train"], output=output)
    yield "partition", plan.partition_stamp("digits", content), given
    (whitened,) = plan.features()
    files = plan.features_files("digits", whitened)
    given = options(spec=plan.features_spec(whitened), train=subset["train"], test=subset["test"])
    outputs = {f"output_{part}": file for part, file in files.items()}
    yield "features", plan.features_stamp(whitened), given + options(**outputs)
    for arm in plan.config.arms:
        examples = plan.examples(arm)
        noise, owned = plan.noise_of(arm, 0), plan.partition_of(arm, 0)
        run = {Path(name).stem: plan.run(arm, 0, name) for name in RUN_FILES}
        stamps = {stage: plan.arm_stamp(stage, arm) for stage in STAGES}
        if noise:
            given = options(spec=plan.calibrate_spec(arm), about=subset["about"], partition=owned, output=noise)
            yield f"calibrate {arm}", stamps["calibrate"], given
            given = options(spec=plan.audit_spec(arm), seed=0, about=subset["about"], noise=noise)
            given += options(partition=owned, features=plan.audited_features(arm), output=plan.audit_of(arm, 0))
            yield f"audit {arm}", stamps["audit"], given
        given = options(
            spec=plan.arm_spec(arm), seed=0, **examples, partition=owned, noise=noise, stamp=0, progress="p"
        )
        outputs = {f"output_{name}": run[name] for name in ("model", "config", "history", "events", "cost")}
        yield f"train {arm}", stamps["train"], given + options(**outputs)
        given = options(spec=plan.predict_spec(arm), test=examples["test"], about=subset["about"], model=run["model"])
        yield f"predict {arm}", stamps["predict"], given + options(output=run["predictions"])
        if encrypted := plan.inference_of(arm, 0):
            given = options(spec=plan.inference_spec(arm), test=subset["test"], about=subset["about"])
            outputs = dict(zip(("output", "output_cost"), encrypted, strict=True))
            yield f"infer {arm}", stamps["infer"], given + options(model=run["model"], **outputs)
        given = options(spec=plan.account_spec(arm), events=run["events"], output=run["privacy"])
        yield f"account {arm}", stamps["account"], given
    outputs = {f"output_{name}": path for name, path in tables.items()}
    given = options(spec=plan.collect_spec(), **outputs, output_metrics=plan.metrics())
    yield "collect", of("collect").text, given
    for kind in plan.table_kinds():
        shown = {"spec": plan.show_spec("both"), "published": plan.published_spec("both", kind)}
        outputs = {f"output_{suffix}": f"{kind}.{suffix}" for suffix in ("md", "csv", "tex", "html")}
        given = options(**shown, kind=kind, **{name: tables[name] for name in SHOWN}, **outputs)
        yield f"table {kind}", of("table").text, given
    for kind in plan.figure_kinds():
        shown = {"spec": plan.show_spec("both"), "published": plan.published_spec("both", kind)}
        drawn = {name: file for name, file in tables.items() if name not in ("inferences", "joint")}
        given = options(**shown, kind=kind, **drawn, output_svg=f"{kind}.svg", output_png=f"{kind}.png")
        yield f"figure {kind}", of("figure").text, given
    pages = ROOT / "workflow/report"
    kinds = [entry["kind"] for entry in json.loads(plan.overview_spec())]
    given = options(captions=[pages / f"{kind}.rst" for kind in kinds], figures=[f"{kind}.svg" for kind in kinds])
    given += options(spec=plan.overview_spec(), intro=pages / "workflow.rst", output="overview.rst")
    yield "overview", of("overview").text, given


def run_traced(folder: Path) -> dict[str, Traced]:
    """Run every stage but fetch, from the data to the report, in one process, and return what each of them did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        plan = Plan(parse_config(yaml.safe_load(CONFIG), "CONFIG"), None)
        todo = list(jobs(plan))
    (folder / "jobs.json").write_text(json.dumps([(name.split()[0], given) for name, _, given in todo]))
    command = [sys.executable, "-c", TRACED, "jobs.json", "traces.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    traces = json.loads((folder / "traces.json").read_text())
    return {
        name: Traced(
            stage=name.split()[0],
            stamp=plan.stamps.made[stamp],
            loaded=set(trace["loaded"]),
            imports={(importer, target) for importer, target in trace["imports"]},
            calls={(caller, function) for caller, function in trace["calls"]},
        )
        for (name, stamp, _), trace in zip(todo, traces, strict=True)
    }
