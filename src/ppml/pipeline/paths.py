"""The path of every output of the workflow."""

from __future__ import annotations

from ppml.config.model import Config

SUBSET = {"train": "train.safetensors", "test": "test.safetensors", "about": "about.json"}
"""Files of a subset, and of its transforms."""


class Paths:
    """Paths below the folders of a configuration.

    Every part of the content of a subset, a transform or a partition is a part of its path.

    Parameters
    ----------
    config : Config
        The configuration.
    fallback : str or None
        The data set that replaces all others; its results have folders of their own.
    """

    def __init__(self, config: Config, fallback: str | None) -> None:
        suffix = f"-{fallback}" if fallback else ""
        self._config = config
        self.data = config.folders.data
        self.artifacts = config.folders.artifacts + suffix
        self.reports = config.folders.reports + suffix
        self.logs = config.folders.logs + suffix
        # The first page of Snakemake's report only combines figures: git does not need it.
        self.overview = f"{self.logs}/overview.rst"

    def raw(self, dataset: str, names: tuple[str, ...]) -> dict[str, str]:
        """Return the published files of a data set."""
        return {name: f"{self.data}/raw/{dataset}/{name}" for name in names}

    def decoded(self, dataset: str) -> str:
        """Return the file of the decoded pictures of a data set."""
        return f"{self.data}/decoded/{dataset}/pictures.safetensors"

    def subset(self, dataset: str) -> dict[str, str]:
        """Return the files of the subset of a data set."""
        return self._files(f"{self.data}/subsets/{self._subset_name(dataset)}")

    def transformed(self, dataset: str, chain: str) -> dict[str, str]:
        """Return the files of a subset after a chain of transforms."""
        return self._files(f"{self.data}/transformed/{self._subset_name(dataset)}/{chain}")

    def partition(self, dataset: str, partition: str, seed: int | str) -> str:
        """Return the file of a partition of a data set."""
        return f"{self.artifacts}/partitions/{dataset}/{partition}/seed{seed}.json"

    def run(self, arm: str, seed: int | str, name: str = "") -> str:
        """Return the folder of a run, or a file in it."""
        return f"{self.artifacts}/runs/{arm}/seed{seed}" + (f"/{name}" if name else "")

    def tidy(self, name: str) -> str:
        """Return the tidy file of all runs with this name."""
        return f"{self.reports}/{name}.csv"

    def metrics(self, arm: str) -> str:
        """Return the file of an arm's metrics, which DVC shows in one row."""
        return f"{self.reports}/metrics/{arm}.json"

    def table(self, experiment: str, kind: str) -> dict[str, str]:
        """Return the files of a table, by format."""
        return {
            suffix: f"{self.reports}/tables/{experiment}-{kind}.{suffix}" for suffix in ("md", "csv", "tex", "html")
        }

    def figure(self, experiment: str, kind: str) -> dict[str, str]:
        """Return the files of a figure, by format."""
        return {suffix: f"{self.reports}/figures/{experiment}-{kind}.{suffix}" for suffix in ("svg", "png")}

    def page(self, suffix: str) -> str:
        """Return the file with all tables and figures for readers; ``suffix`` is ``html`` or ``pdf``."""
        return f"{self.reports}/report.{suffix}"

    def _subset_name(self, dataset: str) -> str:
        data = self._config.data
        return f"{dataset}-{data.train}-{data.test}-{data.selection}-{data.evaluate_on}"

    @staticmethod
    def _files(folder: str) -> dict[str, str]:
        return {name: f"{folder}/{file}" for name, file in SUBSET.items()}
