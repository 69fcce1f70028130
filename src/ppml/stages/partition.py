"""Stage partition: divide the training subset among clients."""

from __future__ import annotations

import numpy as np
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from ppml.config.data import PartitionSpec
from ppml.data.partition import partition, random_path, sample_examples
from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.io.canonical_json import canonical
from ppml.jobs.job import Job
from ppml.randomness import Randomness
from ppml.stages.about import read_contract


def run(job: Job) -> None:
    """Write each client's positions and label counts.

    The specification holds partition and root_seed, the notes hold the name of the partition.
    """
    spec = TypeAdapter(PartitionSpec).validate_python(job.spec["partition"])
    labels = load_file(job.inputs["train"])["labels"]
    of_seed = Randomness(job.spec["root_seed"]).child("seed", job.seed)
    # The random draws depend on the content of the partition, and not on its name.
    rng = of_seed.child("partition", canonical(random_path(spec)))
    # Partitions of equally many examples divide the same ones, so that results compare.
    sampling = of_seed.child("records", spec.sample_size or len(labels))
    try:
        divided = sample_examples(spec, len(labels), sampling.numpy())
        parts = [divided[part] for part in partition(spec, labels[divided], rng.numpy())]
    except UserError as error:
        raise UserError(f"partitions.{job.notes['name']}: {error}") from None
    classes = len(read_contract(job.inputs["about"]).classes)
    write_json(
        job.outputs["partition"],
        {
            "clients": [part.tolist() for part in parts],
            "labels": [np.bincount(labels[part], minlength=classes).tolist() for part in parts],
        },
    )
