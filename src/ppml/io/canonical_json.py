"""Canonical JSON, the input of seeds, job specifications and digests."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(content: Any) -> str:
    """Return ``content`` as JSON text that is equal for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def digest(content: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``content`` as canonical JSON."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]
