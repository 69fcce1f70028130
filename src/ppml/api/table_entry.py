"""The entry of a data set by which the columns of a table become the inputs of a trained model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ppml.config.columns import TableFields
from ppml.config.datasets import CATALOGUE, DATASETS, Dataset
from ppml.contract import DataContract
from ppml.errors import UserError
from ppml.io.canonical_json import canonical
from ppml.io.digests import KEY, publishable_digest

PACKAGES = ("pyarrow", "yaml")
"""Packages of the extra ``workflow`` that read tables and configurations."""
OF_TRAINING = frozenset(["mean", "deviation", "licence", "public"])
"""The fields of a contract that say nothing about the columns."""


def find_table_entry(data: Mapping[str, Any], raw: DataContract, configfile: Path | None) -> TableFields:
    """Return the entry of the table that a model is trained on.

    Parameters
    ----------
    data : mapping
        The facts about the training data in ``config.json`` of the run.
    raw : DataContract
        The contract of the table before all transforms.
    configfile : Path or None
        A configuration with the entry in ``data.define``; an entry of the catalogue needs none.

    Raises
    ------
    UserError
        No entry is found, or it is not the one of the training.
    """
    if raw.kind != "table":
        raise UserError(f"the model takes {raw}, no table; give .npy or .png files")
    if absent := [package for package in PACKAGES if find_spec(package) is None]:
        raise UserError(f"the package {absent[0]} is not installed; pip install 'ppml-comparison[workflow]'")
    name = str(data.get("dataset", ""))
    entry, place = _entry(name, configfile, is_catalogued=data.get("identity") is None)
    if not isinstance(entry, TableFields) or not entry.columns:
        raise UserError(f"{place}: has no named columns; give .npy files")
    _require_that_of_training(entry, place, data, raw)
    return entry


def _entry(name: str, configfile: Path | None, *, is_catalogued: bool) -> tuple[Dataset, str]:
    """Return the entry of a data set, and its place for messages."""
    if configfile is not None:
        from ppml.config.load import load_config

        config = load_config(configfile)
        if name not in (known := {**DATASETS, **config.data.define}):
            raise UserError(f"{configfile}: data.define has no {name!r}, the data set of the model; give its own file")
        return known[name], f"{configfile}: {name}"
    if not is_catalogued or name not in DATASETS:
        raise UserError(
            f"the data set {name!r} of the model is not in {CATALOGUE}; give --configfile with the configuration of "
            "its training"
        )
    return DATASETS[name], f"{CATALOGUE}: {name}"


def _require_that_of_training(entry: Dataset, place: str, data: Mapping[str, Any], raw: DataContract) -> None:
    """Raise a :class:`UserError` if the columns, or their ranges and lists, have changed since the training."""
    found, trained = (contract.model_dump(mode="json") for contract in (entry.contract, raw))
    if changed := [key for key in trained if key not in OF_TRAINING and found[key] != trained[key]]:
        raise UserError(f"{place}: {changed[0]} is not that of the training; give the configuration of the training")
    public = raw.public
    # Elsewhere the key of the digest is another one, and cannot tell.
    if "source" not in data or not (public or KEY.exists()):
        return
    facts = entry.model_dump(mode="json", exclude={"files": {"__all__": {"path"}}, "folder": True})
    digest = hashlib.sha256(canonical(facts).encode()).hexdigest()
    if publishable_digest(digest, public=public) != data["source"]:
        raise UserError(
            f"{place}: is not the entry of the training: a range, a list or a rule has changed since then; give the "
            "configuration of the training, or train again"
        )
