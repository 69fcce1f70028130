"""The contract in about.json: a file without a valid one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml.config.datasets import DATASETS
from ppml.errors import UserError
from ppml.io.atomic import write_json
from ppml.stages.about import read_contract

CONTRACT = DATASETS["digits"].contract


def test_contract_is_read_as_written(tmp_path: Path) -> None:
    write_json(tmp_path / "about.json", {"n_train": 5, "contract": CONTRACT.to_json()})
    assert read_contract(tmp_path / "about.json") == CONTRACT


@pytest.mark.parametrize("content", [{"n_train": 5, "classes": 10}, {"contract": {"shape": [1]}}, {"contract": None}])
def test_file_without_a_valid_contract_is_one_line(content: dict[str, object], tmp_path: Path) -> None:
    write_json(tmp_path / "about.json", content)
    with pytest.raises(UserError, match="has no valid contract") as caught:
        read_contract(tmp_path / "about.json")
    assert str(caught.value).startswith(f"{tmp_path / 'about.json'}: ") and "\n" not in str(caught.value)
