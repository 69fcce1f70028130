"""The table of the client study: a row for each number of clients and division, our numbers and theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from ppml.reporting.client_grid import CENTRALIZED, DIVISIONS, INDEPENDENT, SERIES, Answer, Cell, Study, client_study
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import data_notes, spread_notes
from ppml.reporting.formatting import EMPTY_CELL, percent, percent_estimate
from ppml.reporting.guarantee import privacy_notes
from ppml.reporting.literature import PublishedRow
from ppml.reporting.registry import table
from ppml.reporting.statistics import difference, estimate
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table

_THEIRS = {kind: f"Theirs: {heading}" for kind, heading in SERIES.items()}


@table(
    "clients",
    shows="independent and federated training, a row for each number of clients",
    reads=("records", "costs", "joint"),
    published=True,
)
def clients_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each setting: each way to train, the differences, and the published numbers.

    Raises
    ------
    UserError
        See :func:`~ppml.reporting.client_grid.client_study`.
    """
    study = client_study(view, records, published)
    summary = summarise(view, tuple(view.arms), records, costs)
    lines = []
    for n_train in dict.fromkeys([*(cell.n_train for cell in study.cells), *study.centralized]):
        part = study.of_size(n_train)
        if n_train in part.centralized:
            lines.append(_centralized_line(n_train, part.centralized[n_train], part.series or study.series))
        lines += [_line(cell, part) for cell in part.cells]
    cells = pd.DataFrame(lines, columns=_columns(lines)).fillna(EMPTY_CELL)
    notes = (
        *view.notes,
        *_verdicts(study),
        "FL minus another: difference of the means over seeds on all test images, with its 95 % interval (Student's t "
        "over the paired seeds).",
        *dict.fromkeys(answer.published.note for answer in study.answers if answer.published and answer.published.note),
        *privacy_notes(summary, joint),
        *spread_notes(summary),
        *data_notes(summary),
    )
    return Table(view.title, cells, frozenset(cells.columns) - {"Division"}, notes, _raw(study))


def _columns(lines: Sequence[dict[str, str]]) -> list[str]:
    """Return the headings of all lines in one order: setting, ours, differences, theirs."""
    present = dict.fromkeys(heading for line in lines for heading in line)
    order = [
        *("Division", "Clients", "Images"),
        *(heading for kind in SERIES for heading in present if heading.startswith(f"{SERIES[kind]}: ")),
        *(heading for heading in present if " minus " in heading),
        *_THEIRS.values(),
    ]
    return sorted(present, key=order.index)


def _line(cell: Cell, study: Study) -> dict[str, str]:
    line = {"Division": DIVISIONS[cell.division], "Clients": str(cell.clients), "Images": f"{cell.n_train:,}"}
    for kind, answer in cell.answers.items():
        line |= _ours(SERIES[kind], answer)
    for kind, other, against in _compared(cell, study):
        line[f"{SERIES[kind]}, minus {against}"] = _gain(cell.answers[kind], other)
    theirs = {kind: _theirs(answer) for kind, answer in cell.answers.items() if answer.published}
    return line | {_THEIRS[kind]: shown for kind, shown in theirs.items()}


def _compared(cell: Cell, study: Study) -> list[tuple[str, Answer, str]]:
    """Return each series of FL with its reference: independent training, or centralized if no cell has that."""
    if INDEPENDENT in study.series:
        other, against = cell.answers.get(INDEPENDENT), INDEPENDENT
    else:
        other, against = study.centralized.get(cell.n_train), CENTRALIZED
    return [(kind, other, against) for kind in cell.answers if kind != INDEPENDENT and other is not None]


def _centralized_line(n_train: int, answer: Answer, series: Sequence[str]) -> dict[str, str]:
    """Return the line of centralized training, which equals FL with one client and any kind of noise."""
    line = {"Division": "Centralized", "Clients": "1", "Images": f"{n_train:,}"}
    together = [kind for kind in series if kind != INDEPENDENT] or list(series)
    for kind in together:
        line |= _ours(SERIES[kind], answer)
    return line | ({_THEIRS[together[0]]: _theirs(answer)} if answer.published else {})


