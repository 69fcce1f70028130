"""Notes below a table about its accuracies and its data."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.fallback import FALLBACK_SENTENCE, is_fallback
from ppml.reporting.formatting import IMAGES, dataset_name


def spread_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the note about our accuracies, their ± and their brackets."""
    images = " or ".join(IMAGES.get(name, name) for name in dict.fromkeys(summary["evaluated_on"]))
    parts = [f"Our accuracy in percent, on the first and on all official {images}"]
    if (summary["seeds"] > 1).any():
        parts.append("± is the standard deviation over seeds (n - 1)")
    if (summary["seeds"] == 1).any():
        parts.append("[a, b] with a single seed is the 95 % binomial (Wilson) interval over the images")
    if (summary["topology"] == "independent").any():
        parts.append("accuracy of independent training is the mean over the clients' models")
    return (f"{'; '.join(parts)}.",)


def data_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return the notes about the data set, its size, the device, and the fallback."""
    if summary.empty:
        return ()
    lines = []
    for (dataset, n_train), rows in summary.groupby(["dataset", "n_train"], sort=False):
        arms = "" if len(rows) == len(summary) else f" ({', '.join(rows['label'])})"
        lines.append(f"{dataset_name(str(dataset))}, {n_train:,} training images{arms}")
    devices = ", ".join(dict.fromkeys(summary["device"]))
    digests = ", ".join(dict.fromkeys(summary["data_digest"]))
    data = f"Data: {'; '.join(lines)}; data digest {digests}; trained on {devices}."
    return (data, FALLBACK_SENTENCE) if is_fallback(summary["dataset"]) else (data,)
