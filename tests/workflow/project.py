"""A copy of the project in a new folder, and its commands."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import mirrored
from tests.workflow.preloaded import run_python

ROOT = Path(__file__).resolve().parents[2]
MIRROR = ROOT.parent / "shared" / "datasets"
PARTS = (
    *("Snakefile", "workflow", "config", "profiles", "src", "environment.yml", "requirements.lock"),
    *(".dvc", ".dvcignore", ".gitignore", "dvc.yaml"),
)
PUBLIC = """\
# The smoke configuration, in the folders that are published.
extends: smoke.yaml
folders: {{data: data, artifacts: artifacts, reports: reports, logs: logs}}
data: {{dataset: {dataset}}}
"""
DATASET = "mnist" if mirrored("mnist") else "digits"
MEASURED = (
    *("cost.json", "costs.csv", "inferences.csv", "provenance.json"),
    *("-cost.", "-summary.", "-published.", "-headline.", "-recommendations.", "-inference."),
)
"""Parts of the names of files with measurements, or with digests of measurements."""
LIST_JOBS = """
import json, sys
from ppml.pipeline.job_status import plan_jobs
from ppml.pipeline.status import job_records, read_plan
print(json.dumps([status.job.name for status in plan_jobs(job_records(read_plan([sys.argv[1]]))) if status.runs]))
"""


def jobs(rules: Iterable[str], arms: Iterable[str], seeds: Iterable[str]) -> set[str]:
    """Return the names of jobs in :meth:`Project.planned`."""
    return {f"{rule} {arm}/{seed}" for rule in rules for arm in arms for seed in seeds}


class Project:
    """The workflow in ``folder``, with a copy of the code.

    Parameters
    ----------
    folder : Path
        An empty folder, or a copy of a project.
    mirror : Path or None
        The mirror of the data, if any.
    config : str
        The configuration of its runs.
    """

    def __init__(self, folder: Path, *, mirror: Path | None = MIRROR, config: str = "config/smoke.yaml") -> None:
        self.folder = folder
        self.config = config
        self.environment = {
            **os.environ,
            "PPML_DATA_MIRROR": str(mirror or ""),
            "PYTHONPATH": str(folder / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if not (folder / "Snakefile").exists():
            self._copy_parts()

    def _copy_parts(self) -> None:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "cache", "tmp", "config.local")
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, self.folder / part, ignore=ignore)
            else:
                shutil.copy(source, self.folder / part)

    def append(self, path: str, text: str) -> None:
        """Append a text to a file."""
        with (self.folder / path).open("a") as file:
            file.write(text)

    def replace(self, path: str, before: str, after: str, count: int = 1) -> None:
        """Replace a text in a file."""
        file = self.folder / path
        text = file.read_text()
        assert before in text, f"{path} does not hold {before!r}"
        file.write_text(text.replace(before, after, count))

    def without_data(self) -> Project:
        """Return the project without a source of MNIST."""
        self.replace("config/smoke.yaml", "dataset: mnist,", "mirrors: [], download: false, dataset: mnist,")
        self.environment["PPML_DATA_MIRROR"] = ""
        return self

    def keep_arms(self, *names: str) -> Project:
        """Return the project with some arms of its configuration, one seed, one table, and no audit."""
        file = self.folder / self.config
        content = yaml.safe_load(file.read_text())
        del content["audit"]
        arms = {name: content["arms"][name] for name in names}
        experiments = {"techniques": {"title": "Techniques", "arms": [*names], "tables": ["summary"]}}
        file.write_text(yaml.safe_dump({**content, "seeds": [0], "arms": arms, "experiments": experiments}))
        return self

    def copy(self, folder: Path) -> Project:
        """Return a copy of the project with its records, results and times of files."""
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2)
        return Project(folder, config=self.config)

    def start(self, *arguments: str, cores: int = 2) -> subprocess.Popen[str]:
        """Start the workflow as a program of its own."""
        command = [sys.executable, "-m", "snakemake", *arguments, "--cores", str(cores), "--configfile", self.config]
        return self.popen(*command)

    def popen(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, cores: int = 2) -> tuple[int, str]:
        """Run the workflow, and return the status and the output."""
        return self.python("-m", "snakemake", *arguments, "--cores", str(cores), "--configfile", self.config)

    def complete(self, *arguments: str, cores: int = 2) -> str:
        """Run the workflow, which must succeed, and return its output."""
        status, output = self.run(*arguments, cores=cores)
        assert status == 0, output
        return output

    def python(self, *arguments: str) -> tuple[int, str]:
        """Run Python in the folder."""
        return run_python(arguments, self.folder, self.environment)

    def call(self, *arguments: str) -> str:
        """Run Python, which must succeed, and return its output."""
        status, output = self.python(*arguments)
        assert status == 0, output
        return output

    def evaluate(self, code: str) -> Any:
        """Return the last line that code prints, read as JSON; its argument is the configuration."""
        return json.loads(self.call("-c", code, self.config).splitlines()[-1])

    def git(self, *arguments: str) -> str:
        """Run git in the folder."""
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        )
        return done.stdout

    def publish(self) -> None:
        """Publish the results in a folder beside the project, and commit the lists of files."""
        (self.folder.parent / "store").mkdir(exist_ok=True)
        self.call("-m", "ppml.pipeline.publish")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "Publish results")

    def planned(self) -> set[str]:
        """Return the jobs of a dry run, for instance ``train fl/0``; the records and Snakemake must agree."""
        found = set(self.evaluate(LIST_JOBS))
        assert self.dry_run() == found
        return found

    def dry_run(self) -> set[str]:
        """Return the jobs of Snakemake's dry run."""
        output = self.complete("-n")
        lines = re.findall(r"^(\w+(?: \S.*)?)  \(.*\)$", output, re.MULTILINE)
        return {re.sub(r"\bseed(?=-?\d+$)", "", line) for line in lines} - {"all"}

    def output_folder(self, kind: str) -> Path:
        """Return the folder of artifacts, reports or logs of a small configuration, or of its fallback."""
        folder = self.folder / "build" / Path(self.config).stem / kind
        return folder if folder.exists() else folder.with_name(f"{kind}-digits")

    def files(self, *folders: str) -> dict[str, str]:
        """Return the SHA-256 of every file in ``folders`` by its path."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in folders
            for path in sorted((self.folder / folder).rglob("*"))
            if path.is_file()
        }

    def reproducible_files(self, *folders: str) -> dict[str, str]:
        """Return the SHA-256 of all files without measurements, by default of the smoke configuration."""
        files = self.files(*(folders or ("data/subsets", "build")))
        return {path: sha256 for path, sha256 in files.items() if "/logs" not in path and not is_measured(path)}


def is_measured(path: str) -> bool:
    """Return whether a file has measurements, such as times, or their digests: they differ between any two runs."""
    return any(part in path for part in MEASURED)


def wait_for_success(process: subprocess.Popen[str]) -> str:
    """Return the output of a process, whose status must be 0, and kill it after an exception."""
    try:
        output, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output
