"""The decision by threat: a threat, the techniques against it, and their cost in accuracy, seconds, bytes and trust.

Every number comes from the tidy files. Topology, privacy and aggregation of an arm decide the threats that it protects
against; its cost is the difference to the arm with the same data and model and without this protection.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ppml.reporting.footnotes import noise_known_to
from ppml.reporting.formatting import dataset_name, epsilon_bound, human_bytes, percent, significant, thousands
from ppml.reporting.statistics import Difference, difference
from ppml.reporting.summaries import rows_for_arm
from ppml.reporting.technique_style import technique_name

ALTERNATIVES = 4
"""The largest number of techniques for a threat."""
PREDICTION = "prediction"


def _federated(row: pd.Series) -> bool:
    return bool(row["topology"] == "federated")


def _hides_updates(row: pd.Series) -> bool:
    return _federated(row) and row["aggregation"] not in ("none", "plaintext")


def _private(row: pd.Series) -> bool:
    return bool(row["privacy_unit"] == "example")


@dataclass(frozen=True)
class Threat:
    """A threat, and the protection against it."""

    key: str
    """The name of the threat in filters."""
    fear: str
    """The threat as a sentence."""
    short: str
    """The protected thing, for the column of a table."""
    saying: str
    """The protection as the subject of a sentence."""
    protects: Callable[[pd.Series], bool]
    """Row of a summary -> whether the arm protects against the threat."""
    alone: Callable[[pd.Series], bool]
    """Row of a summary -> whether the arm has this protection and no other one."""
    without: Callable[[pd.Series, pd.Series], bool]
    """Row of an arm and of another one -> whether the other one lacks the protection, and the rest is equal."""


def _same(row: pd.Series, other: pd.Series, *columns: str) -> bool:
    return all(row[column] == other[column] or (pd.isna(row[column]) and pd.isna(other[column])) for column in columns)


def _bare(row: pd.Series) -> bool:
    return bool(row["privacy_unit"] == "none")


THREATS = (
    Threat(
        "pooling",
        "Another party holds all examples",
        "examples stay with their owners",
        "training where the examples are",
        lambda row: row["topology"] != "centralized",
        lambda row: row["topology"] != "centralized" and _bare(row) and not _hides_updates(row),
        lambda row, other: other["topology"] == "centralized" and _bare(other),
    ),
    Threat(
        "server",
        "The server reads the update of a client",
        "single updates",
        "hiding the updates from the server",
        _hides_updates,
        lambda row: _hides_updates(row) and _bare(row),
        lambda row, other: (
            other["aggregation"] == "plaintext" and _same(row, other, "topology", "partition", "privacy_unit")
        ),
    ),
    Threat(
        "model",
        "A reader of the model learns about an example",
        "an example in the model",
        "differential privacy",
        _private,
        lambda row: _private(row) and not _hides_updates(row),
        lambda row, other: _bare(other) and _same(row, other, "topology", "partition", "aggregation"),
    ),
    Threat(
        "both",
        "The server reads updates, and a reader of the model learns about an example",
        "updates and model",
        "both together",
        lambda row: _hides_updates(row) and _private(row),
        lambda row: _hides_updates(row) and _private(row),
        lambda row, other: (
            _bare(other) and other["aggregation"] == "plaintext" and _same(row, other, "topology", "partition")
        ),
    ),
    Threat(
        "client",
        "A reader of the model learns about all examples of a client",
        "a client in the model",
        "differential privacy of a whole client",
        lambda row: row["privacy_unit"] == "client",
        lambda row: row["privacy_unit"] == "client",
        lambda row, other: _bare(other) and _same(row, other, "topology", "partition"),
    ),
    Threat(
        PREDICTION,
        "A server that predicts reads the images",
        "predicted images",
        "prediction on encrypted images",
        # The file of encrypted predictions decides, not the training.
        lambda row: False,
        lambda row: False,
        lambda row, other: False,
    ),
)
FILTERS = {threat.key: threat.short for threat in THREATS if threat.key != "both"}
"""The protections by the name of their threat; an arm against both threats has two of them."""


@dataclass(frozen=True)
class Option:
    """A technique against a threat, with its cost."""

    arm: str
    label: str
    accuracy: str
    """Percent."""
    change: str
    """Percentage points of accuracy against the arm without the protection, with the 95 % interval."""
    against: str
    """The label of that arm; empty without such an arm."""
    points: float
    """The change as a number; nan without such an arm."""
    epsilon: str
    seconds: str
    bytes: str
    trust: str
    """The parties with access to the examples or, alone or together, to a single update."""
    noise: str
    """The parties that know the noise; empty without privacy."""


@dataclass(frozen=True)
class Decision:
    """A threat, with the techniques against it, the recommended one first."""

    threat: Threat
    options: tuple[Option, ...]


@dataclass(frozen=True)
class DataDecisions:
    """The decisions on one data set."""

    dataset: str
    examples: str
    """The number of training examples."""
    bare: str
    """Percent: the highest accuracy of one owner without protection; empty without such an arm."""
    epsilon: str
    """The most frequent epsilon of the arms; empty without privacy."""
    decisions: tuple[Decision, ...]

    @property
    def sentence(self) -> str:
        """The decisions in one sentence."""
        parts = [_clause(one) for one in self.decisions]
        data = f"On {self.dataset} with {self.examples} training examples"
        bare = [f"one owner without protection reaches {self.bare} % accuracy"] if self.bare else []
        return f"{data}: {'; '.join([*bare, *parts])}."


def protections(row: pd.Series, predicting: set[str]) -> list[str]:
    """Return the names of the threats that an arm, a row of a summary, protects against."""
    found = [threat.key for threat in THREATS if threat.key in FILTERS and threat.protects(row)]
    return [*found, PREDICTION] if str(row.name) in predicting else found


def trust_in(row: pd.Series) -> str:
    """Return the parties with access to the examples or to a single update of an arm, a row of a summary."""
    match row["topology"]:
        case "centralized":
            return "the one owner of all examples"
        case "independent":
            return "no other party"
    return str(row["update_opened_by"])


def trust_for_noise(row: pd.Series) -> str:
    """Return the parties that know the noise of an arm, a row of a summary; an empty text without privacy."""
    return "" if _bare(row) else noise_known_to(row)


def decide(
    summary: pd.DataFrame, records: pd.DataFrame, inferences: pd.DataFrame, first: Collection[str] = ()
) -> list[DataDecisions]:
    """Return the decisions on each data set, in the order of the arms.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row for each arm, as :func:`~ppml.reporting.summaries.summarise` returns it.
    records, inferences : pandas.DataFrame
        The rows of records.csv and of inferences.csv.
    first : collection of str
        The arms with a threat statement, which stand for their technique in place of arms without one.
    """
    found = []
    for dataset, rows in summary.groupby("dataset", sort=False):
        # Accuracies compare at one number of training examples: the most frequent one.
        size = Counter(rows["n_train"]).most_common(1)[0][0]
        chosen = rows[rows["n_train"] == size]
        found.append(_decide(str(dataset), int(size), chosen, records, inferences, first))
    return found


def _decide(
    dataset: str,
    size: int,
    rows: pd.DataFrame,
    records: pd.DataFrame,
    inferences: pd.DataFrame,
    first: Collection[str],
) -> DataDecisions:
    private = rows[rows["privacy_unit"] == "example"]
    (shared, count), *_ = [*Counter(map(_rounded, private["epsilon"])).most_common(1), (math.nan, 0)]
    shared = shared if count > 1 else math.nan
    decisions = [Decision(threat, tuple(_options(threat, rows, records, shared, first))) for threat in THREATS[:-1]]
    decisions.append(Decision(THREATS[-1], tuple(_predictions(rows, inferences))))
    bare = rows[(rows["topology"] == "centralized") & (rows["privacy_unit"] == "none")]["accuracy_all_mean"]
    return DataDecisions(
        dataset_name(dataset),
        thousands(size),
        percent(bare.max()) if len(bare) else "",
        "" if math.isnan(shared) else epsilon_bound(shared),
        tuple(one for one in decisions if one.options),
    )


def _rounded(epsilon: float) -> float:
    """Return an epsilon with two digits: calibrated arms reach their target from below."""
    return float(f"{epsilon:.2g}")


def _options(
    threat: Threat, rows: pd.DataFrame, records: pd.DataFrame, shared: float, first: Collection[str]
) -> Iterator[Option]:
    candidates = [row for _, row in rows.iterrows() if threat.alone(row)]
    # Accuracy rises with epsilon: techniques compare at the most frequent one, if they have it.
    equal = [row for row in candidates if _rounded(row["epsilon"]) == shared]
    candidates = equal if equal and threat.key in ("model", "both") else candidates
    best: dict[str, pd.Series] = {}
    for row in sorted(candidates, key=lambda row: (row.name not in first, *_order(row))):
        # Without a common epsilon, each one is a choice of its own.
        each = "" if equal else f" {_rounded(row['epsilon'])}"
        best.setdefault(technique_name(row) + each, row)
    for row in _ranked([*best.values()], records)[:ALTERNATIVES]:
        yield _option(row, _counterpart(threat, row, rows), records)


def _counterpart(threat: Threat, row: pd.Series, rows: pd.DataFrame) -> pd.Series | None:
    """Return the arm without the protection, else the arm of one owner without any; None without both."""
    alike = [other for _, other in rows.iterrows() if _same(row, other, "model")]
    exact = (other for other in alike if threat.without(row, other))
    bare = (other for other in alike if other["topology"] == "centralized" and _bare(other))
    return next(exact, next(bare, None))


def _ranked(rows: Sequence[pd.Series], records: pd.DataFrame) -> list[pd.Series]:
    """Return arms from the highest accuracy on, over the seeds that all arms have, if there are any."""
    seeds = set.intersection(*(set(rows_for_arm(records, str(row.name))["seed"]) for row in rows)) if rows else set()
    common = records[records["seed"].isin(seeds)].groupby("arm")["accuracy_all"].mean()
    return sorted(rows, key=lambda row: _order(row, common.get(str(row.name))))


def _order(row: pd.Series, accuracy: float | None = None) -> tuple[float, float, float]:
    """Return the rank of an arm: accuracy to a hundredth of a percent, then bytes, then seconds."""
    upload = 0.0 if math.isnan(row["upload_mean"]) else row["upload_mean"]
    return (-round(accuracy or row["accuracy_all_mean"], 4), upload, row["cpu_seconds_mean"])


def _option(row: pd.Series, other: pd.Series | None, records: pd.DataFrame) -> Option:
    change = None if other is None else _difference(row, other, records)
    seconds, sent = row["cpu_seconds_mean"], row["upload_mean"]
    before, sent_before = (math.nan, math.nan) if other is None else (other["cpu_seconds_mean"], other["upload_mean"])
    return Option(
        str(row.name),
        str(row["label"]),
        percent(row["accuracy_all_mean"]),
        _points(change) if change else "",
        "" if change is None or other is None else str(other["label"]),
        change.value if change else math.nan,
        epsilon_bound(row["epsilon"]),
        _with_factor(significant(seconds), seconds / before),
        _with_factor(human_bytes(sent), sent / sent_before),
        trust_in(row),
        trust_for_noise(row),
    )


def _points(change: Difference) -> str:
    """Return a difference with its interval; of two seeds the interval says nothing."""
    return f"{100 * change.value:+.2f}" if change.n == 2 else change.points(2)


def _with_factor(text: str, ratio: float) -> str:
    return text if math.isnan(ratio) else f"{text} ({ratio:.2f}\N{MULTIPLICATION SIGN})"


def _difference(row: pd.Series, other: pd.Series, records: pd.DataFrame) -> Difference | None:
    """Return the difference of the accuracies, over the seeds that both arms have."""
    both = [rows_for_arm(records, str(one.name)).set_index("seed")["accuracy_all"] for one in (row, other)]
    seeds = [seed for seed in both[0].index if seed in both[1].index]
    if not seeds:
        return None
    first, second = (values.loc[seeds].tolist() for values in both)
    return difference(first, second, trials=int(row["n_test_all"]))


def _predictions(rows: pd.DataFrame, inferences: pd.DataFrame) -> Iterator[Option]:
    present = inferences[inferences["arm"].isin(rows.index)]
    means = {str(arm): found.mean(numeric_only=True) for arm, found in present.groupby("arm", sort=False)}
    for arm, mean in sorted(means.items(), key=lambda item: -item[1]["right"] / item[1]["images"]):
        points = (mean["right"] - mean["plain_right"]) / mean["images"]
        yield Option(
            arm,
            str(rows["label"][arm]),
            percent(mean["right"] / mean["images"]),
            f"{100 * points:+.2f}",
            "the same model in plaintext",
            points,
            epsilon_bound(float(rows["epsilon"][arm])),
            f"{significant(mean['one_client'] + mean['one_server'], 2)} an image",
            f"{human_bytes(mean['one_up'] + mean['one_down'])} an image",
            "the owner of the images, with the key",
            "",
        )


def _clause(decision: Decision) -> str:
    """Return the protection of a threat with its cost, by the recommended technique."""
    best = decision.options[0]
    at = f" at ε {best.epsilon}" if decision.threat.key in ("model", "both", "client") else ""
    if math.isnan(best.points):
        return f"{decision.threat.saying}{at} reaches {best.accuracy} %"
    if abs(best.points) < 5e-5:
        return f"{decision.threat.saying}{at} costs no accuracy"
    verb = "costs" if best.points < 0 else "gains"
    return f"{decision.threat.saying}{at} {verb} {percent(abs(best.points))} points"
