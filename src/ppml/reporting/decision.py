"""The decision by threat: a threat, the techniques against it, and their cost in accuracy, seconds, bytes and trust.

Every number comes from the tidy files. Topology, privacy and aggregation of an arm decide the threats that it protects
against; its cost is the difference to the arm with the same data and model and without this protection.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ppml.reporting.footnotes import noise_known_to
from ppml.reporting.formatting import (
    dataset_name,
    distinct,
    epsilon_bound,
    human_bytes,
    percent,
    percent_estimate,
    scientific,
    significant,
    thousands,
)
from ppml.reporting.leading_metric import metric_name
from ppml.reporting.statistics import Difference, difference
from ppml.reporting.summaries import scores_by_seed

TRUST = (
    "Trust: the named parties follow the protocol. No collusion: the named parties do not combine their data and keys. "
    "With distributed noise, ε holds if no more clients collude than the configuration permits, by default one; each "
    "further client subtracts its part of the noise. Each reader of the model needs trust where ε is ∞, since the "
    "model may reveal examples."
)
"""The meaning of trust, for readers of the decisions."""
ALTERNATIVES = 4
"""The largest number of techniques for a threat."""
PREDICTION = "prediction"
FILTERS = {
    "pooling": "examples stay with their owners",
    "server": "single updates",
    "model": "an example in the model",
    "client": "a client in the model",
    PREDICTION: "predicted images",
}
"""The protected things, by the name of the threat."""


def _without_privacy(row: pd.Series) -> bool:
    return bool(row["privacy_unit"] == "none")


def _protects_examples(row: pd.Series) -> bool:
    return bool(row["privacy_unit"] == "example")


def _hides_updates(row: pd.Series) -> bool:
    return bool(row["topology"] == "federated") and row["aggregation"] not in ("none", "plaintext")


def _protects_updates(row: pd.Series) -> bool:
    """Return whether the server reads no update, or one in which the client's own noise protects each example."""
    return _hides_updates(row) or (row["topology"] == "federated" and row["noise"] == "local")


def _same(row: pd.Series, other: pd.Series, *columns: str) -> bool:
    return all(row[column] == other[column] or (pd.isna(row[column]) and pd.isna(other[column])) for column in columns)


@dataclass(frozen=True)
class Threat:
    """A threat, and the protection against it."""

    key: str
    name: str
    """The threat as a sentence."""
    protection: str
    """The protection as the subject of a sentence."""
    alone: Callable[[pd.Series], bool] = lambda row: False
    """Row of a summary -> whether the arm has this protection and no other one."""
    without: Callable[[pd.Series, pd.Series], bool] = lambda row, other: False
    """Row of an arm and of another one -> whether the other one lacks the protection, and the rest is equal."""
    states_epsilon: bool = False
    """Whether epsilon bounds the threat."""


THREATS = (
    Threat(
        "pooling",
        "My examples leave my site",
        "federated training, which leaves the examples with their owners,",
        lambda row: row["topology"] != "centralized" and _without_privacy(row) and not _hides_updates(row),
        lambda row, other: other["topology"] == "centralized" and _without_privacy(other),
    ),
    Threat(
        "server",
        "The server reads my update",
        "hiding the updates from the server",
        lambda row: _hides_updates(row) and _without_privacy(row),
        lambda row, other: (
            other["aggregation"] == "plaintext" and _same(row, other, "topology", "partition", "privacy_unit")
        ),
    ),
    Threat(
        "model",
        "The released model reveals an example",
        "differential privacy",
        lambda row: _protects_examples(row) and not _protects_updates(row),
        lambda row, other: _without_privacy(other) and _same(row, other, "topology", "partition", "aggregation"),
        states_epsilon=True,
    ),
    Threat(
        "both",
        "My update, or the model, reveals an example",
        "the protection of updates and model",
        lambda row: _protects_examples(row) and _protects_updates(row),
        lambda row, other: (
            _without_privacy(other)
            and other["aggregation"] == "plaintext"
            and _same(row, other, "topology", "partition")
        ),
        states_epsilon=True,
    ),
    Threat(
        "client",
        "The released model reveals all examples of a client",
        "differential privacy of a whole client",
        lambda row: row["privacy_unit"] == "client",
        lambda row, other: _without_privacy(other) and _same(row, other, "topology", "partition"),
        states_epsilon=True,
    ),
    # The file of encrypted predictions decides, not the training.
    Threat(PREDICTION, "The prediction server reads my input", "prediction on encrypted images"),
)


