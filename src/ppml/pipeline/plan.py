"""The jobs of a checked configuration: its data, its arms, and one job for each key of each stage."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import ppml
from ppml.config.data import Dirichlet, Natural, PartitionSpec
from ppml.config.datasets import PARTS, DatasetSpec, FolderDataset, TorchvisionDataset
from ppml.config.model import Config, Folders
from ppml.config.models import MODELS
from ppml.config.spec import Spec, unknown_name
from ppml.config.splits import SplitSpec
from ppml.config.technique import (
    Aggregation,
    Correction,
    ExampleLevel,
    Federated,
    Privacy,
    ServerOptimizer,
    Topology,
)
from ppml.config.transforms import Binned, Patches, Scattering, Transform, transformed_contract
from ppml.data.loading import DECODED
from ppml.data.picture_listing import listing_digest
from ppml.data.sources import unreadable
from ppml.errors import UserError
from ppml.jobs.job import Job
from ppml.jobs.record import STATE
from ppml.pipeline.code_digest import CodeDigests
from ppml.pipeline.configuration import check_configuration
from ppml.pipeline.job_environment import resolve_fallback
from ppml.pipeline.paths import Paths
from ppml.pipeline.stages import PROJECT, RUN, STAGE, STAGES, SUBFOLDERS, Files, Key, Stage
from ppml.preflight import check_device, check_folders, check_last_batch
from ppml.project import DEFAULT_CONFIG, LITERATURE, LOCK_FILE, ROOT
from ppml.reporting.fallback import FALLBACK_SENTENCE
from ppml.reporting.literature import load_published
from ppml.reporting.registry import Kind, tables

OWNERS_PER_CORE = 16
"""The number of owners whose noise and epsilon one process calculates, each in up to two seconds."""


CHOICES = frozenset(
    [
        *(
            kind.__name__
            for union in (
                *(Topology, ServerOptimizer, Correction, Privacy, Aggregation, PartitionSpec, Transform),
                *(DatasetSpec, SplitSpec),
            )
            for kind in get_args(get_args(union)[0])
        ),
        *(*MODELS, "distributed"),
    ]
)
"""The names by which an arm can choose code."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of a plan: a stage, with the values of its wildcards."""

    plan: Plan
    stage: Stage
    key: Key

    @property
    def rule(self) -> str:
        """The name of the rule."""
        return "_".join([self.stage.name, *(self.key[name] for name in self.stage.level.by_rule)])

    @cached_property
    def inputs(self) -> Files:
        """The input files by name."""
        return self.stage.inputs(self.plan, self.key)

    @cached_property
    def outputs(self) -> Files:
        """The output files by name."""
        return self.stage.outputs(self.plan, self.key)

    def output_files(self) -> list[str]:
        """Return all output files."""
        return flat(self.outputs)

    @property
    def threads(self) -> int:
        """The number of processes that share the work."""
        return self.stage.threads(self.plan, self.key)

    @cached_property
    def spec(self) -> str:
        """The part of the configuration that the outputs depend on, as JSON."""
        # Not sorted: the order of an experiment's arms is their order in tables.
        return json.dumps(self.stage.spec(self.plan, self.key), separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """The digest of the code and the pinned packages that make the outputs."""
        choices = self.stage.choices(self.plan, self.key)
        return self.plan.digests.of(self.stage.name, choices, self.stage.modules(self.plan, self.key)).text

    def arguments(self, threads: int = 1) -> str:
        """Return stage and options as a part of a shell command."""
        # The record of a job has the name of its last output, which a process knows only if it is no list.
        assert isinstance([*self.outputs.values()][-1], str), f"{self.stage.name}: the last output is a list"
        job = Job(
            spec=json.loads(self.spec),
            inputs=_named(self.inputs),
            outputs=_named(self.outputs),
            seed=int(self.key.get("seed", 0)),
            threads=threads,
            digest=self.digest,
            notes=self.stage.notes(self.plan, self.key),
        )
        return shlex.join([self.stage.name, *job.options()])


def flat(files: Files) -> list[str]:
    """Return the paths of all files."""
    return [path for value in files.values() for path in ([value] if isinstance(value, str) else value)]


def _named(files: Files) -> dict[str, Path]:
    return {name: Path(value) for name, value in files.items() if isinstance(value, str)}


class Plan:
    """A checked configuration.

    Parameters
    ----------
    config : Config
        The checked configuration.
    fallback : str or None
        The data set that replaces all others; its results have folders of their own.
    code : Path or None
        The folder of the package that jobs run; None: the package of this process.
    """

    # The table of stages, in an import cycle with this module, needs their types.
    config: Config
    paths: Paths
    runs: list[tuple[str, int]]
    """Every arm with each of its seeds."""

    def __init__(self, config: Config, fallback: str | None, code: Path | None = None) -> None:
        self.config = config
        self.fallback = fallback
        self.files: list[str] = []
        """The files of the configuration."""
        self._jobs: dict[str, list[PlannedJob]] = {}
        self.paths = Paths(config, fallback)
        self.runs = [(arm, seed) for arm in config.arms for seed in config.seeds_of(arm)]
        self.published = load_published(LITERATURE)
        self.digests = CodeDigests(code or Path(ppml.__path__[0]), LOCK_FILE, CHOICES, STATE / "code.json")

    @classmethod
    def check(cls, given: Mapping[str, Any], files: list[str], *, main: bool = True, code: Path | None = None) -> Plan:
        """Return the plan of Snakemake's configuration.

        Parameters
        ----------
        given : mapping
            The content of ``--configfile`` and ``--config`` together.
        files : list of str
            The files of ``--configfile``; without any, ``given`` overrides the default configuration.
        main : bool
            Whether this process plans the run. The process of a single job, perhaps on another machine, uses the same
            data.
        code : Path or None
            As for the class.

        Raises
        ------
        UserError
            The configuration is not valid, or its data or device are not available.
        """
        config = check_configuration(given, files or [DEFAULT_CONFIG], merged=bool(files))
        check_device(config)
        fallback = resolve_fallback(config, main=main)
        check_last_batch(config, fallback)
        plan = cls(config, fallback, code)
        plan.files = [os.path.relpath(file) for file in files or [DEFAULT_CONFIG]]
        check_folders({key: getattr(plan.paths, key) for key in Folders.model_fields}, ROOT, SUBFOLDERS)
        plan._check_published_rows()
        return plan

    def _check_published_rows(self) -> None:
        for name, experiment in self.config.experiments.items():
            compared = (("compare", row.published) for row in experiment.compare)
            for key, row in (*compared, *(("published", row) for row in experiment.published)):
                if row not in self.published:
                    problem = unknown_name("published row", row, self.published).message()
                    raise UserError(f"experiments.{name}.{key}: {problem} ({LITERATURE})")

    def notices(self) -> list[str]:
        """Return the warnings before the first job."""
        config, lines = self.config, []
        for name in sorted({config.dataset_of(arm) for arm in config.arms}):
            raw = Path(self.paths.data, "raw", name)
            lines += unreadable(name, config.dataset(name), raw, config.data.mirrors)
        warnings = [f"warning: {line}" for line in (*lines, *config.warnings())]
        return [self.fallback_sentence(), *warnings] if self.fallback else warnings

    def fallback_sentence(self) -> str:
        """Return the warning for captions, empty if the data are the configured ones."""
        return FALLBACK_SENTENCE if self.fallback else ""

    # --- jobs ---------------------------------------------------------------------------------------------------

    def jobs(self, *stages: Stage) -> Iterator[PlannedJob]:
        """Yield the jobs of the given stages, by default of all, in the order of the table of stages."""
        for stage in stages or STAGES:
            # Rules, records and reports ask for the same jobs: each is made once, with its specification and digest.
            if stage.name not in self._jobs:
                self._jobs[stage.name] = [PlannedJob(self, stage, key) for key in stage.keys(self)]
            yield from self._jobs[stage.name]

    def results(self) -> list[str]:
        """Return the results of a whole run: the files of all runs, all tidy files, tables and figures."""
        chosen = [job for job in self.jobs() if job.stage.level in (RUN, PROJECT)]
        reports = [job for job in self.jobs() if "experiment" in job.key]
        return [file for job in (*chosen, *reports) for file in job.output_files()]

    # --- data ---------------------------------------------------------------------------------------------------

    def dataset(self, arm: str) -> str:
        """Return the name of the data set that an arm trains on."""
        return self.config.used_dataset(arm, self.fallback)

    def datasets(self) -> list[str]:
        """Return the names of the data sets of all arms."""
        return sorted({self.dataset(arm) for arm in self.config.arms})

    @property
    def public(self) -> bool:
        """Whether results on the data of all arms may be published."""
        return all(self.config.dataset(name).contract.public for name in self.datasets())

    def raw_inputs(self, dataset: str) -> dict[str, str]:
        """Return the files that a subset is made of; an evaluation on a holdout needs no test file."""
        if self.is_decoded(dataset):
            return {DECODED: self.paths.decoded(dataset)}
        parts = ("train",) if self.config.data.evaluate_on == "holdout" else PARTS
        return self.files_of(dataset, parts)

    def files_of(self, dataset: str, parts: Sequence[str] = PARTS) -> dict[str, str]:
        """Return the files of parts of a data set: published ones below the data folder, and those of the user."""
        files = [file for part in parts for file in self.config.dataset(dataset).files_of(part)]
        published = self.paths.raw(dataset, tuple(file.name for file in files if file.name))
        return {**published, **{file.path: file.path for file in files if file.path}}

    def is_decoded(self, dataset: str) -> bool:
        """Return whether the pictures of a data set are decoded before all subsets."""
        return isinstance(self.config.dataset(dataset), FolderDataset | TorchvisionDataset)

    def decode_spec(self, dataset: str) -> dict[str, Any]:
        """Return the entry of a data set of pictures; of a folder of the user, with a keyed digest of its listing."""
        spec, folder = self.config.dataset(dataset), self.picture_folder(dataset)
        source = spec.model_dump(mode="json", exclude={"folder"})
        # Sizes and times tell whether the files have changed; the keyed digest reveals nothing.
        return {"source": source, **({"listing": listing_digest(Path(folder["folder"]))} if folder else {})}

    def picture_folder(self, dataset: str) -> dict[str, str]:
        """Return the folder of pictures of a user by name; empty if the data set has none."""
        folder = getattr(self.config.dataset(dataset), "folder", None)
        return {"folder": folder} if folder else {}

    def subset_spec(self, dataset: str) -> dict[str, Any]:
        """Return the part of the configuration that a subset depends on."""
        data = self.config.data
        keys = {key: getattr(data, key) for key in ("train", "test", "selection", "evaluate_on")}
        spec = self.config.dataset(dataset)
        catalogued = dataset not in data.define
        contract = {"contract": spec.contract.to_json(), "catalogued": catalogued}
        return {"dataset": dataset, "source": spec.to_json(), **contract, **keys}

    def subset(self, arm: str) -> dict[str, str]:
        """Return the files of an arm's subset, before transforms."""
        return self.paths.subset(self.dataset(arm))

    @cached_property
    def transforms(self) -> dict[tuple[str, str], tuple[Scattering | Patches | Binned, ...]]:
        """The transforms of every chain, and of every prefix of a chain, by data set and content of the chain."""
        return {
            (self.dataset(name), self._chain(arm.transforms[:end])): arm.transforms[:end]
            for name, arm in self.config.arms.items()
            for end in range(1, len(arm.transforms) + 1)
        }

    def _chain(self, transforms: tuple[Scattering | Patches | Binned, ...]) -> str:
        """Return the content of a chain of transforms as a part of a path."""
        # All seeds share a transform: it is a fixed rule, and each seed trains on its output.
        parts = ["-".join(map(str, [*spec.to_json().values(), self.config.seed])) for spec in transforms]
        return "+".join(parts)

    def transform_keys(self) -> list[Key]:
        """Return the data set and the chain of each transform."""
        return [{"dataset": dataset, "transform": chain} for dataset, chain in self.transforms]

    def transform_spec(self, dataset: str, chain: str) -> dict[str, Any]:
        """Return the last transform of a chain, its seed, and the contract of its output.

        The configuration calculates the contract, and its code counts in no code digest.
        """
        transforms = self.transforms[dataset, chain]
        contract = transformed_contract(self.config.dataset(dataset).contract, transforms)
        return {"transform": transforms[-1].to_json(), "root_seed": self.config.seed, "contract": contract.to_json()}

    def before_transform(self, dataset: str, chain: str) -> dict[str, str]:
        """Return the files that the last transform of a chain reads."""
        before = chain.rpartition("+")[0]
        return self.paths.transformed(dataset, before) if before else self.paths.subset(dataset)

    def examples(self, arm: str) -> dict[str, str]:
        """Return the files for the training and evaluation of an arm: its subset after its transforms."""
        chain = self._chain(self.config.arms[arm].transforms)
        return self.paths.transformed(self.dataset(arm), chain) if chain else self.subset(arm)

    # --- partitions ---------------------------------------------------------------------------------------------

    @cached_property
    def partitions(self) -> dict[str, PartitionSpec]:
        """The partitions by their content: their names in the configuration change no result."""
        return {self.partition_content(name): spec for name, spec in self.config.partitions.items()}

    def partition_content(self, name: str) -> str:
        """Return the content of a partition as a part of a path, for instance ``dirichlet-8-0.5``."""
        partition = self.config.partitions[name]
        return partition.content if isinstance(partition, Natural) else "-".join(map(str, partition.to_json().values()))

    def partition_name(self, content: str) -> str:
        """Return the name of a partition in the configuration, for messages."""
        return next(name for name in self.config.partitions if self.partition_content(name) == content)

    def partition_keys(self) -> list[Key]:
        """Return the data set, the content and the seed of each partition."""
        named = ((arm, self.config.arms[arm].partition, seed) for arm, seed in self.runs)
        keys = dict.fromkeys(
            (self.dataset(arm), self.partition_content(name), seed) for arm, name, seed in named if name
        )
        return [{"dataset": dataset, "partition": content, "seed": str(seed)} for dataset, content, seed in keys]

    def partition_of(self, key: Key) -> dict[str, str]:
        """Return the partition of a run by name; empty if one owner has all examples."""
        name = self.config.arms[key["arm"]].partition
        if not name:
            return {}
        return {"partition": self.paths.partition(self.dataset(key["arm"]), self.partition_content(name), key["seed"])}

    # --- runs ---------------------------------------------------------------------------------------------------

    def is_audited(self, key: Key) -> bool:
        """Return whether a run is audited: the first seed of each audited arm."""
        return key["arm"] in self.config.audited() and int(key["seed"]) == self.config.seeds_of(key["arm"])[0]

    def noise_of(self, key: Key) -> dict[str, str]:
        """Return the calibrated noise of a run by name; empty without privacy."""
        private = self.config.arms[key["arm"]].is_private
        return {"noise": self.paths.run(key["arm"], key["seed"], "noise.json")} if private else {}

    def technique(self, arm: str) -> dict[str, Any]:
        """Return the content of an arm's training besides data and seeds, as plain values."""
        technique = self.config.arms[arm].technique()
        if name := self.config.arms[arm].partition:
            technique["topology"]["partition"] = self.partition_content(name)
        return technique

    def choices(self, key: Key, *, aggregation: Spec | None = None) -> set[str]:
        """Return the names by which a job chooses code.

        Parameters
        ----------
        key : mapping
            The key of the job.
        aggregation : Spec or None
            The aggregation in place of the arm's aggregation.
        """
        if "arm" in key:
            spec = self.config.arms[key["arm"]]
            parts: list[Spec] = [*spec.transforms, spec.topology, spec.privacy, aggregation or spec.aggregation]
            if isinstance(spec.topology, Federated):
                parts += [spec.topology.server, spec.topology.correction]
            names = {spec.model, getattr(spec.privacy, "noise", "")}
        elif "partition" in key:
            parts, names = [self.partitions[key["partition"]]], set()
        elif "transform" in key:
            parts, names = [self.transforms[key["dataset"], key["transform"]][-1]], set()
        elif "dataset" in key:
            dataset = self.config.dataset(key["dataset"])
            parts, names = [dataset, dataset.split], set()
        else:
            return set(CHOICES)
        return {type(part).__name__ for part in parts} | names

    def arm_spec(self, arm: str) -> dict[str, Any]:
        """Return the part of the configuration that the training of an arm depends on."""
        return {
            "arm": self.technique(arm),
            "dataset": self.dataset(arm),
            "root_seed": self.config.seed,
            "device": self.config.device,
        }

    def calibrate_spec(self, arm: str) -> dict[str, Any]:
        """Return the part of the configuration that the noise of an arm depends on."""
        technique = self.technique(arm)
        keep = {key: technique[key] for key in ("privacy", "topology")}
        training = {key: technique["training"][key] for key in ("epochs", "batch_size")}
        return {"arm": {**keep, "training": training}}

    def inference_spec(self, arm: str) -> dict[str, Any]:
        """Return the part of the configuration that encrypted prediction depends on besides the model file."""
        spec = self.config.arms[arm]
        return {"model": spec.model, **spec.inference.model_dump(mode="json", exclude={"kind"})}

    def owner_processes(self, arm: str) -> int:
        """Return the number of processes that calculate the noise and epsilon of an arm's owners."""
        spec = self.config.arms[arm]
        local = isinstance(spec.privacy, ExampleLevel) and spec.privacy.noise == "local"
        partition = self.config.partitions[spec.partition] if spec.partition and local else None
        # The clients of other partitions have few different sizes, and so few different calculations.
        return max(1, partition.clients // OWNERS_PER_CORE) if isinstance(partition, Dirichlet) else 1

    # --- reports ------------------------------------------------------------------------------------------------

    def collect_spec(self) -> dict[str, Any]:
        """Return every run, the files of runs and metrics, the confidence of audits, and the joint arms of tables."""
        runs = [
            {
                "arm": key["arm"],
                "seed": int(key["seed"]),
                "folder": self.paths.run(key["arm"], key["seed"]),
                "partition": self.partition_of(key).get("partition"),
                "audit": next(iter(self._files_of("audit", key)), None),
                "inference": self._files_of("infer", key),
                "pictures": self.pictured(key),
            }
            for key in RUN.keys(self)
        ]
        metrics = {arm: self.paths.metrics(arm) for arm, _ in self.runs}
        return {
            "runs": runs,
            "metrics": metrics,
            "audit": self.config.audit.to_json(),
            "tables": self.joint_arm_sets(),
            "confusion": self.confusion_arms(),
        }

    def _files_of(self, name: str, key: Key) -> list[str]:
        """Return the output files of a stage for a run, empty if the run has no such job."""
        stage = STAGE[name]
        return flat(stage.outputs(self, key)) if stage.when(self, key) else []

    def pictured(self, key: Key) -> str | None:
        """Return the test images of a run whose predictions a figure shows: the first seed of an arm on images."""
        arm = key["arm"]
        shown = any("predictions" in spec.figures and arm in spec.arms for spec in self.config.experiments.values())
        first = int(key["seed"]) == self.config.seeds_of(arm)[0]
        image = self.config.dataset(self.dataset(arm)).contract.kind == "image"
        return self.subset(arm)["test"] if shown and first and image else None

    def confusion_arms(self) -> list[str]:
        """Return the arms whose confusion matrices a figure shows."""
        shown = {arm for spec in self.config.experiments.values() if "confusion" in spec.figures for arm in spec.arms}
        return sorted(shown)

    def joint_arm_sets(self) -> list[list[str]]:
        """Return the arms of each table, each set once, in an order without the names of experiments."""
        sets: set[tuple[str, ...]] = set()
        kinds = tables()
        for spec in self.config.experiments.values():
            compared = [(row.arm, self.published[row.published].epsilon) for row in spec.compare if row.arm is not None]
            arms = {
                "all": [*spec.arms],
                "compared": [arm for arm, _ in compared],
                "epsilon_compared": [arm for arm, epsilon in compared if epsilon is not None],
                "claimed": [arm for claim in spec.claims for arm in claim.arms],
            }
            chosen = [kinds[name] for name in spec.tables]
            sets |= {tuple(sorted({*arms[kind.joint_arms]})) for kind in chosen if kind.states_epsilon}
        return [list(arms) for arms in sorted(sets) if arms]

    def report_keys(self, section: str) -> list[Key]:
        """Return experiment and kind of each table or figure; ``section`` is ``tables`` or ``figures``."""
        return [
            {"experiment": name, "kind": kind}
            for name, spec in self.config.experiments.items()
            for kind in getattr(spec, section)
        ]

    def report_spec(self, experiment: str, kind: Kind) -> dict[str, Any]:
        """Return the part of the configuration that a table or figure depends on."""
        spec = self.config.experiments[experiment]
        claimed = {arm for claim in spec.claims for arm in claim.arms}
        rows = sorted({*(row.published for row in spec.compare), *spec.published}) if kind.published else []
        view = {
            "title": spec.title,
            "arms": {name: self.config.label_of(name) for name in spec.arms},
            "metric": spec.metric,
            "compare": [row.to_json() for row in spec.compare],
            "notes": spec.notes,
            "published": spec.published,
            "claims": [claim.to_json() for claim in spec.claims],
            "others": {name: self.config.label_of(name) for name in sorted(claimed - {*spec.arms})},
            **({"fallback": True} if self.fallback else {}),
        }
        return {"kind": kind.name, "view": view, "published": {row: self.published[row].to_json() for row in rows}}
