"""The table of predictions on encrypted images: accuracy, cost and leakage."""

from __future__ import annotations

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes
from ppml.reporting.formatting import human_bytes, percent_estimate, significant
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


@table("inference", shows="predictions on encrypted images", reads=("records", "costs", "inferences"))
def inference_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame
) -> Table:
    """Return the table with a row for each arm that predicts encrypted images.

    Raises
    ------
    UserError
        No arm predicts encrypted images.
    """
    present = set(inferences["arm"])
    shown = tuple(arm for arm in view.arms if arm in present)
    if not shown:
        raise UserError(
            f"inferences.csv: none of the arms {', '.join(view.arms)} of {view.title!r} predicts encrypted "
            "images; select one with `inference: {kind: ckks}`"
        )
    summary = summarise(view, shown, records, costs)
    lines = [_line(view.label(arm), inferences[inferences["arm"] == arm]) for arm in shown]
    cells = pd.DataFrame(lines)
    raw = inferences[inferences["arm"].isin(shown)].reset_index(drop=True)
    notes = (*view.notes, *_method(raw), *LEAKS, *data_notes(summary))
    return Table(view.title, cells, frozenset(cells.columns) - {"Technique", "Ring"}, notes, raw)


def _line(label: str, rows: pd.DataFrame) -> dict[str, str]:
    one = rows[["one_client", "one_server"]].mean()
    batch = rows[["batch_client", "batch_server"]].mean()
    size = float(rows["slots"].mean())
    return {
        "Technique": label,
        "Seeds": str(len(rows)),
        "Images": _each(rows, "images"),
        "Accuracy, encrypted (%)": _accuracy(rows, "right"),
        "Accuracy, plaintext (%)": _accuracy(rows, "plain_right"),
        "Must agree": f"{rows['sure'].sum():,} of {rows['images'].sum():,}",
        "Differ": f"{rows['differ'].sum():,}",
        "Largest error": f"{rows['error'].max():.1e}",
        "Error over bound": f"{rows['error_share'].max():.2f}",
        "One image, client + server (s)": f"{significant(one['one_client'], 2)} + {significant(one['one_server'], 2)}",
        "Up, down": _both_ways(rows["one_up"], rows["one_down"]),
        "A batch": _each(rows, "slots"),
        "Client + server (s)": f"{significant(batch['batch_client'], 2)} + {significant(batch['batch_server'], 2)}",
        "Images an hour": _thousands(SECONDS_AN_HOUR * size / batch.sum()),
        "Up, down an image": _both_ways(rows["batch_up"] / size, rows["batch_down"] / size),
        "Keys, once": human_bytes(rows["keys"].mean()),
        "Ring": ", ".join(dict.fromkeys(map(_ring, rows["degree"], rows["modulus_bits"]))),
    }


def _both_ways(up: pd.Series, down: pd.Series) -> str:
    return f"{human_bytes(up.mean())}, {human_bytes(down.mean())}"


def _ring(degree: int, bits: int) -> str:
    return f"N {degree:,}, {bits} bits"


def _accuracy(rows: pd.DataFrame, column: str) -> str:
    found = estimate(rows[column] / rows["images"], trials=int(rows["images"].iloc[0]))
    return percent_estimate(found.mean, found.deviation, found.low, found.high)


def _each(rows: pd.DataFrame, column: str) -> str:
    return ", ".join(f"{value:,}" for value in dict.fromkeys(rows[column]))


def _thousands(count: float) -> str:
    """Return a large number to the thousand."""
    return f"{round(count, -3):,.0f}" if count >= 10_000 else f"{count:,.0f}"


def _method(rows: pd.DataFrame) -> tuple[str, ...]:
    single = ", ".join(f"{count:,}" for count in dict.fromkeys(rows["single_images"]))
    return (
        "Encrypted: images under CKKS, predicted in batches with one image in each slot; the first "
        f"{single} also one at a time, each in a few ciphertexts. Seconds: CPU time of one core, median over images or "
        "batches, mean over seeds; images an hour: client and server together on one core, full batches. A batch with "
        "empty slots costs the same.",
        "Must agree: in plaintext the largest logit exceeds the next by more than twice the bound of a logit's error, "
        "so that no error within the bound changes the prediction. Differ: predictions that differ from plaintext, of "
        "all images. The bound is seven standard deviations of the error, propagated through the network for each "
        "image; errors that the key multiplies count 20 times, for an unfavourable key. A larger error stops the "
        "workflow. Error over bound: the largest ratio of an image's error to its bound.",
    )