@dataclass(frozen=True)
class Option:
    """A technique against a threat, with its cost. A number that does not apply is nan."""

    arm: str
    label: str
    score: float
    """The leading metric: mean over the seeds, on all evaluated examples."""
    score_sd: float
    score_low: float
    score_high: float
    """Standard deviation over the seeds, and the 95 % interval."""
    epsilon: float
    """Infinite without differential privacy."""
    against: str
    """The label of the arm without the protection; empty without such an arm."""
    change: float
    """The score minus that of this arm, on the seeds of both."""
    change_low: float
    change_high: float
    """The 95 % interval."""
    seconds: float
    """CPU time of the training of all parties, or of one prediction."""
    seconds_factor: float
    """The multiple of that of the arm without the protection."""
    bytes: float
    """Bytes that a client sends in a round, or of one prediction, both ways."""
    bytes_factor: float
    trust: str
    """The parties, and the trust in them."""
    noise: str
    """The parties that know the noise; empty without privacy."""
    predicts: bool = False
    """Whether seconds and bytes are those of one prediction."""

    @property
    def score_text(self) -> str:
        """Percent, with the deviation or the interval."""
        return percent_estimate(self.score, self.score_sd, self.score_low, self.score_high)

    @property
    def epsilon_text(self) -> str:
        """The bound."""
        return epsilon_bound(self.epsilon)

    @property
    def change_text(self) -> str:
        """Percentage points with the interval; empty without an arm to compare with."""
        if not self.against:
            return ""
        ends = "" if math.isnan(self.change_low) else f" [{100 * self.change_low:+.2f}, {100 * self.change_high:+.2f}]"
        return f"{100 * self.change:+.2f}{ends}"

    @property
    def seconds_text(self) -> str:
        """CPU seconds, with the factor."""
        if self.predicts:
            return f"{significant(self.seconds, 2)} a prediction"
        return _with_factor(significant(self.seconds), self.seconds_factor, digits=1)

    @property
    def bytes_text(self) -> str:
        """Bytes with their unit, with the factor."""
        if self.predicts:
            return f"{human_bytes(self.bytes)} a prediction"
        return _with_factor(human_bytes(self.bytes), self.bytes_factor)

    @property
    def cost(self) -> str:
        """All costs in one text, without the ones that do not apply."""
        change = [f"{100 * self.change:+.2f} points"] if self.against else []
        if self.predicts:
            spent = [f"{significant(self.seconds, 2)} s and {human_bytes(self.bytes)} a prediction"]
        elif self.against:
            spent = [f"CPU time {_factor(self.seconds_factor, digits=1)}"]
        else:
            spent = [f"CPU time {significant(self.seconds)} s"]
        sent = [] if self.predicts or math.isnan(self.bytes) else [f"upload {self.bytes_text}"]
        against = f"against {self.against}: " if self.against else ""
        return against + ", ".join([*change, *spent, *sent])


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
    metric: str
    """The name of the leading metric."""
    bare: tuple[str, str] | None
    """Label and leading metric in percent of the most accurate arm of one owner without protection, if there is one."""
    terms: str
    """The numbers of seeds, and the terms of each epsilon, of the recommended arms."""
    decisions: tuple[Decision, ...]

    @property
    def sentence(self) -> str:
        """The decisions in one sentence and its terms; each cost names the arm without the protection."""
        parts = [_clause(one) for one in self.decisions]
        data = f"On {self.dataset} with {self.examples} training examples"
        bare = [f"{self.bare[0]} reaches {self.bare[1]} % {self.metric} without protection"] if self.bare else []
        return f"{data}: {'; '.join([*bare, *parts])}. {self.terms}"


def protections(row: pd.Series, predicting: set[str]) -> list[str]:
    """Return the names of the threats that an arm, a row of a summary, protects against."""
    found = {
        "pooling": row["topology"] != "centralized",
        "server": _protects_updates(row),
        "model": _protects_examples(row),
        "client": row["privacy_unit"] == "client",
        PREDICTION: str(row.name) in predicting,
    }
    return [name for name in FILTERS if found[name]]


def trust_in(row: pd.Series) -> str:
    """Return the parties that an owner of examples must trust under an arm, a row of a summary, and the trust."""
    if row["topology"] == "centralized":
        return "the owner of all examples"
    # The noise of a client protects its update from all other parties.
    if row["topology"] == "independent" or row["noise"] == "local":
        return "no other party"
    opened = str(row["update_opened_by"])
    if row["aggregation"] == "plaintext":
        return f"{opened}, with every update" + (" and the noise" if row["noise"] == "central" else "")
    return f"no collusion of {opened.replace(' together with ', ' and ').removesuffix(' together')}"


