"""What the tests of tables and figures start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from .made_up import COMPARE, TECHNIQUES, Collected, collect


@pytest.fixture
def techniques() -> Collected:
    """Seven techniques, three seeds each, beside the numbers of PRIVATE-AI."""
    return collect(TECHNIQUES, compare=COMPARE)


@pytest.fixture
def published_path() -> Path:
    """Return where the published numbers of the project lie."""
    return Path(__file__).parents[2] / "config" / "published.yaml"
