"""Fixtures of the tests of encrypted inference."""

from ..learning.digits import one_thread

__all__ = ["one_thread"]
