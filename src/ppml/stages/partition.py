"""Stage partition: divide the training subset among clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from ppml.config.data import Dirichlet, Iid, Natural, PartitionSpec, Shards
from ppml.contract import DataContract
from ppml.data.partition import Owned, divide_by_group, partition, random_path, sample_examples
from ppml.data.raw_examples import group_tensor
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
    tensors, contract = load_file(job.inputs["train"]), read_contract(job.inputs["about"])
    labels = tensors["labels"]
    try:
        parts = _natural(spec, tensors, contract) if isinstance(spec, Natural) else _drawn(spec, labels, job)
    except UserError as error:
        raise UserError(f"partitions.{job.notes['name']}: {error}") from None
    classes = len(contract.classes)
    write_json(
        job.outputs["partition"],
        {
            "clients": [part.tolist() for part in parts],
            "labels": [np.bincount(labels[part], minlength=classes).tolist() for part in parts],
            **({"names": spec.chosen(contract.groups)} if isinstance(spec, Natural) else {}),
        },
    )


def _natural(spec: Natural, tensors: Mapping[str, NDArray[Any]], contract: DataContract) -> Owned:
    names = spec.chosen(contract.groups)
    chosen = [contract.groups[spec.by].index(name) for name in names]
    return divide_by_group(tensors[group_tensor(spec.by)], chosen, names)


def _drawn(spec: Iid | Shards | Dirichlet, labels: NDArray[np.int64], job: Job) -> Owned:
    of_seed = Randomness(job.spec["root_seed"]).child("seed", job.seed)
    # The random draws depend on the content of the partition, and not on its name.
    rng = of_seed.child("partition", canonical(random_path(spec)))
    # Partitions of equally many examples divide the same ones, so that results compare.
    sampling = of_seed.child("records", spec.sample_size or len(labels))
    divided = sample_examples(spec, len(labels), sampling.numpy())
    return [divided[part] for part in partition(spec, labels[divided], rng.numpy())]
