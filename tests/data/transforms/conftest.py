"""The fixture of all tests in this folder."""

from __future__ import annotations

from ...learning.digits import one_thread

__all__ = ["one_thread"]
