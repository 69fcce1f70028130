"""The lines below a table: what its numbers are, and of which data."""

from __future__ import annotations

import pandas as pd

from ppml.data.catalogue import DIGITS
from ppml.reporting.formatting import IMAGES, dataset_name

FALLBACK_SENTENCE = (
    "FALLBACK DATA SET: these are NOT results on MNIST. The data are scikit-learn's own handwritten digits (8x8 "
    "pixels, resized to 28x28); the numbers are not comparable with any paper's."
)


def spread_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return what the columns of our accuracies, their ± and their brackets are."""
    images = " or ".join(IMAGES.get(name, name) for name in dict.fromkeys(summary["evaluated_on"]))
    parts = [f"Our accuracy in percent, on the first and on all official {images}"]
    if (summary["seeds"] > 1).any():
        parts.append("± is the standard deviation over seeds (n - 1)")
    if (summary["seeds"] == 1).any():
        parts.append("[a, b] beside a single seed is the 95 % binomial (Wilson) interval over the images")
    if (summary["topology"] == "local").any():
        parts.append("accuracy of local training is the mean over the clients' own models")
    return (f"{'; '.join(parts)}.",)


def data_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the data set, its size, the device, and the loud sentence where it is the fallback."""
    if summary.empty:
        return ()
    lines = []
    for (dataset, n_train), rows in summary.groupby(["dataset", "n_train"], sort=False):
        whose = "" if len(rows) == len(summary) else f" ({', '.join(rows['label'])})"
        lines.append(f"{dataset_name(str(dataset))}, {n_train:,} training images{whose}")
    devices = ", ".join(dict.fromkeys(summary["device"]))
    digests = ", ".join(dict.fromkeys(summary["data_digest"]))
    data = f"Data: {'; '.join(lines)}; data digest {digests}; trained on {devices}."
    return (data, FALLBACK_SENTENCE) if is_fallback(summary) else (data,)


def is_fallback(frame: pd.DataFrame) -> bool:
    """Return whether any row of ``frame`` is about the fallback data set."""
    return bool((frame["dataset"] == DIGITS).any())
