"""A hundred thousand mutated uploads, sums, keys, requests and replies, and whole trainings with a hostile client."""

from __future__ import annotations

import pytest

from ..fuzz.fuzzing import fuzz_apart
from ..fuzz.targets import GROUPS
from ..fuzz.test_fuzz import check
from ..fuzz.test_records import check_trainings

READERS = {"plaintext": 1, "masks": 6, "shares": 1, "prediction": 5}
"""The number of readers of a group; three by default."""

INPUTS = {"plaintext": 12_000, "masks": 16_002, "shares": 5_600, "prediction": 4_000}
"""The number of messages for a group; 15,600 by default, together 100,000."""

TRAININGS = 5_000


@pytest.mark.parametrize("group", GROUPS)
def test_no_message_ends_a_process_hangs_or_takes_memory(group: str) -> None:
    each = INPUTS.get(group, 15_600) // READERS.get(group, 3)
    found = fuzz_apart(group, each, seed=1)
    for figures in found:
        print(f"\n{figures.line()}", end="")
    assert len(found) == READERS.get(group, 3)
    for figures in found:
        check(figures)


def test_no_record_ends_a_training() -> None:
    print(f"\n{check_trainings(TRAININGS, seed=1)}", end="")
