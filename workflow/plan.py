"""What the rules need to know: paths, and for each job one JSON text of the configuration that it depends on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppml.config.load import overlay, parse_config, read_yaml, with_base
from ppml.config.model import Config
from ppml.config.spec import canonical
from ppml.config.technique import NoPrivacy
from ppml.data.catalogue import DIGITS, dataset_info
from ppml.errors import UserError
from ppml.preflight import check_device, check_folders, resolve_data
from ppml.reporting.published import load_published

DEFAULT = "config/default.yaml"
PUBLISHED = "config/published.yaml"
LOUD = (
    "FALLBACK DATA: no source has {datasets}, so everything here uses scikit-learn's handwritten digits "
    "(1,797 images of 8x8, enlarged): these are NOT the results of {datasets}."
)


def jobs_use_this_python() -> None:
    """Put the Python that runs Snakemake first on the path, whether or not its environment is activated."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def retyped(given: Any, base: Any) -> Any:
    """Return ``given`` with what differs from ``base`` read as YAML reads it.

    Snakemake hands over what stands in the braces and brackets of ``--config`` as text.

    Examples
    --------
    >>> retyped({"data": {"train": "500", "dataset": "mnist"}, "seeds": ["0"]}, {"data": {"dataset": "mnist"}})
    {'data': {'train': 500, 'dataset': 'mnist'}, 'seeds': [0]}
    """
    if given == base:
        return given
    if isinstance(given, Mapping):
        below = base if isinstance(base, Mapping) else {}
        return {key: retyped(value, below.get(key)) for key, value in given.items()}
    if isinstance(given, list):
        return [retyped(value, None) for value in given]
    if not isinstance(given, str):
        return given
    try:
        value = yaml.safe_load(given)
    except yaml.YAMLError:
        return given
    return value if value is None or isinstance(value, (bool, int, float)) else given


