"""Seeded mutated messages: none crashes a process, and each is accepted, or refused in one line."""

from __future__ import annotations

import pytest

from .fuzzing import Figures, fuzz_apart
from .targets import GROUPS

COUNT = {"prediction": 12}
"""Messages for each reader."""


def check(figures: Figures) -> None:
    """Check the results of one reader."""
    assert figures.escaped == [] and figures.ends == 0
    assert figures.inputs == figures.taken + figures.refused and figures.refused > 0
    assert figures.slowest < 1
    assert figures.memory <= 2 * figures.honest_memory + SLACK


SLACK = 16 << 20
"""Additional memory of the allocator and of Python."""


@pytest.mark.parametrize("group", GROUPS)
def test_no_message_ends_a_process(group: str) -> None:
    for figures in fuzz_apart(group, COUNT.get(group, 40), seed=17):
        check(figures)
