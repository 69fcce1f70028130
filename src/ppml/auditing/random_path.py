"""The path of an audit's random draws: the content of its arm, in names that never change.

A renamed key of the configuration must not change a random draw. So the path has the keys and values of the first
version of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST_KEYS = {
    "dropout_rate": "failures",
    "learning_rate_schedule": "decay",
    "max_colluding": "colluders",
    "max_dropouts": "dropouts",
    "min_clients": "least_answers",
    "mu": "strength",
    "noise": "noise_by",
    "rounds_per_key": "rounds_a_key",
    "tau": "adaptivity",
}
"""Key now -> key of the first version."""
FIRST_VALUES = {
    ("noise", "local"): "owner",
    ("noise", "distributed"): "shares",
    ("noise", "central"): "server",
    ("topology", "independent"): "local",
    ("aggregation", "secret_sharing"): "shares",
}
"""Key now, or the section of a ``kind``, and value now -> value of the first version."""


def random_path(arm: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of an arm, as plain values, in the names of the first version.

    Parameters
    ----------
    arm : mapping
        The content of :meth:`ppml.config.arm.Arm.technique`.
    """
    first = {FIRST_KEYS.get(key, key): _first(key, value) for key, value in arm.items() if key != "transforms"}
    # The first version had one transform at most.
    match arm.get("transforms", []):
        case []:
            return first
        case [transform]:
            return {**first, "features": transform}
        case transforms:
            return {**first, "features": transforms}


def _first(section: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return FIRST_VALUES.get((section, value), value) if isinstance(value, str) else value
    return {
        FIRST_KEYS.get(key, key): _first(section if key == "kind" else key, content) for key, content in value.items()
    }
