"""Rule partition: divide the training subset among clients."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from ppml.config.data import PartitionSpec
from ppml.data.partition import partition, records_to_divide
from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.io.canonical_json import canonical
from ppml.randomness import Randomness


def main(argv: Sequence[str] | None = None) -> None:
    """Write each client's positions and label counts; ``--spec`` holds partition and root_seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--name", required=True, help="what the configuration calls the partition, for messages")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    spec = TypeAdapter(PartitionSpec).validate_python(arguments.spec["partition"])
    labels = load_file(arguments.train)["labels"]
    # The path holds what the partition is and not what it is called.
    of_seed = Randomness(arguments.spec["root_seed"]).child("seed", arguments.seed)
    rng = of_seed.child("partition", canonical(arguments.spec["partition"]))
    # However records are divided, and among how many, as many are the same ones: so divisions compare.
    choice = of_seed.child("records", spec.records or len(labels))
    try:
        divided = records_to_divide(spec, len(labels), choice.numpy())
        parts = [divided[part] for part in partition(spec, labels[divided], rng.numpy())]
    except UserError as error:
        raise UserError(f"partitions.{arguments.name}: {error}") from None
    classes = int(labels.max()) + 1
    write_json(
        arguments.output,
        {
            "clients": [part.tolist() for part in parts],
            "labels": [np.bincount(labels[part], minlength=classes).tolist() for part in parts],
        },
    )
