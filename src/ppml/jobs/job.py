"""One job of a stage: its files, and the part of the configuration that it depends on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One job of a stage.

    Parameters
    ----------
    spec : mapping or list
        The part of the configuration that the outputs depend on, as plain values.
    inputs, outputs : mapping
        The files by name, without absent inputs.
    seed : int
        The seed of an arm's repetition.
    threads : int
        The number of processes for the work; no bit of an output depends on it.
    digest : str
        The digest of the code and the pinned packages.
    notes : mapping
        The values that no output depends on: names for messages, sources of files.
    """

    spec: Any
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    seed: int = 0
    threads: int = 1
    digest: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec_text(self) -> str:
        """The specification as JSON text."""
        return json.dumps(self.spec, separators=(",", ":"))

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Job:
        """Return the job of a command line."""
        parser = argparse.ArgumentParser(prog="python -m ppml.jobs STAGE")
        parser.add_argument("--spec", type=json.loads, default={})
        parser.add_argument("--inputs", type=_paths, default={}, help="JSON: name -> path")
        parser.add_argument("--outputs", type=_paths, default={}, help="JSON: name -> path")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--digest", default="")
        parser.add_argument("--notes", type=json.loads, default={})
        return cls(**vars(parser.parse_args(arguments)))

    def options(self) -> list[str]:
        """Return the options for :meth:`parse`, without defaults."""
        files = {
            name: {key: str(path) for key, path in paths.items()}
            for name, paths in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        values = {"spec": self.spec, **files, "notes": self.notes}
        texts = {name: json.dumps(value, separators=(",", ":")) for name, value in values.items() if value}
        texts |= {"seed": str(self.seed)} if self.seed else {}
        texts |= {"threads": str(self.threads)} if self.threads > 1 else {}
        texts |= {"digest": self.digest} if self.digest else {}
        return [part for name, text in texts.items() for part in (f"--{name}", text)]


def _paths(text: str) -> dict[str, Path]:
    return {name: Path(path) for name, path in json.loads(text).items()}
