"""The texts that mark results on the fallback data set."""

from __future__ import annotations

FALLBACK_TITLE = "FALLBACK DATA: scikit-learn digits"
FALLBACK_SENTENCE = (
    f"{FALLBACK_TITLE} (1,797 handwritten digits of 8x8 pixels, enlarged) replace the configured data set, which was "
    "not available; the numbers are not comparable with any paper's."
)