def _ours(heading: str, answer: Answer) -> dict[str, str]:
    rows = answer.rows
    shown = {}
    for column, size in (("accuracy", "n_test"), ("accuracy_all", "n_test_all")):
        trials = int(rows[size].iloc[0])
        found = estimate(rows[column], trials=trials)
        which = f"first {trials:,}" if column == "accuracy" else f"all {trials:,}"
        shown[f"{heading}: {which} (%)"] = percent_estimate(found.mean, found.deviation, found.low, found.high)
    return shown


def _theirs(answer: Answer) -> str:
    row = answer.published
    if row is None or row.accuracy is None:
        return EMPTY_CELL
    return percent(row.accuracy, 1) + ("" if row.std is None else f" ± {percent(row.std, 1)}")


def _gain(together: Answer, other: Answer) -> str:
    both = together.rows.merge(other.rows, on="seed", suffixes=("", "_other"))
    gain = difference(
        both["accuracy_all"].tolist(), both["accuracy_all_other"].tolist(), trials=int(both["n_test_all"].iloc[0])
    )
    return f"{100 * gain.value:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"


def _verdicts(study: Study) -> list[str]:
    """Return the comparisons over all cells, for each data size."""
    lines = []
    for n_train in dict.fromkeys(cell.n_train for cell in study.cells):
        part = study.of_size(n_train)
        texts = [
            _above_independent(part),
            *(_gap_to_centralized(part, kind) for kind in part.series),
            _same_as_theirs(part),
        ]
        found = "; ".join(text for text in texts if text)
        lines += [f"{n_train:,} training images: {found}."] if found else []
    return lines


def _above_independent(study: Study) -> str | None:
    pairs = [
        (_mean(answer), _mean(cell.answers[INDEPENDENT]))
        for cell in study.cells
        if INDEPENDENT in cell.answers
        for kind, answer in cell.answers.items()
        if kind != INDEPENDENT
    ]
    if not pairs:
        return None
    above = sum(together > alone for together, alone in pairs)
    return f"FL is above independent training in {above} of {len(pairs)} settings with both"


def _gap_to_centralized(study: Study, kind: str) -> str | None:
    """Return the largest distance of a series from centralized training."""
    behind = [
        _mean(owner) - _mean(cell.answers[kind])
        for owner in study.centralized.values()
        for cell in study.cells
        if kind in cell.answers
    ]
    if kind == INDEPENDENT or not behind:
        return None
    return f"{SERIES[kind]}: at most {100 * max(0.0, *behind):.2f} points below centralized"


def _same_as_theirs(study: Study) -> str | None:
    pairs = [
        (_mean(answer), answer.published.accuracy)
        for answer in study.answers
        if answer.published and answer.published.accuracy is not None
    ]
    if len(pairs) <= 2:
        return None
    same, compared = _same_order(pairs)
    return f"of {compared} pairs of settings with different published accuracies, ours have the same order in {same}"


def _same_order(pairs: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """Return the number of pairs of settings with the same order as theirs, and the number of pairs that theirs order.

    Examples
    --------
    >>> _same_order([(0.9, 0.8), (0.8, 0.7), (0.85, 0.6)])
    (2, 3)
    """
    ordered = [(one, other) for one, other in combinations(pairs, 2) if one[1] != other[1]]
    return sum((one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in ordered), len(ordered)


def _mean(answer: Answer) -> float:
    return float(answer.rows["accuracy_all"].mean())


def _raw(study: Study) -> pd.DataFrame:
    rows = [_raw_row("", 1, n_train, CENTRALIZED, answer) for n_train, answer in study.centralized.items()]
    for cell in study.cells:
        rows += [_raw_row(cell.division, cell.clients, cell.n_train, kind, one) for kind, one in cell.answers.items()]
    return pd.DataFrame(rows)


def _raw_row(division: str, clients: int, n_train: int, kind: str, answer: Answer) -> dict[str, object]:
    rows, theirs = answer.rows, answer.published
    accuracy, accuracy_all = estimate(rows["accuracy"]), estimate(rows["accuracy_all"])
    return {
        "arm": answer.arm,
        "training": kind,
        "division": division,
        "clients": clients,
        "n_train": n_train,
        "seeds": len(rows),
        "accuracy_mean": accuracy.mean,
        "accuracy_sd": accuracy.deviation,
        "accuracy_all_mean": accuracy_all.mean,
        "accuracy_all_sd": accuracy_all.deviation,
        "their_accuracy": theirs.accuracy if theirs else None,
        "their_std": theirs.std if theirs else None,
    }
