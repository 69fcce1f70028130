"""What the rules need to know: paths, and for each job one JSON text of the configuration that it depends on."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import ppml
from ppml.config.data import Dirichlet, PartitionSpec
from ppml.config.features import Features, NoFeatures
from ppml.config.inference import NoInference
from ppml.config.model import Config, Folders
from ppml.config.spec import Spec
from ppml.config.suggestions import suggestion
from ppml.config.technique import (
    Aggregation,
    Correction,
    ExampleLevel,
    Federated,
    NoPrivacy,
    Plaintext,
    Privacy,
    ServerStepSpec,
    Topology,
)
from ppml.data.catalogue import CATALOGUE, DIGITS, dataset_info
from ppml.data.sources import unreadable
from ppml.errors import UserError
from ppml.io.canonical_json import canonical
from ppml.ipc import parent_watch as parent
from ppml.models.registry import MODELS
from ppml.pipeline.code_digest import Stamps
from ppml.pipeline.code_snapshot import freeze
from ppml.pipeline.configuration import configuration
from ppml.pipeline.project import DEFAULT_CONFIG, LITERATURE, LOCK_FILE, ROOT
from ppml.preflight import check_device, check_folders, check_last_batch, resolve_data
from ppml.reporting.literature import load_published
from ppml.system_errors import describe_os_error

FOUND_DATA = "PPML_FALLBACK"
"""Names, in the environment of jobs, the data set that replaces all others; empty where theirs were found."""
CODE = "PPML_CODE"
"""Names, in the environment of jobs, the folder of the package that they run."""
TRAINED = ("model.safetensors", "config.json", "history.csv", "events.json", "cost.json")
RUN_FILES = (*TRAINED, "predictions.safetensors", "privacy.json", "record.json")
SHOW_PUBLISHED = ("published", "privacy_utility", "readings", "clients")
"""Kinds of tables and figures with numbers of the papers."""
SHOW_NO_EPSILON = ("audit", "inference")
"""Kinds of tables that state no epsilon."""
OWNERS_A_CORE = 16
"""Each takes up to a second or two."""
AUDIT = "audit.json"
INFERENCE = ("inference.json", "inference-cost.json")
COLLECTED = ("records", "costs", "history", "clients", "epsilons", "audits", "inferences", "joint")
CHOICES = frozenset(
    [
        *(
            kind.__name__
            for union in (Topology, ServerStepSpec, Correction, Privacy, Aggregation, PartitionSpec, Features)
            for kind in get_args(get_args(union)[0])
        ),
        *(*MODELS, *CATALOGUE, DIGITS, "shares"),
    ]
)
"""Every name by which an arm can choose code."""
LOUD = (
    "FALLBACK DATA: no source has {datasets}, so everything here uses scikit-learn's handwritten digits "
    "(1,797 images of 8x8, enlarged): these are NOT the results of {datasets}."
)


def prepare_jobs(*, main: bool) -> Path:
    """Tell the jobs of this process, by their environment, which Python and code to use and for whom they run.

    Parameters
    ----------
    main : bool
        Whether this is the process that plans the run; one that it starts for a job, perhaps on another machine, takes
        over the code.

    Returns
    -------
    Path
        The folder of the package that the jobs run.

    Raises
    ------
    UserError
        The environment cannot name the folders, or the current one cannot be written.
    """
    for folder in (Path.cwd(), Path(sys.executable).parent):
        if os.pathsep in str(folder):
            raise UserError(
                f"the path {folder} holds {os.pathsep!r}, which separates the folders of PATH and PYTHONPATH; move or "
                "rename the folder"
            )
    # Whether or not its environment is activated.
    _put_first("PATH", Path(sys.executable).parent)
    os.environ[parent.VARIABLE] = str(os.getpid())
    if not main:
        return Path(os.environ.get(CODE, ppml.__path__[0]))
    try:
        code = freeze(Path(ppml.__path__[0]))
    except OSError as error:
        raise UserError(
            f"{describe_os_error(error)}; the workflow keeps records below .snakemake in the folder that it is run in; "
            "for another one, use `snakemake -d FOLDER`"
        ) from None
    _put_first("PYTHONPATH", code.parent)
    os.environ[CODE] = str(code)
    return code


def _put_first(variable: str, folder: Path) -> None:
    others = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    os.environ[variable] = os.pathsep.join([str(folder), *others])


class Plan:
    """The configuration, checked, as the rules see it.

    Parameters
    ----------
    config : Config
        The checked configuration.
    fallback : str or None
        The data set that replaces all others, with folders of its own.
    code : Path or None
        The folder of the package that jobs run; None: of the one that runs here.
    """

    def __init__(self, config: Config, fallback: str | None, code: Path | None = None) -> None:
        self.config = config
        self.fallback = fallback
        apart = f"-{fallback}" if fallback else ""
        self.data = config.folders.data
        self.artifacts = config.folders.artifacts + apart
        self.reports = config.folders.reports + apart
        self.logs = config.folders.logs + apart
        self.runs = [(arm, seed) for arm in config.arms for seed in config.seeds_of(arm)]
        """Every arm with each of its seeds."""
        self.published = load_published(LITERATURE)
        self.stamps = Stamps(code or Path(ppml.__path__[0]), LOCK_FILE, CHOICES)
        # The report's first page holds every figure: made again in no time, and of no use in git.
        self.overview = f"{self.logs}/overview.rst"

    @classmethod
    def check(cls, given: Mapping[str, Any], files: list[str], *, main: bool = True, code: Path | None = None) -> Plan:
        """Return the plan for the configuration that Snakemake was given, or raise a :class:`UserError`.

        Parameters
        ----------
        given : mapping
            What ``--configfile`` and ``--config`` say together.
        files : list of str
            The files of ``--configfile``; without any, ``given`` is laid over the default configuration.
        main : bool
            Whether this is the process that plans the run. A process that it starts for a job, perhaps on another
            machine, takes over what was found out about the data.
        code : Path or None
            The folder of the package that jobs run; None: of the one that runs here.
        """
        config = configuration(given, files or [DEFAULT_CONFIG], laid=bool(files))
        check_device(config)
        if main or FOUND_DATA not in os.environ:
            os.environ[FOUND_DATA] = resolve_data(config, Path(config.folders.data) / "raw") or ""
        fallback = os.environ[FOUND_DATA] or None
        check_last_batch(config, fallback)
        plan = cls(config, fallback, code)
        check_folders({key: getattr(plan, key) for key in Folders.model_fields}, ROOT)
        for name, experiment in config.experiments.items():
            compared = (("compare", row.published) for row in experiment.compare)
            for key, row in (*compared, *(("published", row) for row in experiment.published)):
                if row not in plan.published:
                    raise UserError(
                        f"experiments.{name}.{key}: unknown published row {row!r}; "
                        f"{suggestion(row, plan.published)}allowed: {', '.join(plan.published)} ({LITERATURE})"
                    )
        return plan

    def check_installed(self) -> None:
        """Exit unless the packages that are installed are those that the lock file pins.

        A result must not be recorded under a pin that it was not made by.
        """
        for name, pin in self.stamps.pins().items():
            installed = version(name).partition("+")[0]
            if installed not in [line.partition(";")[0].strip() for line in pin.split(" | ")]:
                sys.exit(
                    f"error: {name} {installed} is installed, {LOCK_FILE.name} pins {pin}; run `make environment`, or "
                    "pip as environment.yml does"
                )

    def check_passed_on(self, *, executable: str = sys.executable) -> None:
        """Exit where a program that starts jobs on other machines would take the paths that it is given apart.

        Executors put a command into double quotes, in which a shell replaces some signs.
        """
        for path in (str(Path.cwd()), executable):
            if found := sorted(set(path) & set('"$`\\')):
                sys.exit(
                    f"error: the path {path} holds {' '.join(found)}, which jobs on other machines cannot be given; "
                    "use a folder without"
                )

    def notices(self) -> list[str]:
        """Return what the user should read before the first job, a line each."""
        lines = [f"warning: {line}" for line in (*self._unreadable(), *self.config.warnings())]
        return [self.fallback_sentence(), *lines] if self.fallback else lines

    def _unreadable(self) -> list[str]:
        datasets = sorted({self.config.dataset_of(arm) for arm in self.config.arms} - {DIGITS})
        raw = Path(self.data) / "raw"
        return [line for name in datasets for line in unreadable(name, raw / name, self.config.data.mirrors)]

    def fallback_sentence(self) -> str:
        """Return the loud line for captions, empty where the data are what was asked for."""
        if not self.fallback:
            return ""
        return LOUD.format(datasets=", ".join(sorted({self.config.dataset_of(arm) for arm in self.config.arms})))

    # --- data ---------------------------------------------------------------------------------------------------

    def dataset(self, arm: str) -> str:
        """Return the data set that an arm trains on."""
        return self.fallback or self.config.dataset_of(arm)

    @property
    def data_published(self) -> bool:
        """Whether everybody can have all data that arms are trained on."""
        return all(dataset_info(self.dataset(arm)).published for arm in self.config.arms)

    def raw(self, dataset: str) -> list[str]:
        """Return the published files of a data set."""
        return [f"{self.data}/raw/{dataset}/{name}" for name in dataset_info(dataset).files]

    def opened(self, dataset: str) -> list[str]:
        """Return the published files that the subset of a data set is chosen from: on a holdout, no test file."""
        parts = ("train",) if self.config.data.evaluate_on == "holdout" else ("train", "test")
        names = [name for part in parts for name in dataset_info(dataset).files_of(part)]
        return [f"{self.data}/raw/{dataset}/{name}" for name in names]

    def subset(self, arm: str) -> dict[str, str]:
        """Return the files of an arm's subset, by what they are."""
        return self.subset_files(self.dataset(arm))

    def subset_files(self, dataset: str) -> dict[str, str]:
        """Return the files of a data set's subset; each part of a subset's content is part of its name."""
        folder = f"{self.data}/subsets/{self._subset_name(dataset)}"
        return {
            "train": f"{folder}/train.safetensors",
            "test": f"{folder}/test.safetensors",
            "about": f"{folder}/about.json",
        }

    def _subset_name(self, dataset: str) -> str:
        data = self.config.data
        return f"{dataset}-{data.train}-{data.test}-{data.choice}-{data.evaluate_on}"

    def fetch_spec(self, dataset: str) -> str:
        """Return what the files of a data set depend on: not where they come from, since their checksums are known."""
        return canonical({"dataset": dataset})

    def sources_spec(self) -> str:
        """Return where raw data may come from."""
        return canonical({"mirrors": self.config.data.mirrors, "download": self.config.data.download})

    def subset_spec(self, dataset: str) -> str:
        """Return what a subset depends on."""
        data = self.config.data
        keys = {key: getattr(data, key) for key in ("train", "test", "choice", "evaluate_on")}
        return canonical({"dataset": dataset, **keys})

    # --- features -----------------------------------------------------------------------------------------------

    def features(self) -> dict[str, Spec]:
        """Return the features that arms are trained on by what they are."""
        arms = self.config.arms
        return {content: arms[arm].features for arm in arms for content in self.features_of(arm)}

    def features_of(self, arm: str) -> list[str]:
        """Return what an arm's features are, as part of a path, as a list of one text; of none for images."""
        spec = self.config.arms[arm].features
        # All seeds share them: they are one fixed rule, and a seed is another training by it.
        content = "-".join(map(str, [*spec.to_json().values(), self.config.seed]))
        return [] if isinstance(spec, NoFeatures) else [content]

    def features_files(self, dataset: str, features: str) -> dict[str, str]:
        """Return the files of a subset's features."""
        folder = f"{self.data}/features/{self._subset_name(dataset)}/{features}"
        return {"train": f"{folder}/train.safetensors", "test": f"{folder}/test.safetensors"}

    def features_spec(self, features: str) -> str:
        """Return what features depend on besides the subset."""
        return canonical({"features": self.features()[features].to_json(), "root_seed": self.config.seed})

    def features_stamp(self, features: str) -> str:
        """Return the stamp of computing features."""
        return self.stamps.of("features", {type(self.features()[features]).__name__}).text

    def examples(self, arm: str) -> dict[str, str]:
        """Return what an arm is trained and evaluated on: its subset, or the features of it."""
        files = self.subset(arm)
        for features in self.features_of(arm):
            files = {**files, **self.features_files(self.dataset(arm), features)}
        return files

    # --- partitions ---------------------------------------------------------------------------------------------

    def partitions(self) -> dict[str, PartitionSpec]:
        """Return the partitions by what they are: what the configuration calls them changes no result."""
        return {self.partition_content(key): spec for key, spec in self.config.partitions.items()}

    def partition_content(self, key: str) -> str:
        """Return what a partition is, as part of a path, for instance ``dirichlet-8-0.5``."""
        return "-".join(map(str, self.config.partitions[key].to_json().values()))

    def partition_file(self, dataset: str, partition: str, seed: int | str) -> str:
        """Return where a partition of a data set lies."""
        return f"{self.artifacts}/partitions/{dataset}/{partition}/seed{seed}.json"

    def partition_of(self, arm: str, seed: int | str) -> list[str]:
        """Return the partition that an arm trains on, as a list of one file, or of none."""
        key = self.config.arms[arm].partition
        return [self.partition_file(self.dataset(arm), self.partition_content(key), seed)] if key else []

    def partition_spec(self, partition: str) -> str:
        """Return what a partition depends on."""
        return canonical({"partition": self.partitions()[partition].to_json(), "root_seed": self.config.seed})

    def partition_stamp(self, dataset: str, partition: str) -> str:
        """Return the stamp of dividing a data set."""
        return self.stamps.of("partition", {dataset, type(self.partitions()[partition]).__name__}).text

    def partition_key(self, partition: str) -> str:
        """Return what the configuration calls a partition, for messages."""
        return next(key for key in self.config.partitions if self.partition_content(key) == partition)

    # --- runs ---------------------------------------------------------------------------------------------------

    def run(self, arm: str, seed: int | str, name: str = "") -> str:
        """Return the folder of a run, or a file in it."""
        return f"{self.artifacts}/runs/{arm}/seed{seed}" + (f"/{name}" if name else "")

    def every_run(self, *names: str) -> list[str]:
        """Return files of every arm and seed."""
        return [self.run(arm, seed, name) for arm, seed in self.runs for name in names]

    def option(self, name: str, files: str | Sequence[str]) -> str:
        """Return an option of a stage as part of a shell command, empty without a file."""
        return shlex.join([name, *([files] if isinstance(files, str) else files)]) if files else ""

    def noise_of(self, arm: str, seed: int | str) -> list[str]:
        """Return an arm's calibrated noise, as a list of one file, or of none without privacy."""
        private = not isinstance(self.config.arms[arm].privacy, NoPrivacy)
        return [self.run(arm, seed, "noise.json")] if private else []

    def calibrated(self, calibrate: Any, arm: str, seed: int | str) -> list[str]:
        """Return :meth:`noise_of`, after the checkpoint ``calibrate``."""
        return [calibrate.get(arm=arm, seed=seed).output[0] for _ in self.noise_of(arm, seed)]

    def trained(self, calibrate: Any, arm: str, seed: int | str, name: str) -> str:
        """Return a file of a run; after the checkpoint ``calibrate``, too, so that Snakemake looks at it anew then."""
        self.calibrated(calibrate, arm, seed)
        return self.run(arm, seed, name)

    def audit_of(self, arm: str, seed: int | str) -> list[str]:
        """Return the audit of an arm's mechanism, as a list of one file, or of none: the first seed is audited."""
        audited = arm in self.config.audited() and int(seed) == self.config.seeds_of(arm)[0]
        return [self.run(arm, seed, AUDIT)] if audited else []

    def audits(self) -> list[str]:
        """Return the audits of every arm."""
        return [file for arm, seed in self.runs for file in self.audit_of(arm, seed)]

    def inference_of(self, arm: str, seed: int | str) -> list[str]:
        """Return what is written of an arm's prediction on encrypted images, as a list of two files, or of none."""
        encrypted = not isinstance(self.config.arms[arm].inference, NoInference)
        return [self.run(arm, seed, name) for name in INFERENCE] if encrypted else []

    def inferences(self) -> list[str]:
        """Return what is written of predictions on encrypted images by every arm and seed."""
        return [file for arm, seed in self.runs for file in self.inference_of(arm, seed)]

    def technique(self, arm: str) -> dict[str, Any]:
        """Return what identifies an arm's training besides data and seeds, as plain values."""
        technique = self.config.arms[arm].technique()
        key = self.config.arms[arm].partition
        if key:
            technique["topology"]["partition"] = self.partition_content(key)
        return technique

    def arm_stamp(self, stage: str, arm: str) -> str:
        """Return the stamp of a stage of an arm: what the arm does not choose is left out."""
        spec = self.config.arms[arm]
        # An audit adds in the clear, whatever the arm adds by.
        adds = Plaintext() if stage == "audit" else spec.aggregation
        parts: list[Spec] = [spec.features, spec.topology, spec.privacy, adds]
        if isinstance(spec.topology, Federated):
            parts += [spec.topology.server, spec.topology.correction]
        parts += [self.config.partitions[spec.partition]] if spec.partition else []
        chosen = {type(part).__name__ for part in parts}
        noise_by = getattr(spec.privacy, "noise_by", "")
        return self.stamps.of(stage, {*chosen, noise_by, spec.model, self.dataset(arm)}).text

    def trainings(self) -> dict[str, frozenset[str]]:
        """Return the folder of each run with the params of its training."""
        return {
            self.run(arm, seed): frozenset([self.arm_spec(arm), self.arm_stamp("train", arm)])
            for arm, seed in self.runs
        }

    def arm_spec(self, arm: str) -> str:
        """Return what training an arm depends on."""
        return canonical(
            {
                "arm": self.technique(arm),
                "dataset": self.dataset(arm),
                "root_seed": self.config.seed,
                "device": self.config.device,
            }
        )

    def owners_at_once(self, arm: str) -> int:
        """Return for how many owners of an arm's records noise and epsilon are worked out at once."""
        spec = self.config.arms[arm]
        own = isinstance(spec.privacy, ExampleLevel) and spec.privacy.noise_by == "owner"
        partition = self.config.partitions[spec.partition] if spec.partition and own else None
        # Only there has almost every client another number of records, and with it another noise.
        return max(1, partition.clients // OWNERS_A_CORE) if isinstance(partition, Dirichlet) else 1

    def calibrate_spec(self, arm: str) -> str:
        """Return what calibrating an arm depends on: not its learning rate, nor its aggregation."""
        technique = self.technique(arm)
        keep = {key: technique[key] for key in ("privacy", "topology")}
        training = {key: technique["training"][key] for key in ("epochs", "batch_size")}
        return canonical({"arm": {**keep, "training": training}})

    def predict_spec(self, arm: str) -> str:
        """Return what an arm's predictions depend on besides its models."""
        return canonical(
            {"model": self.config.arms[arm].model, "dataset": self.dataset(arm), "device": self.config.device}
        )

    def inference_spec(self, arm: str) -> str:
        """Return what an arm's prediction on encrypted images depends on besides its model."""
        spec = self.config.arms[arm]
        asked = spec.inference.model_dump(mode="json", exclude={"kind"})
        return canonical({"model": spec.model, "dataset": self.dataset(arm), **asked})

    def account_spec(self, arm: str) -> str:
        """Return what an arm's privacy statement depends on besides what was executed."""
        return canonical({"privacy": self.config.arms[arm].technique()["privacy"]})

    def audit_spec(self, arm: str) -> str:
        """Return what the audit of an arm depends on: all that its training does, since it is what is audited."""
        return canonical(
            {
                "arm": self.technique(arm),
                "dataset": self.dataset(arm),
                "steps": self.config.audit.steps_for(arm),
                "root_seed": self.config.seed,
                "device": self.config.device,
            }
        )

    def audited_features(self, arm: str) -> list[str]:
        """Return the features that the audit of an arm takes its records from, as a list of one file, or of none."""
        return [self.examples(arm)["train"] for _ in self.features_of(arm)]

    # --- reports ------------------------------------------------------------------------------------------------

    def collected(self) -> dict[str, str]:
        """Return the tidy tables of all runs."""
        return {name: f"{self.reports}/{name}.csv" for name in COLLECTED}

    def metrics(self) -> str:
        """Return the summary of all runs."""
        return f"{self.reports}/metrics.json"

    def collect_spec(self) -> str:
        """Return every run and where it lies, how audits are judged, and the arms that each table shows together."""
        runs = [
            {
                "arm": arm,
                "seed": seed,
                "folder": self.run(arm, seed),
                "partition": next(iter(self.partition_of(arm, seed)), None),
                "audit": next(iter(self.audit_of(arm, seed)), None),
                "inference": self.inference_of(arm, seed),
            }
            for arm, seed in self.runs
        ]
        return canonical({"runs": runs, "audit": self.config.audit.to_json(), "tables": self.shown_together()})

    def shown_together(self) -> list[list[str]]:
        """Return the arms of each table, each set once, in an order that no name of an experiment decides."""
        shown: set[tuple[str, ...]] = set()
        for spec in self.config.experiments.values():
            compared = [(row.arm, self.published[row.published].epsilon) for row in spec.compare if row.arm is not None]
            arms = {
                "published": [arm for arm, _ in compared],
                "readings": [arm for arm, epsilon in compared if epsilon is not None],
                "claims": [arm for claim in spec.claims for arm in claim.arms],
            }
            kinds = [kind for kind in spec.tables if kind not in SHOW_NO_EPSILON]
            shown |= {tuple(sorted({*arms.get(kind, [*spec.arms])})) for kind in kinds}
        return [list(arms) for arms in sorted(shown) if arms]

    def show_spec(self, experiment: str) -> str:
        """Return what the tables and figures of an experiment depend on besides the records."""
        spec = self.config.experiments[experiment]
        content = {
            "title": spec.title,
            "arms": {name: self.config.arms[name].label or name for name in spec.arms},
            "compare": [row.to_json() for row in spec.compare],
            "notes": spec.notes,
            "published": spec.published,
            "claims": [claim.to_json() for claim in spec.claims],
            "others": {name: self.config.arms[name].label or name for name in self.claimed(experiment)},
        }
        # Not canonical: the order of the arms is the order shown.
        return json.dumps(content, separators=(",", ":"))

    def claimed(self, experiment: str) -> list[str]:
        """Return the arms that only a claim of an experiment names."""
        spec = self.config.experiments[experiment]
        return sorted({arm for claim in spec.claims for arm in claim.arms} - set(spec.arms))

    def published_spec(self, experiment: str, kind: str) -> str:
        """Return the published rows that a table or figure shows, by key."""
        if kind not in SHOW_PUBLISHED:
            return "{}"
        spec = self.config.experiments[experiment]
        rows = sorted({*(row.published for row in spec.compare), *spec.published})
        return canonical({row: self.published[row].to_json() for row in rows})

    def tables(self) -> list[str]:
        """Return every table, in every format."""
        return [file for name in self.config.experiments for file in self.tables_of(name)]

    def tables_of(self, experiment: str) -> list[str]:
        """Return the tables of an experiment, in every format."""
        return [
            f"{self.reports}/tables/{experiment}-{kind}.{suffix}"
            for kind in self.config.experiments[experiment].tables
            for suffix in ("md", "csv", "tex", "html")
        ]

    def figures(self) -> list[str]:
        """Return every figure, in every format."""
        return [file for name in self.config.experiments for file in self.figures_of(name)]

    def figures_of(self, experiment: str) -> list[str]:
        """Return the figures of an experiment, in every format."""
        return [
            f"{self.reports}/figures/{experiment}-{kind}.{suffix}"
            for kind in self.config.experiments[experiment].figures
            for suffix in ("svg", "png")
        ]

    def table_kinds(self) -> list[str]:
        """Return the kinds of tables that experiments ask for."""
        return sorted({kind for experiment in self.config.experiments.values() for kind in experiment.tables})

    def figure_kinds(self) -> list[str]:
        """Return the kinds of figures that experiments ask for."""
        return sorted({kind for experiment in self.config.experiments.values() for kind in experiment.figures})

    def overview_spec(self) -> str:
        """Return the title and kind of each figure, in the order of :meth:`figures`."""
        return json.dumps(
            [
                {"title": experiment.title, "kind": kind, "fallback": self.fallback_sentence()}
                for experiment in self.config.experiments.values()
                for kind in experiment.figures
            ],
            separators=(",", ":"),
        )

    def outputs(self) -> dict[str, frozenset[str]]:
        """Return every file that the workflow makes, with the specification and the stamp of its job."""
        made: dict[str, frozenset[str]] = {}

        def add(files: Iterable[str], spec: str, stamp: str) -> None:
            made.update(dict.fromkeys(files, frozenset([spec, stamp])))

        for dataset in self.datasets():
            add(self.raw(dataset), self.fetch_spec(dataset), self.stamps.of("fetch", {dataset}).text)
        for dataset in sorted({self.dataset(arm) for arm in self.config.arms}):
            subset = self.subset_files(dataset).values()
            add(subset, self.subset_spec(dataset), self.stamps.of("subset", {dataset}).text)
        for arm, spec in self.config.arms.items():
            for features in self.features_of(arm):
                files = self.features_files(self.dataset(arm), features).values()
                add(files, self.features_spec(features), self.features_stamp(features))
            if spec.partition:
                partition = self.partition_content(spec.partition)
                stamp = self.partition_stamp(self.dataset(arm), partition)
                owners = [file for seed in self.config.seeds_of(arm) for file in self.partition_of(arm, seed)]
                add(owners, self.partition_spec(partition), stamp)
            for seed in self.config.seeds_of(arm):
                add(self.noise_of(arm, seed), self.calibrate_spec(arm), self.arm_stamp("calibrate", arm))
                add(self.audit_of(arm, seed), self.audit_spec(arm), self.arm_stamp("audit", arm))
                if self.inference_of(arm, seed):
                    add(self.inference_of(arm, seed), self.inference_spec(arm), self.arm_stamp("infer", arm))
                for stage, names, content in (
                    ("train", TRAINED, self.arm_spec(arm)),
                    ("predict", ["predictions.safetensors"], self.predict_spec(arm)),
                    ("account", ["privacy.json"], self.account_spec(arm)),
                ):
                    add([self.run(arm, seed, name) for name in names], content, self.arm_stamp(stage, arm))
        records = [*self.every_run("record.json"), *self.collected().values(), self.metrics()]
        add(records, self.collect_spec(), self.stamps.of("collect").text)
        for experiment in self.config.experiments:
            add(self.tables_of(experiment), self.show_spec(experiment), self.stamps.of("table").text)
            add(self.figures_of(experiment), self.show_spec(experiment), self.stamps.of("figure").text)
        return made

    def datasets(self) -> list[str]:
        """Return the data sets that must be fetched."""
        return sorted({self.dataset(arm) for arm in self.config.arms} - {DIGITS})
