"""The table of the client study: a row a number of clients and division, theirs beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from ppml.reporting.client_study import ALONE, DIVISIONS, ONE_OWNER, TOGETHER, Answer, Cell, Study, client_study
from ppml.reporting.display import NOTHING, percent, percent_estimate
from ppml.reporting.notes import data_notes, spread_notes
from ppml.reporting.published import PublishedRow
from ppml.reporting.selection import Selection
from ppml.reporting.statistics import difference, estimate
from ppml.reporting.summaries import summarise
from ppml.reporting.tables import Table

HEADINGS = {ALONE: "Each client alone", TOGETHER: "FL"}
_THEIRS = {kind: f"Theirs: {heading}" for kind, heading in HEADINGS.items()}


def clients_table(
    selection: Selection, records: pd.DataFrame, costs: pd.DataFrame, published: Mapping[str, PublishedRow]
) -> Table:
    """Return the table with a row a setting: each client alone, FL, what FL gains, and the published numbers.

    Parameters
    ----------
    selection : Selection
        The arms; ``compare`` names the published row of the same setting.
    records, costs : pandas.DataFrame
        One row an arm and seed.
    published : mapping of str to PublishedRow
        As `ppml.reporting.published.load_published` returns it.

    Raises
    ------
    UserError
        See :func:`~ppml.reporting.client_study.client_study`.
    """
    study = client_study(selection, records, published)
    summary = summarise(selection, tuple(selection.arms), records, costs)
    lines = []
    for n_train in dict.fromkeys([*(cell.n_train for cell in study.cells), *study.one_owner]):
        if n_train in study.one_owner:
            lines.append(_one_owner_line(n_train, study.one_owner[n_train]))
        lines += [_line(cell) for cell in study.cells if cell.n_train == n_train]
    cells = pd.DataFrame(lines, columns=_columns(lines)).fillna(NOTHING)
    notes = (
        *selection.notes,
        *_verdicts(study),
        "FL minus alone: of the means over seeds, with its 95 % interval (Student's t over the seeds, paired).",
        *dict.fromkeys(
            answer.published.note for answer in _answers(study) if answer.published and answer.published.note
        ),
        *spread_notes(summary),
        *data_notes(summary),
    )
    return Table(selection.title, cells, frozenset(cells.columns) - {"Division"}, notes, _raw(study))


def _columns(lines: Sequence[dict[str, str]]) -> list[str]:
    """Return the headings of all lines in one order: setting, alone, FL, what it gains, theirs."""
    present = dict.fromkeys(heading for line in lines for heading in line)
    order = (
        "Division",
        "Clients",
        "Images",
        *(f"{heading}, " for heading in HEADINGS.values()),
        "FL minus",
        *_THEIRS.values(),
    )
    places = {one: next(place for place, start in enumerate(order) if one.startswith(start)) for one in present}
    return sorted(present, key=lambda heading: places[heading])


def _line(cell: Cell) -> dict[str, str]:
    line = {"Division": DIVISIONS[cell.division], "Clients": str(cell.clients), "Images": f"{cell.n_train:,}"}
    for kind, heading in HEADINGS.items():
        if kind in cell.answers:
            line |= _ours(heading, cell.answers[kind])
    if set(cell.answers) == set(HEADINGS):
        line["FL minus alone, all"] = _gain(cell)
    for kind, heading in _THEIRS.items():
        line[heading] = _theirs(cell.answers[kind]) if kind in cell.answers else NOTHING
    return line


def _one_owner_line(n_train: int, answer: Answer) -> dict[str, str]:
    """Return the line of centralized training: its accuracy stands where that of FL does."""
    line = {"Division": "One owner", "Clients": "1", "Images": f"{n_train:,}"}
    return {**line, **_ours(HEADINGS[TOGETHER], answer), _THEIRS[TOGETHER]: _theirs(answer)}


def _ours(heading: str, answer: Answer) -> dict[str, str]:
    rows = answer.rows
    shown = {}
    for column, size in (("accuracy", "n_test"), ("accuracy_all", "n_test_all")):
        trials = int(rows[size].iloc[0])
        found = estimate(rows[column], trials=trials)
        which = f"first {trials:,}" if column == "accuracy" else f"all {trials:,}"
        shown[f"{heading}, {which} (%)"] = percent_estimate(found.mean, found.deviation, found.low, found.high)
    return shown


def _theirs(answer: Answer) -> str:
    row = answer.published
    if row is None or row.accuracy is None:
        return NOTHING
    return percent(row.accuracy, 1) + ("" if row.std is None else f" ± {percent(row.std, 1)}")


def _gain(cell: Cell) -> str:
    together, alone = cell.answers[TOGETHER].rows, cell.answers[ALONE].rows
    both = together.merge(alone, on="seed", suffixes=("", "_alone"))
    gain = difference(
        both["accuracy_all"].tolist(), both["accuracy_all_alone"].tolist(), trials=int(both["n_test_all"].iloc[0])
    )
    return f"{100 * gain.value:+.2f} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"


def _verdicts(study: Study) -> list[str]:
    """Return what the cells say together, for each data size."""
    lines = []
    for n_train in dict.fromkeys(cell.n_train for cell in study.cells):
        cells = [cell for cell in study.cells if cell.n_train == n_train]
        both = [cell for cell in cells if set(cell.answers) == set(HEADINGS)]
        above = sum(_mean(cell.answers[TOGETHER]) > _mean(cell.answers[ALONE]) for cell in both)
        line = (
            f"{n_train:,} training images: FL is above each client alone in {above} of {len(both)} settings with both"
        )
        pairs = [
            (_mean(answer), answer.published.accuracy)
            for answer in _answers(
                Study(cells, {n_train: study.one_owner[n_train]} if n_train in study.one_owner else {})
            )
            if answer.published and answer.published.accuracy is not None
        ]
        if len(pairs) > 2:
            same, compared = _same_order(pairs)
            line += f"; of {compared} pairs of settings that the paper tells apart, ours have its order in {same}"
        lines.append(f"{line}.")
    return lines


def _same_order(pairs: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """Return in how many pairs of settings ours have the order of theirs, and how many theirs tell apart.

    Examples
    --------
    >>> _same_order([(0.9, 0.8), (0.8, 0.7), (0.85, 0.6)])
    (2, 3)
    """
    apart = [(one, other) for one, other in combinations(pairs, 2) if one[1] != other[1]]
    return sum((one[0] - other[0]) * (one[1] - other[1]) > 0 for one, other in apart), len(apart)


def _mean(answer: Answer) -> float:
    return float(answer.rows["accuracy_all"].mean())


def _answers(study: Study) -> list[Answer]:
    return [*study.one_owner.values(), *(answer for cell in study.cells for answer in cell.answers.values())]


def _raw(study: Study) -> pd.DataFrame:
    rows = [_raw_row("", 1, n_train, ONE_OWNER, answer) for n_train, answer in study.one_owner.items()]
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
