"""What goes wrong in accounting."""

from __future__ import annotations


class AccountantFailed(ArithmeticError):
    """An accountant has no trustworthy number for these mechanisms; another may have one."""
