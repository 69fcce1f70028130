"""The file about.json beside the examples: their numbers, their digest and their contract."""

from __future__ import annotations

from pathlib import Path

from ppml.contract import DataContract
from ppml.errors import UserError
from ppml.io.atomic import read_json


def read_contract(about: str | Path) -> DataContract:
    """Return the contract of the examples beside ``about.json``.

    Raises
    ------
    UserError
        The file has no valid contract, for instance because an earlier version of the project wrote it.
    """
    try:
        return DataContract.model_validate(read_json(about)["contract"])
    except (KeyError, ValueError) as error:
        reason = "it has none" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{about}: has no valid contract ({reason}); `make results` makes the file again") from None
