"""The table of predictions on encrypted images: accuracy, cost and leakage."""

from __future__ import annotations

import pandas as pd

from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes
from ppml.reporting.formatting import distinct, human_bytes, percent_estimate, significant, thousands
from ppml.reporting.registry import table
from ppml.reporting.statistics import estimate
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

SECONDS_AN_HOUR = 3600

LEAKS = (
    "The client generates the secret key from the operating system's entropy, and encrypts; the server has the model, "
    "and evaluation keys for products and rotations, which decrypt nothing. The server sees ciphertexts and the number "
    "of queries, not its predictions.",
    "Both parties follow the protocol. The client cannot verify a reply, and the server cannot verify a query: the "
    "ciphertexts of a single image may hold different values for each output of the first layer.",
    "The client learns the architecture of the model and the logits; enough logits permit a copy of the model. Without "
    "circuit privacy, the errors of the decrypted logits depend on the weights, too.",
    "A client that shows decrypted logits with their errors to the server can reveal its key (Li & Micciancio, "
    "EUROCRYPT 2021). To a server that deviates, any response to its reply can reveal the images or the key. A client "
    "shows at most the class to a server that follows the protocol, and nothing to another one.",
    "Training is not encrypted: the owner sees all examples, and the model may reveal them.",
)


@table("inference")
def inference_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame
) -> Table:
    """Return the table with a row for each arm that predicts encrypted images."""
    present = set(inferences["arm"])
    shown = tuple(arm for arm in view.arms if arm in present)
    view.require(shown, "table inference", "predicts encrypted images; select one with `inference: {kind: ckks}`")
    summary = summarise(view, shown, records, costs)
    cells = pd.DataFrame([_line(view.label(arm), inferences[inferences["arm"] == arm]) for arm in shown])
    raw = inferences[inferences["arm"].isin(shown)].reset_index(drop=True)
    notes = (*view.notes, *_method(raw), *LEAKS, *data_notes(view, summary))
    return Table(view.title, cells, {"Technique", "Ring"}, notes, raw)


def _line(label: str, rows: pd.DataFrame) -> dict[str, str]:
    mean = rows.mean(numeric_only=True)
    hour = SECONDS_AN_HOUR * mean["slots"] / (mean["batch_client"] + mean["batch_server"])
    return {
        "Technique": label,
        "Seeds": str(len(rows)),
        "Images": distinct(rows["images"], thousands),
        "Accuracy, encrypted (%)": _accuracy(rows, "right"),
        "Accuracy, plaintext (%)": _accuracy(rows, "plain_right"),
        "Must agree": f"{rows['sure'].sum():,} of {rows['images'].sum():,}",
        "Differ": f"{rows['differ'].sum():,}",
        "Largest error": f"{rows['error'].max():.1e}",
        "Error over bound": f"{rows['error_share'].max():.2f}",
        "One image, client + server (s)": _seconds(mean, "one"),
        "Up, down": f"{human_bytes(mean['one_up'])}, {human_bytes(mean['one_down'])}",
        "A batch": distinct(rows["slots"], thousands),
        "Client + server (s)": _seconds(mean, "batch"),
        # A large number to the thousand.
        "Images an hour": f"{round(hour, -3 if hour >= 10_000 else 0):,.0f}",
        "Up, down an image": ", ".join(human_bytes(mean[way] / mean["slots"]) for way in ("batch_up", "batch_down")),
        "Keys, once": human_bytes(mean["keys"]),
        "Ring": ", ".join(dict.fromkeys(map("N {:,}, {} bits".format, rows["degree"], rows["modulus_bits"]))),
    }


def _seconds(mean: pd.Series, what: str) -> str:
    return " + ".join(significant(mean[f"{what}_{party}"], 2) for party in ("client", "server"))


def _accuracy(rows: pd.DataFrame, column: str) -> str:
    found = estimate(rows[column] / rows["images"], trials=int(rows["images"].iloc[0]))
    return percent_estimate(found.mean, found.deviation, found.low, found.high)


def _method(rows: pd.DataFrame) -> tuple[str, ...]:
    return (
        "Encrypted: images under CKKS, predicted in batches with one image in each slot; the first "
        f"{distinct(rows['single_images'], thousands)} also one at a time, each in a few ciphertexts. Seconds: CPU "
        "time of one core, median over images or batches, mean over seeds; images an hour: client and server together "
        "on one core, full batches. A batch with empty slots costs the same.",
        "Must agree: in plaintext the largest logit exceeds the next by more than twice the bound of a logit's error, "
        "so that no error within the bound changes the prediction. Differ: predictions that differ from plaintext, of "
        "all images. The bound is seven standard deviations of the error, propagated through the network for each "
        "image; errors that the key multiplies count 20 times, for an unfavourable key. A larger error stops the "
        "workflow. Error over bound: the largest ratio of an image's error to its bound.",
    )
