"""Rule subset: choose the images that train, and those that the evaluation opens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppml.data.catalogue import dataset_info
from ppml.data.loading import load_splits
from ppml.data.subset import choose
from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.io.digests import content_digest
from ppml.stages.example_files import write_examples


def main(argv: Sequence[str] | None = None) -> None:
    """Write the training subset and the whole evaluation file with the paper's test images first.

    ``--spec`` holds dataset, train, test, choice and evaluate_on.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--raw", type=Path, nargs="*", default=[])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--about", type=Path, required=True)
    arguments = parser.parse_args(argv)
    spec = arguments.spec

    holdout = spec["evaluate_on"] == "holdout"
    official_train, *others = load_splits(spec["dataset"], arguments.raw, ("train",) if holdout else ("train", "test"))
    train = choose(official_train.labels, spec["train"], spec["choice"])
    source = official_train if holdout else others[0]
    candidates = np.arange(len(source.labels))
    if holdout:
        candidates = np.setdiff1d(candidates, train)[:10_000]
        if not len(candidates):
            raise UserError(
                f"data.evaluate_on: holdout needs training images outside the subset, but data.train takes all "
                f"{len(train)}; lower data.train"
            )
    chosen = candidates[choose(source.labels[candidates], spec["test"], spec["choice"])]
    test = np.concatenate([chosen, np.setdiff1d(candidates, chosen)])

    write_examples(arguments.train, official_train.images[train], official_train.labels[train])
    write_examples(arguments.test, source.images[test], source.labels[test])
    write_json(
        arguments.about,
        {
            **spec,
            "n_train": len(train),
            "n_test": len(chosen),
            "n_test_all": len(test),
            "classes": int(official_train.labels.max()) + 1,
            "digest": content_digest(
                [arguments.train, arguments.test], published=dataset_info(spec["dataset"]).published
            ),
        },
    )
