"""Rule fetch: bring the published files of a data set into data/raw, checked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ppml.data.sources import fetch, published_files


def main(argv: Sequence[str] | None = None) -> None:
    """Fetch every file; ``--spec`` holds dataset, ``--sources`` mirrors and download."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--sources", type=json.loads, required=True)
    parser.add_argument("--outputs", type=Path, nargs="+", required=True)
    arguments = parser.parse_args(argv)
    dataset, sources = arguments.spec["dataset"], arguments.sources
    files = {file.name: file for file in published_files(dataset)}
    for output in arguments.outputs:
        file = files[output.name]
        source = fetch(file, dataset, output.parent, sources["mirrors"], download=sources["download"])
        print(f"{file.name}: {source}")
