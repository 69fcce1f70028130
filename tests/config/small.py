"""A configuration of a few lines; each test changes one part of it."""

from __future__ import annotations

from typing import Any

import pytest

from ppml.config.load import parse_config
from ppml.errors import UserError

FEDERATED = {"kind": "federated", "partition": "iid8", "rounds": 2}
PRIVATE = {"kind": "example", "epsilon": 2.0}


def small(**top: Any) -> dict[str, Any]:
    """Return one federated arm on 1,000 images; ``top`` replaces keys of the top level."""
    return {
        "data": {"train": 1000},
        "partitions": {"iid8": {"kind": "iid", "clients": 8}},
        "arms": {"fl": {"topology": FEDERATED}},
        **top,
    }


def one_arm(**keys: Any) -> dict[str, Any]:
    """Return the same with one arm, ``a``, that has ``keys``."""
    return small(arms={"a": keys})


def refusal(content: Any) -> str:
    """Return the one line of the error of ``content``."""
    with pytest.raises(UserError) as caught:
        parse_config(content, "my.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("my.yaml: ")
    return message.removeprefix("my.yaml: ")


def check_refused(content: Any, key: str, *pieces: str) -> None:
    """Check that the error of ``content`` begins with ``key`` and contains each of ``pieces``."""
    message = refusal(content)
    assert message.startswith(key), message
    for piece in pieces:
        assert piece in message, message
