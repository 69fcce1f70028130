"""A copy of the project in a folder of its own, and Snakemake run in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIRROR = ROOT.parent / "shared" / "datasets"
PARTS = ("Snakefile", "workflow", "config", "profiles", "environment.yml")
MEASURED = ("cost.json",)


class Project:
    """The workflow in ``folder``; the code is the installed package."""

    def __init__(self, folder: Path, *, mirror: Path | None = MIRROR) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PPML_DATA_MIRROR": str(mirror or "")}
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / part)

    def start(self, *arguments: str, cores: int = 2, config: str = "config/smoke.yaml") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "snakemake", *arguments, "--cores", str(cores), "--configfile", config]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, cores: int = 2, config: str = "config/smoke.yaml") -> tuple[int, str]:
        process = self.start(*arguments, cores=cores, config=config)
        output, _ = process.communicate()
        return process.returncode, output

    def files(self, *folders: str) -> dict[str, str]:
        """Return the SHA-256 of every file below ``folders``, by its path."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in folders
            for path in sorted((self.folder / folder).rglob("*"))
            if path.is_file()
        }
