"""Fixtures of the tests of tables and figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppml.reporting.literature import PublishedRow, load_published

from .made_up import COMPARE, TECHNIQUES, Collected, collect


@pytest.fixture
def techniques() -> Collected:
    """Return seven techniques with three seeds each, compared with the numbers of PRIVATE-AI."""
    return collect(TECHNIQUES, compare=COMPARE)


@pytest.fixture
def published_path() -> Path:
    """Return the file with the published numbers of the project."""
    return Path(__file__).parents[2] / "config" / "published.yaml"


@pytest.fixture
def published(published_path: Path) -> dict[str, PublishedRow]:
    """Return the published numbers of the project."""
    return load_published(published_path)