def trust_for_noise(row: pd.Series) -> str:
    """Return the parties that know the noise of an arm, a row of a summary; an empty text without privacy."""
    return "" if _without_privacy(row) else noise_known_to(row)


def decide(summary: pd.DataFrame, records: pd.DataFrame, inferences: pd.DataFrame) -> list[DataDecisions]:
    """Return the decisions on each data set, in the order of the arms.

    Of the arms that need the same trust, the most accurate one on their common seeds is an option.

    Parameters
    ----------
    summary : pandas.DataFrame
        One row for each arm, as :func:`~ppml.reporting.summaries.summarise` returns it.
    records, inferences : pandas.DataFrame
        The rows of records.csv and of inferences.csv.
    """
    found = []
    for dataset, rows in summary.groupby("dataset", sort=False):
        # Accuracies compare at one number of training examples: the most frequent one.
        size = Counter(rows["n_train"]).most_common(1)[0][0]
        found.append(_decide(str(dataset), int(size), rows[rows["n_train"] == size], records, inferences))
    return found


def _decide(
    dataset: str, size: int, rows: pd.DataFrame, records: pd.DataFrame, inferences: pd.DataFrame
) -> DataDecisions:
    epsilons = Counter(_rounded(value) for value in rows.loc[rows["privacy_unit"] == "example", "epsilon"])
    shared, count = max(epsilons.items(), key=lambda item: item[1], default=(math.nan, 0))
    shared = shared if count > 1 else math.nan
    decisions = [Decision(threat, tuple(_options(threat, rows, records, shared))) for threat in THREATS[:-1]]
    decisions.append(Decision(THREATS[-1], tuple(_predictions(rows, inferences))))
    bare = rows[(rows["topology"] == "centralized") & (rows["privacy_unit"] == "none")]
    best = None if bare.empty else bare.sort_values("score_mean", kind="stable").iloc[-1]
    found = tuple(one for one in decisions if one.options)
    return DataDecisions(
        dataset_name(dataset),
        thousands(size),
        metric_name(rows["metric"].iloc[0]),
        None if best is None else (str(best["label"]), percent(best["score_mean"])),
        _terms(rows.loc[[one.options[0].arm for one in found]]),
        found,
    )


def _terms(rows: pd.DataFrame) -> str:
    """Return the terms of the numbers of some arms: seeds, and unit, delta and accountant of epsilon."""
    seeds = distinct(sorted(set(rows["seeds"]) - {1}), str, " or ")
    single = "[a, b]: one seed" if (rows["seeds"] == 1).any() else ""
    terms = f"Accuracies: {'; '.join(filter(None, [f'means over {seeds} seeds' * bool(seeds), single]))}."
    private = rows[rows["privacy_unit"] != "none"]
    if private.empty:
        return terms
    units, deltas = distinct(private["privacy_unit"], str, " or "), distinct(private["delta"], scientific, " or ")
    accountants = distinct(private["accountant"], str.upper, " or ")
    return f"{terms} ε is that of one model, for one {units}, at δ {deltas} (accountant {accountants})."


def _rounded(epsilon: float) -> float:
    """Return an epsilon with two digits: calibrated arms reach their target from below."""
    return float(f"{epsilon:.2g}")


def _options(threat: Threat, rows: pd.DataFrame, records: pd.DataFrame, shared: float) -> Iterator[Option]:
    candidates = [row for _, row in rows.iterrows() if threat.alone(row)]
    # Accuracy rises with epsilon: techniques compare at the most frequent one, if they have it.
    equal = [row for row in candidates if _rounded(row["epsilon"]) == shared]
    best: dict[tuple[str, float], pd.Series] = {}
    for row in _ranked(equal or candidates, records):
        # Without a common epsilon, each one is a choice of its own.
        best.setdefault((trust_in(row), _rounded(row["epsilon"])), row)
    for row in [*best.values()][:ALTERNATIVES]:
        yield _option(row, _counterpart(threat, row, rows), records)


def _counterpart(threat: Threat, row: pd.Series, rows: pd.DataFrame) -> pd.Series | None:
    """Return the arm without the protection, else the arm of one owner without any; None without both."""
    alike = [other for _, other in rows.iterrows() if _same(row, other, "model")]
    exact = (other for other in alike if threat.without(row, other))
    bare = (other for other in alike if other["topology"] == "centralized" and _without_privacy(other))
    return next(exact, next(bare, None))


