"""A git clone of a small project with the sharing of this project, and a remote beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from ppml.errors import UserError
from ppml.pipeline.plan import Plan
from ppml.pipeline.publish import publish
from ppml.pipeline.pull import pull
from tests.workflow.project import ROOT

CONFIG = """
seeds: [0]
data: {dataset: digits, train: 100, test: 100}
arms:
  centralized: {training: {epochs: 1, batch_size: 32, learning_rate: 0.06}}
"""
FILES = {
    "data/raw/mnist/train-images-idx3-ubyte.gz": b"raw " * 5000,
    "data/subsets/mnist-100-100-first-test/train.safetensors": bytes(range(256)) * 40,
    "data/transformed/mnist-100-100-first-test/scattering-9-0.001-2024/train.safetensors": b"features",
    "artifacts/partitions/mnist/iid8/seed0.json": b"{}\n",
    **{f"artifacts/runs/fl/seed{seed}/model.safetensors": b"model %d" % seed for seed in range(12)},
    **{f"artifacts/runs/fl/seed{seed}/events.json": b"[]\n" for seed in range(12)},
}
METRICS = b'{"accuracy": {"mean": 0.97, "std": 0.01}, "seeds": 3}'
METRIC_FILES = ("metrics/dp", "metrics/fl", "best/metrics/a", "clients/metrics/b", "inference/metrics/c")
REMAINS = {
    "artifacts/runs/fl/seed0/.model-x1.safetensors": b"half",
    "artifacts/runs/fl/seed0/model.safetensors.tmp": b"half",
    "artifacts/runs/fl/seed0/checkpoint.safetensors": b"half",
}


def set_store(folder: Path) -> None:
    """Set the folder `store` beside a project as its default remote, in the file that git tracks."""
    path = folder / ".dvc/config"
    text = path.read_text().replace("[core]\n", "[core]\n    remote = store\n", 1)
    path.write_text(text + "['remote \"store\"']\n    url = ../../store\n")


class Clone:
    """A git clone of a small project with the sharing of this project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def first(cls, folder: Path) -> Clone:
        """Create the project, with results."""
        (folder / "config").mkdir(parents=True)
        shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "*.local"))
        shutil.copytree(ROOT / ".dvc-site", folder / ".dvc-site", ignore=shutil.ignore_patterns("[0-9a-f]*"))
        set_store(folder)
        for name in (".dvcignore", ".gitignore", "dvc.yaml", "dvc.lock"):
            shutil.copy(ROOT / name, folder / name)
        shutil.copy(ROOT / "config/published.yaml", folder / "config/published.yaml")
        self = cls(folder)
        self.write({f"reports/{path}.json": METRICS for path in METRIC_FILES})
        for name in ("records.csv", "history.csv"):
            shutil.copy(ROOT / "reports" / name, folder / "reports" / name)
        (folder / "config/default.yaml").write_text(CONFIG)
        (folder / "config/full.yaml").write_text("extends: default.yaml\nfolders: {artifacts: build/full/artifacts}\n")
        self.write({**FILES, **REMAINS})
        self.git("init", "-q", "-b", "main")
        self.commit()
        return self

    def write(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "results")

    def clone(self, name: str = "other") -> Clone:
        subprocess.run(["git", "clone", "-q", self.folder, self.folder.parent / name], check=True)
        return Clone(self.folder.parent / name)

    def dvc(self, *arguments: str) -> str:
        done = run(self, "-m", "dvc", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def remote(self, **settings: str) -> None:
        """Set the default remote of this clone only."""
        lines = [f"{key} = {value}" for key, value in settings.items()]
        path = self.folder / ".dvc/config.local"
        path.write_text("\n".join(["[core]", "remote = elsewhere", "['remote \"elsewhere\"']", *lines, ""]))

    def publish(self, unfinished: tuple[str, ...] = (), read: list[str] | None = None) -> None:
        """Publish; ``read`` gets the configurations."""

        def read_plan(configfiles: list[str]) -> Plan:
            (read if read is not None else []).extend(configfiles)
            return Plan.check({}, configfiles)

        records = SimpleNamespace(save_book=lambda: self.write({"reports/provenance.json": b"{}\n"}))
        replaced: dict[str, Any] = {"job_records": lambda plan: records, "unfinished": lambda records: list(unfinished)}
        replaced["read_plan"] = read_plan
        os.chdir(self.folder)
        with mock.patch.multiple("ppml.pipeline.publish", **replaced):
            publish(self.folder)

    def pull(self, source: str = "") -> None:
        pull(self.folder, source)

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for folder in ("data", "artifacts")
            for path in (self.folder / folder).rglob("*")
            if path.is_file()
        }


def stored(store: Path, content: bytes) -> Path:
    """Return the path of a file's object in a remote or cache."""
    name = hashlib.md5(content).hexdigest()
    return store / "files/md5" / name[:2] / name[2:]


def stored_list(store: Path, clone: Clone, folder: str) -> Path:
    name = (clone.folder / f"{folder}.dvc").read_text().split("md5: ")[1].split()[0]
    return store / "files/md5" / name[:2] / name[2:]


def isolate(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the settings, keys and caches of the user."""
    for name in ("HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        patch.setenv(name, str(folder / "isolated" / name))
    patch.delenv("SSH_AUTH_SOCK", raising=False)
    patch.chdir(folder)


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def run(clone: Clone, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=clone.folder, capture_output=True, text=True, check=False)
