"""Keys and values of earlier configurations, with their names of now. An old one is refused with the new one."""

from __future__ import annotations

import json
from typing import Any

RENAMED_KEYS = {
    "adaptivity": "tau",
    "choice": "selection",
    "colluders": "max_colluding",
    "decay": "learning_rate_schedule",
    "dropouts": "max_dropouts",
    "failures": "dropout_rate",
    "features": "transforms",
    "least_answers": "min_clients",
    "noise_by": "noise",
    "reading": "criterion",
    "records": "sample_size",
    "rounds_a_key": "rounds_per_key",
    "says": "quote",
    "singly": "single_images",
    "steps_of": "steps_by_arm",
    "strength": "mu",
}
"""Old key -> new key."""

MOVED_KEYS = {
    "datasets": ("data", "data: {define: ...}"),
    "contract": ("licence", "shape, classes, mean, deviation, licence and redistributable beside kind"),
    "format": ("licence", "kind"),
    "torchvision": ("licence", "files with name, md5 and urls"),
}
"""Old key -> a key of the section that had it, and the entry, or entries, that replaced it."""

RENAMED_VALUES = {
    ("noise", "owner"): "local",
    ("noise", "shares"): "distributed",
    ("noise", "server"): "central",
    ("topology", "local"): "independent",
    ("aggregation", "shares"): "secret_sharing",
    ("tables", "readings"): "epsilon_interpretations",
}
"""New key and old value -> new value; the value of ``kind`` under the name of its section."""


def new_value(key: str, value: Any) -> str | None:
    """Return the new name of a value of ``key``, None if it has none."""
    return RENAMED_VALUES.get((key, value)) if isinstance(value, str) else None


def renamed_entry(key: str, value: Any) -> str | None:
    """Return the entry of YAML that replaces ``key: value``, None if the key has no new name.

    Examples
    --------
    >>> renamed_entry("noise_by", "shares")
    'noise: distributed'
    >>> renamed_entry("failures", 0.2)
    'dropout_rate: 0.2'
    """
    new = RENAMED_KEYS.get(key)
    if new is None:
        return None
    value = new_value(new, value) or value
    if key == "features":
        value = [] if value == {"kind": "none"} else [value]
    return f"{new}: {value if isinstance(value, str) else json.dumps(value, default=str)}"