def _ranked(rows: Sequence[pd.Series], records: pd.DataFrame) -> list[pd.Series]:
    """Return arms from the highest score on, over the seeds that all arms have, if there are any."""
    if not rows:
        return []
    common = scores_by_seed(records, [str(row.name) for row in rows], rows[0]["metric"]).mean()

    def rank(row: pd.Series) -> tuple[float, float, float]:
        """Return the score to a hundredth of a percent, then bytes, then seconds."""
        mean = common.get(str(row.name), math.nan)
        score = row["score_mean"] if math.isnan(mean) else mean
        upload = 0.0 if math.isnan(row["upload_mean"]) else row["upload_mean"]
        return -round(score, 4), upload, row["cpu_seconds_mean"]

    return sorted(rows, key=rank)


def _option(row: pd.Series, other: pd.Series | None, records: pd.DataFrame) -> Option:
    change = None if other is None else _difference(row, other, records)
    before = pd.Series({"cpu_seconds_mean": math.nan, "upload_mean": math.nan}) if other is None else other
    # Of two seeds the interval says nothing.
    ends = (change.low, change.high) if change and change.n != 2 else (math.nan, math.nan)
    return Option(
        **_of_arm(row),
        against="" if change is None or other is None else str(other["label"]),
        change=change.value if change else math.nan,
        change_low=ends[0],
        change_high=ends[1],
        seconds=float(row["cpu_seconds_mean"]),
        seconds_factor=float(row["cpu_seconds_mean"] / before["cpu_seconds_mean"]),
        bytes=float(row["upload_mean"]),
        bytes_factor=float(row["upload_mean"] / before["upload_mean"]),
        trust=trust_in(row),
    )


def _of_arm(row: pd.Series) -> dict[str, Any]:
    """Return the fields of an option that are those of its arm."""
    parts = {"score": "mean", "score_sd": "sd", "score_low": "low", "score_high": "high"}
    score = {field: float(row[f"score_{part}"]) for field, part in parts.items()}
    found = {"arm": str(row.name), "label": str(row["label"]), "epsilon": float(row["epsilon"])}
    return found | score | {"noise": trust_for_noise(row)}


def _with_factor(text: str, ratio: float, digits: int = 2) -> str:
    return text if math.isnan(ratio) else f"{text} ({_factor(ratio, digits)})"


def _factor(ratio: float, digits: int = 2) -> str:
    return f"{ratio:.{digits}f}\N{MULTIPLICATION SIGN}"


def _difference(row: pd.Series, other: pd.Series, records: pd.DataFrame) -> Difference | None:
    """Return the difference of the scores, over the seeds that both arms have."""
    both = scores_by_seed(records, [str(row.name), str(other.name)], row["metric"])
    if both.empty:
        return None
    if row["metric"] != "accuracy" and len(both) == 1:
        # The intervals of one seed are those of a fraction of examples.
        change = float(both[str(row.name)].iloc[0] - both[str(other.name)].iloc[0])
        return Difference(change, math.nan, math.nan, 1, "none")
    first, second = (both[str(one.name)].tolist() for one in (row, other))
    return difference(first, second, trials=int(row["n_test_all"]))


def _predictions(rows: pd.DataFrame, inferences: pd.DataFrame) -> Iterator[Option]:
    means = {str(arm): row for arm, row in inferences.groupby("arm").mean(numeric_only=True).iterrows()}
    encrypted = [row for arm, row in rows.iterrows() if arm in means]
    # One server needs the same trust under each arm: the most accurate one remains.
    for row in sorted(encrypted, key=lambda row: -row["score_mean"])[:1]:
        mean = means[str(row.name)]
        yield Option(
            **_of_arm(row),
            against="plaintext",
            change=float((mean["right"] - mean["plain_right"]) / mean["images"]),
            change_low=math.nan,
            change_high=math.nan,
            seconds=float(mean["one_client"] + mean["one_server"]),
            seconds_factor=math.nan,
            bytes=float(mean["one_up"] + mean["one_down"]),
            bytes_factor=math.nan,
            trust="the server, for correct answers",
            predicts=True,
        )


def _clause(decision: Decision) -> str:
    """Return the protection of a threat with its cost, by the recommended technique."""
    best = decision.options[0]
    at = f" at ε {best.epsilon_text}" if decision.threat.states_epsilon else ""
    protection = f"{decision.threat.protection}{at}"
    if not best.against:
        return f"{protection} reaches {percent(best.score)} %"
    if abs(best.change) < 5e-5:
        return f"{protection} costs nothing against {best.against}"
    verb = "costs" if best.change < 0 else "gains"
    return f"{protection} {verb} {percent(abs(best.change))} points against {best.against}"
