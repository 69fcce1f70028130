"""The stages of the workflow, each declared once.

The rules of Snakemake, the command lines of jobs, their digests, the status and the list of published files follow from
this table. ``python -m ppml.pipeline.stages`` prints it. A new stage needs an entry in this table and a module
``ppml.stages.NAME`` with a function ``run(job)``; :mod:`ppml.results.tidy_files` declares its rows in tidy files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppml.config.technique import Plaintext
from ppml.pipeline import pages
from ppml.reporting.registry import Kind, figures, tables
from ppml.results.tidy_files import TIDY_FILES

if TYPE_CHECKING:
    from ppml.pipeline.plan import Plan

Key = Mapping[str, str]
"""The values of a job's wildcards by name, for instance ``{"arm": "fl", "seed": "0"}``."""
Files = Mapping[str, "str | list[str]"]
"""Paths by name; the specification of the job names the files of a list."""


# Groups of slow third-party modules; each job imports ``ppml`` anew.
SETTINGS = ("pydantic.main", "pydantic.fields", "pydantic.type_adapter", "pydantic.types", "yaml")
TORCH = ("torch", "safetensors.torch")
# Flower's settings come before its modules. The optimisers of torch import its compiler at their first step.
FLOWER = ("ppml.federation.flower_env", "flwr.app", "flwr.clientapp", "flwr.serverapp")
PRIVATE = ("torch._dynamo", "opacus", "opacus.optimizers")
# torchvision's networks import torch's compiler, as a training does anyway.
TRAINING = (*SETTINGS, *TORCH, *PRIVATE, "tenseal", *FLOWER, "torchvision.models.resnet")
ACCOUNTING = (*SETTINGS, "torch", "opacus.accountants", "scipy.stats", "dp_accounting.pld.privacy_loss_distribution")
TABLES = (*SETTINGS, "pandas", "scipy.stats")
FIGURES = (*TABLES, "seaborn", "matplotlib.backends.backend_svg")


@dataclass(frozen=True)
class Level:
    """The level of a stage: it has a job for each key."""

    wildcards: tuple[str, ...]
    """The wildcards of a job."""
    keys: Callable[[Plan], Sequence[Key]]
    """Plan -> keys of all jobs."""
    by_rule: tuple[str, ...] = ()
    """The wildcards with a rule for each value, whose inputs or outputs differ in more than a path."""
    result: str = "records"
    """The result that its jobs belong to, with the stage and the wildcards in braces."""


REPORT = "{stage} {experiment}-{kind}"
DATASET = Level(
    ("dataset",), lambda plan: [{"dataset": name} for name in plan.datasets()], ("dataset",), result="data {dataset}"
)
TRANSFORM = Level(("dataset", "transform"), lambda plan: plan.transform_keys(), result="transform {transform}")
PARTITION = Level(("dataset", "partition", "seed"), lambda plan: plan.partition_keys(), result="partition {partition}")
RUN = Level(
    ("arm", "seed"), lambda plan: [{"arm": arm, "seed": str(seed)} for arm, seed in plan.runs], result="arm {arm}"
)
PROJECT = Level((), lambda plan: [{}])
TABLE = Level(("experiment", "kind"), lambda plan: plan.report_keys("tables"), ("kind",), REPORT)
FIGURE = Level(("experiment", "kind"), lambda plan: plan.report_keys("figures"), ("kind",), REPORT)


@dataclass(frozen=True)
class Stage:
    """One stage of the workflow."""

    name: str
    """The name, and the module in :mod:`ppml.stages`."""
    level: Level
    """The level of its jobs."""
    outputs: Callable[[Plan, Key], Files]
    inputs: Callable[[Plan, Key], Files] = lambda plan, key: {}
    """Plan and key -> files of the job by name. The key of outputs can have wildcards such as ``{arm}`` as values."""
    spec: Callable[[Plan, Key], Any] = lambda plan, key: {}
    """Plan and key -> part of the configuration that the outputs depend on."""
    preload: tuple[str, ...] = ()
    """The slow modules, which the fork server imports once for all jobs."""
    when: Callable[[Plan, Key], bool] = lambda plan, key: True
    """Plan and key -> whether the stage has this job."""
    choices: Callable[[Plan, Key], set[str]] = lambda plan, key: plan.choices(key)
    """Plan and key -> names by which the job chooses code; its digest excludes all other choices."""
    modules: Callable[[Plan, Key], tuple[str, ...]] = lambda plan, key: ()
    """Plan and key -> modules that the job imports by a name of its specification."""
    notes: Callable[[Plan, Key], dict[str, Any]] = lambda plan, key: {}
    """Plan and key -> values that no output depends on."""
    threads: Callable[[Plan, Key], int] = lambda plan, key: 1
    """Plan and key -> number of processes for the work."""
    needs_noise: bool = False
    """Whether the stage follows the calibration of the arm."""

    def keys(self, plan: Plan) -> list[Key]:
        """Return the keys of its jobs."""
        return [key for key in self.level.keys(plan) if self.when(plan, key)]


