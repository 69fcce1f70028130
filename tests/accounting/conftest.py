"""Fixtures of the accounting tests."""

from __future__ import annotations

from ..learning.digits import one_thread

__all__ = ["one_thread"]
