"""The randomness of a training, and the public facts of its data, from configuration and files."""

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
    """Return the randomness of one seed."""
    return Randomness(root_seed).child("seed", seed)


def public_data(about: Mapping[str, Any], partition: str | Path | None) -> tuple[str | int, ...]:
    """Return the public facts that identify the examples of a training.

    Parameters
    ----------
    about : mapping
        The content of about.json. The name identifies the files and the normalisation of a data set of the catalogue;
        of one of the configuration, the digest ``identity`` does.
    partition : path or None
        The file of the partition. It may depend on labels, so its digest is keyed if the data are private.
    """
    dataset, division = str(about["dataset"]), ""
    if partition:
        plain = hashlib.sha256(canonical(read_json(partition)["clients"]).encode()).hexdigest()
        division = publishable_digest(plain, public=about["contract"]["public"])
    identity = () if about["identity"] is None else (str(about["identity"]),)
    return dataset, str(about["selection"]), int(about["n_train"]), division, *identity
