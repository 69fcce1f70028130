"""The fallback data set, and the sentence that marks its results."""

from __future__ import annotations

from collections.abc import Iterable

from ppml.config.datasets import DIGITS

FALLBACK_TITLE = "FALLBACK DATA: scikit-learn digits"
FALLBACK_SENTENCE = (
    f"{FALLBACK_TITLE} (1,797 handwritten digits of 8x8 pixels, enlarged) replace the configured data set, which was "
    "not available; the numbers are not comparable with any paper's."
)


def is_fallback(datasets: Iterable[str]) -> bool:
    """Return whether the fallback data set is among ``datasets``."""
    return DIGITS in set(datasets)
