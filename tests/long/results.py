"""The comparison of a training in several processes with one in this process."""

from __future__ import annotations

from ppml.learning.parameters import digest_of, flatten
from ppml.learning.result import TrainingResult


def check_result(found: dict, expected: TrainingResult) -> None:
    """Compare the model, the events and the accuracies of a result file, which has no notices."""
    assert found["model"] == digest_of(flatten(expected.models[0]))
    assert found["events"] == [[event.to_json() for event in own] for own in expected.events]
    assert [row["accuracy"] for row in found["history"]] == [row.accuracy for row in expected.history]
    assert found["notices"] == []
