"""The lines below a table: what its numbers are, of which data, and what is guaranteed."""

from __future__ import annotations

import pandas as pd

from ppml.data.catalogue import DIGITS
from ppml.reporting.display import IMAGES, dataset_name, epsilon_bound, scientific

FALLBACK_SENTENCE = (
    "FALLBACK DATA SET: these are NOT results on MNIST. The data are scikit-learn's own handwritten digits (8x8 "
    "pixels, resized to 28x28); the numbers are not comparable with any paper's."
)
NOISE_SOURCES = {
    "seeded": "Noise is seeded, for reproduction: who knows the seed, or tries its 2^32 states, can subtract it; the ε "
    "is that of the mechanism, and a model to be released needs noise_source: secure",
    "secure": "Noise is drawn from the operating system and kept nowhere: a run does not repeat bit for bit",
}


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


def privacy_notes(summary: pd.DataFrame) -> tuple[str, ...]:
    """Return what epsilon is: unit, delta, accountant, neighbouring relation and source of the noise."""
    private = summary[summary["privacy_unit"] != "none"]
    if private.empty:
        return ()
    deltas = ", ".join(scientific(delta) for delta in dict.fromkeys(private["delta"]))
    accountants = ", ".join(str(name).upper() for name in dict.fromkeys(private["accountant"]))
    relations = ", ".join(str(name).replace("_", " ") for name in dict.fromkeys(private["neighbouring"]))
    units = ", ".join(dict.fromkeys(private["privacy_unit"]))
    sources = [NOISE_SOURCES.get(name, f"Noise source: {name}") for name in dict.fromkeys(private["noise_source"])]
    return (
        f"Our ε: the largest over clients and seeds, for the whole training; unit: one {units}; δ {deltas}; "
        f"accountant: {accountants}; neighbouring data sets: {relations}; ∞: no differential privacy.",
        "Each ε is that of one model alone: several models of the same records spend more together, at most the sum "
        "where their noise is drawn apart.",
        *(f"{source}." for source in sources),
        *_share_notes(private),
    )


def _share_notes(private: pd.DataFrame) -> tuple[str, ...]:
    """Return what noise by shares does not protect from: whoever opens what single clients send."""
    shared = private[private["noise_by"] == "shares"]
    if shared.empty:
        return ()
    opened = ", ".join(f"{row['label']}: {epsilon_bound(row['epsilon_if_opened'])}" for _, row in shared.iterrows())
    return (
        "Noise by shares: every client adds a part, and the sum has the noise of the ε stated; the shares of as many "
        "as may collude are not counted. Who opens single contributions, as the server and the holder of the secret "
        "key together can, or all servers between whom they are shared, or the server with as many clients as unmask a "
        "sum, finds one share of the noise on each: "
        f"towards them the ε is larger ({opened}).",
    )


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
