"""Fixtures of the tests of local training."""

from __future__ import annotations

from .digits import one_thread

__all__ = ["one_thread"]
