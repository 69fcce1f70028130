"""The table of predictions on encrypted images: are they right, what do they cost, and what do they tell."""

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
    "The client has the secret key, made for this from the operating system's entropy, and encrypts; the server has "
    "the model, and keys that multiply and rotate but open nothing. It sees ciphertexts, and how many questions there "
    "are, not what it predicts.",
    "Both follow the protocol. The client cannot check an answer, and the server cannot tell what it is asked: one "
    "image that is sent alone may be different values for each output of the first map.",
    "What the client learns of the model: its architecture, and the logits, from which a model can be copied if enough "
    "are asked for. No circuit privacy: the errors in what it opens depend on the weights, too.",
    "A client that shows decrypted logits to the server, errors and all, can give its key away (Li & Micciancio, "
    "EUROCRYPT 2021), and to a server that answers with something else, whatever it tells of an answer tells of the "
    "images or the key: it tells a server that follows the protocol the class at most, and another nothing.",
    "Training is not encrypted: its owner sees all records, and the model may reveal them.",
)


@table("inference", shows="predictions on encrypted images", reads=("records", "costs", "inferences"))
def inference_table(
    view: ExperimentView, records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame
) -> Table:
    """Return the table with a row an arm that predicts encrypted images.

    Parameters
    ----------
    view : Selection
        The arms, in the order of the rows; those that predict in the clear only are left out.
    records, costs : pandas.DataFrame
        One row an arm and seed.
    inferences : pandas.DataFrame
        One row an arm and seed that predicts encrypted images.

    Raises
    ------
    UserError
        None of the arms does.
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
        "In the clear (%)": _accuracy(rows, "plain_right"),
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
    alone = ", ".join(f"{count:,}" for count in dict.fromkeys(rows["single_images"]))
    return (
        "Encrypted: images under CKKS, predicted in batches, an image a slot; the first "
        f"{alone} also one by one, an image in a few ciphertexts. Seconds: CPU time of one core, median over images or "
        "batches, mean over seeds; images an hour: client and server together on one core, full batches. A batch that "
        "is not full costs as much.",
        "Must agree: the largest logit in the clear is above the next by more than twice the bound of a logit's error, "
        "so that no error within the bound changes which is the largest. Differ: predictions, of all images, that are "
        "not those in the clear. The bound is seven standard deviations of the error, followed through the network for "
        "each image, where errors that the key multiplies count 20 times, for an unlucky one; a logit beyond it stops "
        "the workflow. Error over bound: the largest, of an image, over its own.",
    )
