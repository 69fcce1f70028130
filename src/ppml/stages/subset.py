"""Stage subset: choose the training examples and the evaluation examples, and write the contract of the data."""

from __future__ import annotations

import hashlib

import numpy as np

from ppml.config.datasets import DatasetSpec
from ppml.data.loading import load_splits
from ppml.data.subset import select_subset
from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.io.canonical_json import canonical
from ppml.io.digests import content_digest, publishable_digest
from ppml.jobs.job import Job
from ppml.stages.example_files import write_examples

HOLDOUT = 10_000
"""The largest number of examples that a holdout evaluates."""


def run(job: Job) -> None:
    """Write the training subset, the whole evaluation file with the paper's test examples first, and about.json.

    The specification holds dataset, source (the entry of the data set), train, test, selection and evaluate_on. The
    inputs are the raw files.
    """
    spec = dict(job.spec)
    source = DatasetSpec.model_validate(spec.pop("source"))
    holdout = spec["evaluate_on"] == "holdout"
    raw = list(job.inputs.values())
    official_train, *others = load_splits(source, raw, ("train",) if holdout else ("train", "test"))
    train = select_subset(official_train.labels, spec["train"], spec["selection"])
    evaluated = official_train if holdout else others[0]
    candidates = np.arange(len(evaluated.labels))
    if holdout:
        candidates = np.setdiff1d(candidates, train)[:HOLDOUT]
        if not len(candidates):
            raise UserError(
                f"data.evaluate_on: holdout needs training examples outside the subset, but data.train takes all "
                f"{len(train)}; lower data.train"
            )
    chosen = candidates[select_subset(evaluated.labels[candidates], spec["test"], spec["selection"])]
    test = np.concatenate([chosen, np.setdiff1d(candidates, chosen)])

    contract, files = source.contract, [job.outputs["train"], job.outputs["test"]]
    write_examples(files[0], official_train.inputs[train], official_train.labels[train], contract)
    write_examples(files[1], evaluated.inputs[test], evaluated.labels[test], contract)
    write_json(
        job.outputs["about"],
        {
            **spec,
            "source": publishable_digest(
                hashlib.sha256(canonical(source.to_json()).encode()).hexdigest(), published=contract.redistributable
            ),
            "n_train": len(train),
            "n_test": len(chosen),
            "n_test_all": len(test),
            "digest": content_digest(files, published=contract.redistributable),
            "contract": contract.to_json(),
        },
    )
