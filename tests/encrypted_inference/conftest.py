"""What the tests of encrypted prediction share."""

from ..learning.digits import one_thread

__all__ = ["one_thread"]