class Plan:
    """The configuration, checked, as the rules see it.

    Parameters
    ----------
    config : Config
        The checked configuration.
    fallback : str or None
        The data set that replaces all others, with folders of its own.
    """

    def __init__(self, config: Config, fallback: str | None) -> None:
        self.config = config
        self.fallback = fallback
        apart = f"-{fallback}" if fallback else ""
        self.data = config.folders.data
        self.artifacts = config.folders.artifacts + apart
        self.reports = config.folders.reports + apart
        self.logs = config.folders.logs + apart
        self.seeds = config.seeds
        # The report's first page holds every figure: made again in no time, and of no use in git.
        self.overview = f"{self.logs}/overview.rst"

    @classmethod
    def check(cls, given: Mapping[str, Any], files: list[str]) -> Plan:
        """Return the plan for the configuration that Snakemake was given, or raise a :class:`UserError`.

        Parameters
        ----------
        given : mapping
            What ``--configfile`` and ``--config`` say together.
        files : list of str
            The files of ``--configfile``; without any, ``given`` is laid over the default configuration.
        """
        base: dict[str, Any] = {}
        for file in files or [DEFAULT]:
            base = overlay(base, with_base(read_yaml(file), Path(file).parent))
        content = overlay(base, retyped({key: value for key, value in given.items() if key != "extends"}, base))
        here = Path.cwd()
        named = [str(Path(file).relative_to(here)) if Path(file).is_relative_to(here) else file for file in files]
        config = parse_config(content, ", ".join(named) or DEFAULT)
        check_device(config)
        fallback = resolve_data(config, Path(config.folders.data) / "raw")
        plan = cls(config, fallback)
        check_folders(
            [("data", plan.data), ("artifacts", plan.artifacts), ("reports", plan.reports), ("logs", plan.logs)]
        )
        published = load_published(PUBLISHED)
        for name, experiment in config.experiments.items():
            for row in experiment.compare:
                if row.published not in published:
                    raise UserError(
                        f"experiments.{name}.compare: unknown published row {row.published!r}; allowed: "
                        f"{', '.join(published)} ({PUBLISHED})"
                    )
        return plan

    def notices(self) -> list[str]:
        """Return what the user should read before the first job, a line each."""
        lines = [f"warning: {line}" for line in self.config.warnings()]
        return [self.fallback_sentence(), *lines] if self.fallback else lines

    def fallback_sentence(self) -> str:
        """Return the loud line for captions, empty where the data are what was asked for."""
        if not self.fallback:
            return ""
        return LOUD.format(datasets=", ".join(sorted({self.config.dataset_of(arm) for arm in self.config.arms})))

    # --- data ---------------------------------------------------------------------------------------------------

    def dataset(self, arm: str) -> str:
        """Return the data set that an arm trains on."""
        return self.fallback or self.config.dataset_of(arm)

    def raw(self, dataset: str) -> list[str]:
        """Return the published files of a data set."""
        return [f"{self.data}/raw/{dataset}/{name}" for name in dataset_info(dataset).files]

    def subset(self, arm: str) -> dict[str, str]:
        """Return the files of an arm's subset, by what they are."""
        return self.subset_files(self.dataset(arm))

    def subset_files(self, dataset: str) -> dict[str, str]:
        """Return the files of a data set's subset; each part of a subset's content is part of its name."""
        data = self.config.data
        folder = f"{self.data}/subsets/{dataset}-{data.train}-{data.test}-{data.choice}-{data.evaluate_on}"
        return {
            "train": f"{folder}/train.safetensors",
            "test": f"{folder}/test.safetensors",
            "about": f"{folder}/about.json",
        }

    def fetch_spec(self, dataset: str) -> str:
        """Return what fetching a data set depends on."""
        data = self.config.data
        return canonical({"dataset": dataset, "mirrors": data.mirrors, "download": data.download})

    def subset_spec(self, dataset: str) -> str:
        """Return what a subset depends on."""
        data = self.config.data
        keys = {key: getattr(data, key) for key in ("train", "test", "choice", "evaluate_on")}
        return canonical({"dataset": dataset, **keys})

    # --- partitions ---------------------------------------------------------------------------------------------

    def partition_file(self, dataset: str, partition: str, seed: int | str) -> str:
        """Return where a partition of a data set lies."""
        return f"{self.artifacts}/partitions/{dataset}/{partition}/seed{seed}.json"

    def partition_of(self, arm: str, seed: int | str) -> list[str]:
        """Return the partition that an arm trains on, as a list of one file, or of none."""
        name = self.config.arms[arm].partition
        return [self.partition_file(self.dataset(arm), name, seed)] if name else []

    def partition_spec(self, partition: str) -> str:
        """Return what a partition depends on."""
        spec = self.config.partitions[partition].to_json()
        return canonical({"name": partition, "partition": spec, "root_seed": self.config.seed})

    # --- runs ---------------------------------------------------------------------------------------------------

    def run(self, arm: str, seed: int | str, name: str = "") -> str:
        """Return the folder of a run, or a file in it."""
        return f"{self.artifacts}/runs/{arm}/seed{seed}" + (f"/{name}" if name else "")

    def every_seed(self, arm: str, name: str) -> list[str]:
        """Return a file of each seed of an arm."""
        return [self.run(arm, seed, name) for seed in self.seeds]

    def every_run(self, *names: str) -> list[str]:
        """Return files of every arm and seed."""
        return [self.run(arm, seed, name) for arm in self.config.arms for seed in self.seeds for name in names]

    def noise_of(self, arm: str, seed: int | str) -> list[str]:
        """Return an arm's calibrated noise, as a list of one file, or of none without privacy."""
        private = not isinstance(self.config.arms[arm].privacy, NoPrivacy)
        return [self.run(arm, seed, "noise.json")] if private else []

    def arm_spec(self, arm: str) -> str:
        """Return what training an arm depends on."""
        return canonical(
            {
                "arm": self.config.arms[arm].technique(),
                "dataset": self.dataset(arm),
                "root_seed": self.config.seed,
                "device": self.config.device,
            }
        )

    def calibrate_spec(self, arm: str) -> str:
        """Return what calibrating an arm depends on: not its learning rate, nor its aggregation."""
        technique = self.config.arms[arm].technique()
        keep = {key: technique[key] for key in ("privacy", "topology")}
        training = {key: technique["training"][key] for key in ("epochs", "batch_size")}
        return canonical({"arm": {**keep, "training": training}})

    def predict_spec(self, arm: str) -> str:
        """Return what an arm's predictions depend on besides its models."""
        return canonical(
            {"model": self.config.arms[arm].model, "dataset": self.dataset(arm), "device": self.config.device}
        )

    def account_spec(self, arm: str) -> str:
        """Return what an arm's privacy statement depends on besides what was executed."""
        return canonical({"privacy": self.config.arms[arm].technique()["privacy"]})

    # --- reports ------------------------------------------------------------------------------------------------

    def collect_spec(self) -> str:
        """Return every run and where it lies."""
        return canonical(
            [
                {"arm": arm, "folder": self.run(arm, seed), "partition": next(iter(self.partition_of(arm, seed)), None)}
                for arm in self.config.arms
                for seed in self.seeds
            ]
        )

    def show_spec(self, experiment: str) -> str:
        """Return what the tables and figures of an experiment depend on besides the records."""
        spec = self.config.experiments[experiment]
        content = {
            "title": spec.title,
            "arms": {name: self.config.arms[name].label or name for name in spec.arms},
            "compare": [row.to_json() for row in spec.compare],
        }
        # Not canonical: the order of the arms is the order shown.
        return json.dumps(content, separators=(",", ":"))

    def tables(self) -> list[str]:
        """Return every table, in every format."""
        return [
            f"{self.reports}/tables/{name}-{kind}.{suffix}"
            for name, experiment in self.config.experiments.items()
            for kind in experiment.tables
            for suffix in ("md", "csv", "tex", "html")
        ]

    def figures(self) -> list[str]:
        """Return every figure, in every format."""
        return [
            f"{self.reports}/figures/{name}-{kind}.{suffix}"
            for name, experiment in self.config.experiments.items()
            for kind in experiment.figures
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

    def datasets(self) -> list[str]:
        """Return the data sets that must be fetched."""
        return sorted({self.dataset(arm) for arm in self.config.arms} - {DIGITS})
