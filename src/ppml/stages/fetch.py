"""Rule fetch: bring the published files of a data set into data/raw, checked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ppml.data.sources import fetch, published_files


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch every file; ``--spec`` holds dataset, mirrors and download."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--outputs", type=Path, nargs="+", required=True)
    arguments = parser.parse_args(argv)
    spec = arguments.spec
    files = {file.name: file for file in published_files(spec["dataset"])}
    for output in arguments.outputs:
        file = files[output.name]
        source = fetch(file, spec["dataset"], output.parent, spec["mirrors"], download=spec["download"])
        print(f"{file.name}: {source}")
