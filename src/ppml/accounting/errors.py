"""Errors of the accountants."""

from __future__ import annotations


class AccountantFailed(ArithmeticError):
    """An accountant has no trustworthy epsilon for these events; another accountant may have one."""
