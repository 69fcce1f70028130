"""Each client alone, all together, and one owner of everything: the same cells for table and figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import Selection, require_arms, require_published
from ppml.reporting.literature import PublishedRow
from ppml.reporting.summaries import rows_of

DIVISIONS = {"iid": "IID", "shards": "Shards by label", "dirichlet": "Dirichlet"}
ALONE, ONE_OWNER = "alone", "one owner"
SERIES = {
    ALONE: "Each client alone",
    "none": "FL",
    "owner": "FL, noise at each client",
    "shares": "FL, noise by shares",
    "server": "FL, noise at the server",
}
"""How the clients of a cell may train: alone, or together, with noise from whoever adds it, as records.csv names it."""


@dataclass(frozen=True)
class Answer:
    """One arm of the study: its rows of records.csv, and what a paper reports of the same setting."""

    arm: str
    rows: pd.DataFrame
    published: PublishedRow | None


@dataclass
class Cell:
    """A number of clients among whom so many training images are divided in one way; the answers by series."""

    division: str
    clients: int
    n_train: int
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The cells, by data size, division and number of clients, and for each data size one owner of everything."""

    cells: list[Cell]
    one_owner: dict[int, Answer]

    def of_size(self, n_train: int) -> Study:
        """Return what is of ``n_train`` training images."""
        owner = {n_train: self.one_owner[n_train]} if n_train in self.one_owner else {}
        return Study([cell for cell in self.cells if cell.n_train == n_train], owner)

    @property
    def series(self) -> list[str]:
        """Which of `SERIES` there are, in their order."""
        return [one for one in SERIES if any(one in cell.answers for cell in self.cells)]

    @property
    def answers(self) -> list[Answer]:
        """All arms."""
        return [*self.one_owner.values(), *(answer for cell in self.cells for answer in cell.answers.values())]


def client_study(selection: Selection, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Study:
    """Sort the arms of ``selection`` into a study.

    An arm with topology ``local`` is each client alone, one with ``federated`` all together, a series for each that may
    add the noise; centralized training, and a partition with one client, is one owner. ``compare`` says which published
    row is of the same setting.

    Raises
    ------
    UserError
        An arm has no records, a published row does not exist, two arms are of one setting, or none has clients.
    """
    require_arms(records, selection.arms, "records.csv")
    require_published(selection, published)
    theirs = {row.arm: published[row.published] for row in selection.compare}
    cells: dict[tuple[int, str, int], Cell] = {}
    one_owner: dict[int, Answer] = {}
    for arm in selection.arms:
        rows = rows_of(records, arm)
        head = rows.iloc[0]
        answer = Answer(arm, rows, theirs.get(arm))
        n_train, clients = int(head["n_train"]), int(head["clients"])
        if clients == 1:
            _put(one_owner, n_train, answer, selection)
            continue
        place = (n_train, str(head["division"]), clients)
        cell = cells.setdefault(place, Cell(place[1], clients, n_train))
        _put(cell.answers, ALONE if head["topology"] == "local" else str(head["noise_by"]), answer, selection)
    if not cells:
        raise UserError(
            f"{selection.title!r}: none of the arms {', '.join(selection.arms)} has more than one client; select "
            "some with topology local or federated, or leave table and figure `clients` out"
        )
    order = list(DIVISIONS)
    return Study(
        [cells[place] for place in sorted(cells, key=lambda one: (one[0], order.index(one[1]), one[2]))], one_owner
    )


def _put(answers: dict[Any, Answer], key: Any, answer: Answer, selection: Selection) -> None:
    if key in answers:
        raise UserError(
            f"{selection.title!r}: arms {answers[key].arm!r} and {answer.arm!r} are of the same setting ({key}); a "
            "table or figure `clients` takes one"
        )
    answers[key] = answer