class InRun:
    """The files of a stage in the folder of a run.

    Parameters
    ----------
    **names : str
        The file names by the names in the stage.
    """

    def __init__(self, **names: str) -> None:
        self.names = names

    def __call__(self, plan: Plan, key: Key) -> dict[str, str]:
        """Return the paths by name."""
        return {name: plan.paths.run(key["arm"], key["seed"], file) for name, file in self.names.items()}


MODEL = InRun(model="model.safetensors")


def _training_inputs(plan: Plan, key: Key) -> Files:
    return {**plan.examples(key["arm"]), **plan.partition_of(key), **plan.noise_of(key)}


def _audit_inputs(plan: Plan, key: Key) -> Files:
    files = plan.examples(key["arm"])
    # Without transforms the auditor makes its own examples, and reads no training data.
    chosen = ("train", "about") if plan.config.arms[key["arm"]].transforms else ("about",)
    own = {**{name: files[name] for name in chosen}, "source": plan.subset(key["arm"])["about"]}
    return {**own, **plan.partition_of(key), **plan.noise_of(key)}


def _collect_inputs(plan: Plan, key: Key) -> Files:
    """Return every file of the stages whose results are in a tidy file."""
    names = {stage for tidy in TIDY_FILES.values() for stage in tidy.stages}
    jobs = (job for job in plan.jobs() if job.stage.name in names)
    pictures = {file for key in RUN.keys(plan) if (file := plan.pictured(key))}
    return {"results": sorted({file for job in jobs for file in job.output_files()} | pictures)}


def _collect_outputs(plan: Plan, key: Key) -> Files:
    records = [plan.paths.run(arm, seed, "record.json") for arm, seed in plan.runs]
    return {
        "run_records": records,
        "metrics": [plan.paths.metrics(arm) for arm in dict.fromkeys(arm for arm, _ in plan.runs)],
        **{name: plan.paths.tidy(name) for name in TIDY_FILES},
    }


def _report_stage(
    name: str,
    level: Level,
    kinds: Callable[[], Mapping[str, Kind]],
    outputs: Callable[[Plan, Key], Files],
    preload: tuple[str, ...],
) -> Stage:
    return Stage(
        name,
        level,
        inputs=lambda plan, key: {tidy: plan.paths.tidy(tidy) for tidy in kinds()[key["kind"]].reads},
        outputs=outputs,
        spec=lambda plan, key: plan.report_spec(key["experiment"], kinds()[key["kind"]]),
        modules=lambda plan, key: (kinds()[key["kind"]].module,),
        preload=preload,
    )


