"""Stage subset: choose the training examples and the evaluation examples, and write the contract of the data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppml.config.datasets import CsvDataset, Dataset, ParquetDataset, SklearnDataset, parse_dataset
from ppml.contract import DataContract
from ppml.data.loading import load_splits
from ppml.data.raw_examples import RawExamples
from ppml.data.splits import count_duplicates
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

    The specification holds dataset, source (the entry of the data set), contract, catalogued, train, test, selection
    and evaluate_on. The inputs are the raw files, or the decoded pictures.
    """
    spec = dict(job.spec)
    source, contract, catalogued = parse_dataset(spec.pop("source")), spec.pop("contract"), spec.pop("catalogued")
    try:
        train, evaluated, shown = _choose(source, job.inputs, spec)
    except UserError as error:
        raise UserError(f"{spec['dataset']}: {error}") from None
    contract = _contract(DataContract.model_validate(contract), source, train)
    files = [job.outputs["train"], job.outputs["test"]]
    for path, examples in zip(files, (train, evaluated), strict=True):
        write_examples(path, examples.inputs, examples.labels, contract, examples.groups)
    public = contract.public
    facts = source.model_dump(mode="json", exclude={"files": {"__all__": {"path"}}, "folder": True})
    write_json(
        job.outputs["about"],
        {
            **spec,
            "source": publishable_digest(hashlib.sha256(canonical(facts).encode()).hexdigest(), public=public),
            "identity": None if catalogued else _identity(files[0], contract),
            "n_train": len(train),
            "n_test": shown,
            "n_test_all": len(evaluated),
            "digest": content_digest(files, public=public),
            "contract": contract.to_json(),
            **_warnings(spec["dataset"], train, evaluated),
        },
    )


def _choose(
    source: Dataset, files: dict[str, Path] | Any, spec: dict[str, Any]
) -> tuple[RawExamples, RawExamples, int]:
    """Return the training examples, the evaluation examples, and the number of the evaluated first ones."""
    holdout = spec["evaluate_on"] == "holdout"
    official_train, *others = load_splits(source, files, ("train",) if holdout else ("train", "test"))
    train = select_subset(official_train.labels, spec["train"], spec["selection"])
    evaluated = official_train if holdout else others[0]
    candidates: NDArray[np.int64] = np.arange(len(evaluated))
    if holdout:
        candidates = np.setdiff1d(candidates, train)[:HOLDOUT]
        if not len(candidates):
            raise UserError(
                f"data.evaluate_on: holdout needs training examples outside the subset, but data.train takes all "
                f"{len(train)}; lower data.train"
            )
    chosen = candidates[select_subset(evaluated.labels[candidates], spec["test"], spec["selection"])]
    test = np.concatenate([chosen, np.setdiff1d(candidates, chosen)])
    examples = official_train.select(train), evaluated.select(test)
    _check_classes(source, *examples)
    return *examples, len(chosen)


def _check_classes(source: Dataset, train: RawExamples, test: RawExamples) -> None:
    """Raise a :class:`UserError` if training has one class, or the evaluation a class that training lacks."""
    names = source.contract.classes
    known = set(np.unique(train.labels).tolist())
    if len(known) < 2:
        raise UserError(
            f"the {len(train)} training examples have one class only, {names[min(known)]!r}; set data.selection: "
            "stratified, or raise data.train"
        )
    new = sorted(set(np.unique(test.labels).tolist()) - known)
    if new and not source.allow_new_classes:
        counts = ", ".join(f"{names[label]!r} ({(test.labels == label).sum()} examples)" for label in new)
        raise UserError(
            f"the test has classes that training lacks: {counts}; set data.selection: stratified, raise data.train, or "
            "state allow_new_classes: true"
        )


def _contract(contract: DataContract, source: Dataset, train: RawExamples) -> DataContract:
    """Return the contract, with mean and deviation of the training examples where the data set asks for them."""
    match source:
        case CsvDataset() | ParquetDataset() | SklearnDataset() if contract.fitted:
            # An import in the case, so that the code digest of pictures counts no reader of tables.
            from ppml.data.formats.table_encoding import fitted_constants

            mean, deviation = fitted_constants(source, train.inputs)
            return contract.model_copy(update={"mean": mean, "deviation": deviation})
    return contract


def _identity(train: Path, contract: DataContract) -> str:
    """Return a digest of the training inputs: the stored numbers, and the constants that normalise them.

    Name and number of examples identify those of the catalogue.
    """
    stored = hashlib.sha256(train.read_bytes()).hexdigest()
    plain = canonical({"train": stored, "mean": contract.mean, "deviation": contract.deviation})
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return publishable_digest(digest, public=contract.public)[:16]


def _warnings(dataset: str, train: RawExamples, test: RawExamples) -> dict[str, int]:
    """Print and return the facts about the split that readers of a result need; facts of 0 are left out."""
    facts = {"duplicates_across_split": count_duplicates(train, test)}
    if facts["duplicates_across_split"]:
        print(f"{dataset}: {facts['duplicates_across_split']} of {len(test)} test examples are also training examples")
    if train.units is not None and test.units is not None:
        sizes = np.unique(train.units, return_counts=True)[1]
        facts["largest_unit"] = int(sizes.max())
        facts["units_across_split"] = len(np.intersect1d(train.units, test.units))
        print(
            f"{dataset}: a unit has up to {facts['largest_unit']} training examples, and {facts['units_across_split']} "
            "units have examples on both sides of the split"
        )
    return {name: value for name, value in facts.items() if value}
