"""The table of the client study: a row for each number of clients and division, our numbers and theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from ppml.reporting.client_grid import CENTRALIZED, DIVISIONS, INDEPENDENT, SERIES, Answer, Cell, Study, client_study
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.footnotes import common_notes
from ppml.reporting.formatting import EMPTY_CELL, percent_estimate, thousands
from ppml.reporting.literature import PublishedRow, accuracy_text
from ppml.reporting.registry import table
from ppml.reporting.statistics import difference, estimate
from ppml.reporting.summaries import summarise
from ppml.reporting.table import Table


@table("clients")
def clients_table(
    view: ExperimentView,
    records: pd.DataFrame,
    costs: pd.DataFrame,
    joint: pd.DataFrame,
    published: Mapping[str, PublishedRow],
) -> Table:
    """Return the table with a row for each setting: each way to train, the differences, and the published numbers."""
    study = client_study(view, records, published)
    summary = summarise(view, tuple(view.arms), records, costs)
    lines = [_line(cell, part, study.names) for part in study.parts.values() for cell in part.cells]
    cells = pd.DataFrame(lines, columns=_columns(lines, study.names)).fillna(EMPTY_CELL)
    notes = (
        *view.notes,
        *(_centralized_note(cell, study.names) for cell in study.centralized),
        *_verdicts(study),
        "FL minus another: difference of the means over seeds on all test images, with its 95 % interval (Student's t "
        "over the paired seeds).",
        *dict.fromkeys(answer.published.note for answer in study.answers if answer.published and answer.published.note),
        *common_notes(view, summary, joint),
    )
    raw = [
        _raw_row(cell, kind, one) for cell in (*study.centralized, *study.cells) for kind, one in cell.answers.items()
    ]
    return Table(view.title, cells, {"Division"}, notes, pd.DataFrame(raw))


def _columns(lines: Sequence[dict[str, str]], names: Mapping[str, str]) -> list[str]:
    """Return the headings of all lines in one order: setting, ours, differences, theirs."""
    present = dict.fromkeys(heading for line in lines for heading in line)
    ours = [names[kind] for kind in SERIES if kind in names]
    order = [
        *("Division", "Clients", "Images"),
        *(heading for name in ours for heading in present if heading.startswith(f"{name}: ")),
        *(heading for heading in present if ", minus " in heading),
        *(f"Theirs: {name}" for name in ours),
    ]
    return sorted(present, key=order.index)


def _setting(cell: Cell) -> dict[str, str]:
    return {
        "Division": DIVISIONS[cell.division],
        "Clients": str(cell.clients),
        "Images": thousands(cell.n_train),
    }


def _line(cell: Cell, study: Study, names: Mapping[str, str]) -> dict[str, str]:
    line = _setting(cell)
    for kind, answer in cell.answers.items():
        line |= _ours(names[kind], answer)
    # The reference of FL is independent training, or centralized if no cell has that.
    alone = INDEPENDENT in study.series
    reference, against = (cell.answers.get(INDEPENDENT), INDEPENDENT) if alone else (study.owner, CENTRALIZED)
    for kind, answer in cell.answers.items():
        if kind != INDEPENDENT and reference is not None:
            line[f"{names[kind]}, minus {against}"] = _gain(answer, reference)
    theirs = {names[kind]: answer for kind, answer in cell.answers.items() if answer.published}
    return line | {f"Theirs: {name}": _theirs(answer) for name, answer in theirs.items()}


def _centralized_note(cell: Cell, names: Mapping[str, str]) -> str:
    """Return the accuracy of centralized training."""
    answer = cell.answers[CENTRALIZED]
    text = ", ".join(f"{heading.partition(': ')[2]} {value}" for heading, value in _ours("", answer).items())
    theirs = f"; theirs: {_theirs(answer)}" if answer.published else ""
    return f"{names[CENTRALIZED]}, one owner, {thousands(cell.n_train)} training examples: {text}{theirs}."


def _ours(heading: str, answer: Answer) -> dict[str, str]:
    shown = {}
    for column, size, which in (("accuracy", "n_test", "first"), ("accuracy_all", "n_test_all", "all")):
        trials = int(answer.first[size])
        found = estimate(answer.rows[column], trials=trials)
        text = percent_estimate(found.mean, found.deviation, found.low, found.high)
        shown[f"{heading}: {which} {trials:,} (%)"] = text
    return shown


def _theirs(answer: Answer) -> str:
    return EMPTY_CELL if answer.published is None else accuracy_text(answer.published, EMPTY_CELL)


def _gain(together: Answer, other: Answer) -> str:
    both = together.rows.merge(other.rows, on="seed", suffixes=("", "_other"))
    ours, theirs = both["accuracy_all"].tolist(), both["accuracy_all_other"].tolist()
    return difference(ours, theirs, trials=int(both["n_test_all"].iloc[0])).points(2)


def _verdicts(study: Study) -> list[str]:
    """Return the comparisons over all cells, for each data size."""
    lines = []
    for n_train, part in study.parts.items():
        gaps = [_gap_to_centralized(part, kind, study.names) for kind in part.series if kind != INDEPENDENT]
        found = "; ".join(filter(None, [_above_independent(part), *gaps, _same_as_theirs(part)]))
        lines += [f"{n_train:,} training examples: {found}."] if found else []
    return lines


def _above_independent(study: Study) -> str | None:
    above = [
        answer.score.mean > cell.answers[INDEPENDENT].score.mean
        for cell in study.cells
        if INDEPENDENT in cell.answers
        for kind, answer in cell.answers.items()
        if kind != INDEPENDENT
    ]
    return f"FL is above independent training in {sum(above)} of {len(above)} settings with both" if above else None


def _gap_to_centralized(study: Study, kind: str, names: Mapping[str, str]) -> str | None:
    """Return the largest distance of a series from centralized training."""
    if study.owner is None:
        return None
    means = [cell.answers[kind].score.mean for cell in study.cells if kind in cell.answers]
    gap = max(0.0, study.owner.score.mean - min(means))
    return f"{names[kind]}: at most {100 * gap:.2f} points below centralized"


def _same_as_theirs(study: Study) -> str | None:
    pairs = [
        (answer.score.mean, answer.published.accuracy)
        for answer in study.answers
        if answer.published and answer.published.accuracy is not None
    ]
    if len(pairs) <= 2:
        return None
    ordered = [(one, other) for one, other in combinations(pairs, 2) if one[1] != other[1]]
    same = sum((one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in ordered)
    settings = f"{len(ordered)} pairs of settings with different published accuracies"
    return f"of {settings}, ours have the same order in {same}"


def _raw_row(cell: Cell, kind: str, answer: Answer) -> dict[str, object]:
    rows, theirs = answer.rows, answer.published
    accuracy, accuracy_all = estimate(rows["accuracy"]), estimate(rows["accuracy_all"])
    return {
        "arm": answer.arm,
        "training": kind,
        "division": cell.division,
        "clients": cell.clients,
        "n_train": cell.n_train,
        "seeds": len(rows),
        "accuracy_mean": accuracy.mean,
        "accuracy_sd": accuracy.deviation,
        "accuracy_all_mean": accuracy_all.mean,
        "accuracy_all_sd": accuracy_all.deviation,
        "their_accuracy": theirs.accuracy if theirs else None,
        "their_std": theirs.std if theirs else None,
    }