STAGES = (
    Stage(
        "fetch",
        DATASET,
        outputs=lambda plan, key: plan.paths.raw(key["dataset"], plan.config.dataset(key["dataset"]).file_names),
        spec=lambda plan, key: {"dataset": key["dataset"], "source": plan.config.dataset(key["dataset"]).to_json()},
        # The files have checksums, so they do not depend on their source.
        notes=lambda plan, key: {"mirrors": plan.config.data.mirrors, "download": plan.config.data.download},
        when=lambda plan, key: bool(plan.config.dataset(key["dataset"]).file_names),
        preload=SETTINGS,
    ),
    Stage(
        "decode",
        DATASET,
        inputs=lambda plan, key: plan.files_of(key["dataset"]),
        outputs=lambda plan, key: {"decoded": plan.paths.decoded(key["dataset"])},
        spec=lambda plan, key: plan.decode_spec(key["dataset"]),
        notes=lambda plan, key: plan.picture_folder(key["dataset"]),
        when=lambda plan, key: plan.is_decoded(key["dataset"]),
        preload=(*SETTINGS, *TORCH),
    ),
    Stage(
        "subset",
        DATASET,
        inputs=lambda plan, key: plan.raw_inputs(key["dataset"]),
        outputs=lambda plan, key: plan.paths.subset(key["dataset"]),
        spec=lambda plan, key: plan.subset_spec(key["dataset"]),
        preload=(*SETTINGS, *TORCH),
    ),
    Stage(
        "transform",
        TRANSFORM,
        inputs=lambda plan, key: plan.before_transform(key["dataset"], key["transform"]),
        outputs=lambda plan, key: plan.paths.transformed(key["dataset"], key["transform"]),
        spec=lambda plan, key: plan.transform_spec(key["dataset"], key["transform"]),
        preload=(*SETTINGS, *TORCH),
    ),
    Stage(
        "partition",
        PARTITION,
        inputs=lambda plan, key: {name: plan.paths.subset(key["dataset"])[name] for name in ("train", "about")},
        outputs=lambda plan, key: {"partition": plan.paths.partition(key["dataset"], key["partition"], key["seed"])},
        spec=lambda plan, key: {
            "partition": plan.partitions[key["partition"]].to_json(),
            "root_seed": plan.config.seed,
        },
        notes=lambda plan, key: {"name": plan.partition_name(key["partition"])},
        preload=(*SETTINGS, "safetensors.numpy"),
    ),
    Stage(
        "calibrate",
        RUN,
        inputs=lambda plan, key: {"about": plan.subset(key["arm"])["about"], **plan.partition_of(key)},
        outputs=InRun(noise="noise.json"),
        spec=lambda plan, key: plan.calibrate_spec(key["arm"]),
        threads=lambda plan, key: plan.owner_processes(key["arm"]),
        when=lambda plan, key: plan.config.arms[key["arm"]].is_private,
        preload=ACCOUNTING,
    ),
    Stage(
        "train",
        RUN,
        inputs=_training_inputs,
        outputs=InRun(
            model="model.safetensors",
            config="config.json",
            history="history.csv",
            events="events.json",
            cost="cost.json",
        ),
        spec=lambda plan, key: plan.arm_spec(key["arm"]),
        preload=TRAINING,
        needs_noise=True,
    ),
    Stage(
        "predict",
        RUN,
        inputs=lambda plan, key: {
            **{name: plan.examples(key["arm"])[name] for name in ("test", "about")},
            **MODEL(plan, key),
        },
        outputs=InRun(predictions="predictions.safetensors"),
        spec=lambda plan, key: {"model": plan.config.arms[key["arm"]].model, "device": plan.config.device},
        preload=(*SETTINGS, *TORCH),
        needs_noise=True,
    ),
    Stage(
        "account",
        RUN,
        inputs=lambda plan, key: InRun(events="events.json")(plan, key),
        outputs=InRun(privacy="privacy.json"),
        spec=lambda plan, key: {"privacy": plan.technique(key["arm"])["privacy"]},
        threads=lambda plan, key: plan.owner_processes(key["arm"]),
        preload=ACCOUNTING,
        needs_noise=True,
    ),
    Stage(
        # An audit needs the claimed noise, and no trained model.
        "audit",
        RUN,
        inputs=_audit_inputs,
        outputs=InRun(audit="audit.json"),
        spec=lambda plan, key: {
            **plan.arm_spec(key["arm"]),
            "steps": plan.config.audit.steps_for(key["arm"]),
        },
        when=lambda plan, key: plan.is_audited(key),
        # An audit aggregates in plaintext, for any aggregation of the arm.
        choices=lambda plan, key: plan.choices(key, aggregation=Plaintext()),
        preload=(*SETTINGS, *TORCH, *PRIVATE, "scipy.stats"),
        needs_noise=True,
    ),
    Stage(
        "infer",
        RUN,
        inputs=lambda plan, key: {
            **{name: plan.subset(key["arm"])[name] for name in ("test", "about")},
            **MODEL(plan, key),
        },
        outputs=InRun(result="inference.json", cost="inference-cost.json"),
        spec=lambda plan, key: plan.inference_spec(key["arm"]),
        when=lambda plan, key: plan.config.arms[key["arm"]].predicts_encrypted,
        preload=(*SETTINGS, *TORCH, "tenseal"),
        needs_noise=True,
    ),
    Stage(
        "collect",
        PROJECT,
        inputs=_collect_inputs,
        outputs=_collect_outputs,
        spec=lambda plan, key: plan.collect_spec(),
        preload=(*SETTINGS, "pandas", "scipy.stats", "safetensors.numpy"),
    ),
    _report_stage(
        "table", TABLE, tables, lambda plan, key: plan.paths.table(key["experiment"], key["kind"]), preload=TABLES
    ),
    _report_stage(
        "figure", FIGURE, figures, lambda plan, key: plan.paths.figure(key["experiment"], key["kind"]), preload=FIGURES
    ),
)
STAGE = {stage.name: stage for stage in STAGES}
"""Stages by name."""
SUBFOLDERS = {
    "data": ("raw", "decoded", "subsets", "transformed"),
    "artifacts": ("partitions", "runs"),
    "reports": ("tables", "figures", "metrics"),
    "logs": tuple(STAGE),
}
"""The subfolders in each folder of the configuration."""
OVERVIEW = Stage(
    "overview",
    PROJECT,
    inputs=lambda plan, key: pages.overview_inputs(plan),
    outputs=lambda plan, key: {"overview": plan.paths.overview},
    spec=lambda plan, key: pages.overview_spec(plan),
    preload=("jinja2",),
)
"""The first page of Snakemake's report."""


def _page_stage(name: str, suffix: str, *preload: str) -> Stage:
    return Stage(
        name,
        PROJECT,
        inputs=lambda plan, key: pages.page_inputs(plan),
        outputs=lambda plan, key: {"page": plan.paths.page(suffix)},
        spec=lambda plan, key: pages.page_spec(plan),
        notes=lambda plan, key: pages.page_notes(plan),
        preload=(*TABLES, "jinja2", "matplotlib.markers", *preload),
    )


PAGES = (OVERVIEW, _page_stage("report", "html"), _page_stage("pdf", "pdf", "fpdf"))
"""The stages that combine tables and figures for readers. No result needs them, and each call makes them anew, since
they name the date."""


def describe() -> str:
    """Return the table of stages as Markdown."""
    lines = ["| stage | a job for each | preloads |", "| :-- | :-- | :-- |"]
    for stage in (*STAGES, *PAGES):
        level = ", ".join(stage.level.wildcards) or "project"
        lines.append(f"| {stage.name} | {level} | {', '.join(stage.preload)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
