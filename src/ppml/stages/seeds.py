"""From the seeds of the configuration to what a training draws from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppml.io.atomic import read_json
from ppml.io.canonical_json import canonical
from ppml.io.digests import publishable_digest
from ppml.randomness import Randomness


def seed_randomness(root_seed: int, seed: int) -> Randomness:
    """Return what all of one seed is drawn from."""
    return Randomness(root_seed).child("seed", seed)


def public_data(about: Mapping[str, Any], partition: str | Path | None) -> tuple[str | int, ...]:
    """Return what is public of the records of a training.

    Parameters
    ----------
    about : mapping
        What the rule subset says: ``dataset``, ``selection`` and ``n_train`` are taken.
    partition : path or None
        What the rule partition wrote. It may depend on labels, so that its digest is keyed where the data are private.
    """
    dataset, division = str(about["dataset"]), ""
    if partition:
        plain = hashlib.sha256(canonical(read_json(partition)["clients"]).encode()).hexdigest()
        division = publishable_digest(plain, published=about["contract"]["redistributable"])
    return dataset, str(about["selection"]), int(about["n_train"]), division
