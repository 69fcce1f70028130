"""The file about.json beside the examples: their numbers, their digest and their contract."""

from __future__ import annotations

from pathlib import Path

from ppml.contract import DataContract
from ppml.io.atomic import read_json


def read_contract(about: str | Path) -> DataContract:
    """Return the contract of the examples beside ``about.json``."""
    return DataContract.model_validate(read_json(about)["contract"])
