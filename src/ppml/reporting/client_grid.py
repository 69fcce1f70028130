"""The client study: independent, federated and centralized training by setting, for its table and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_arms, require_published
from ppml.reporting.literature import PublishedRow
from ppml.reporting.summaries import rows_for_arm

DIVISIONS = {"iid": "IID", "shards": "Shards by label", "dirichlet": "Dirichlet"}
INDEPENDENT, CENTRALIZED = "independent", "centralized"
SERIES = {
    INDEPENDENT: "Independent",
    "none": "FL",
    "local": "FL, local noise",
    "distributed": "FL, distributed noise",
    "central": "FL, central noise",
}
"""The ways to train in a setting: independently, or federated by the column ``noise`` of records.csv."""


@dataclass(frozen=True)
class Answer:
    """One arm of the study: its rows of records.csv, and the published row of the same setting."""

    arm: str
    rows: pd.DataFrame
    published: PublishedRow | None


@dataclass
class Cell:
    """One setting: a number of training images, divided in one way among a number of clients; the answers by series."""

    division: str
    clients: int
    n_train: int
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The settings, by data size, division and number of clients, and the centralized training of each data size."""

    cells: list[Cell]
    centralized: dict[int, Answer]

    def of_size(self, n_train: int) -> Study:
        """Return the part of the study with ``n_train`` training images."""
        owner = {n_train: self.centralized[n_train]} if n_train in self.centralized else {}
        return Study([cell for cell in self.cells if cell.n_train == n_train], owner)

    @property
    def series(self) -> list[str]:
        """The keys of `SERIES` with an arm, in their order."""
        return [one for one in SERIES if any(one in cell.answers for cell in self.cells)]

    @property
    def answers(self) -> list[Answer]:
        """All arms."""
        return [*self.centralized.values(), *(answer for cell in self.cells for answer in cell.answers.values())]


def client_study(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Study:
    """Sort the arms of ``view`` into a study.

    Topology ``independent`` is one series, and ``federated`` one for each kind of noise. Centralized training, and a
    partition with one client, count as centralized. ``compare`` names the published row of the same setting.

    Raises
    ------
    UserError
        An arm has no result rows, a published row does not exist, two arms have one setting, or no arm has clients.
    """
    require_arms(records, view.arms, "records.csv")
    require_published(view, published)
    theirs = {row.arm: published[row.published] for row in view.compare}
    cells: dict[tuple[int, str, int], Cell] = {}
    centralized: dict[int, Answer] = {}
    for arm in view.arms:
        rows = rows_for_arm(records, arm)
        head = rows.iloc[0]
        answer = Answer(arm, rows, theirs.get(arm))
        n_train, clients = int(head["n_train"]), int(head["clients"])
        if clients == 1:
            _put(centralized, n_train, answer, view)
            continue
        place = (n_train, str(head["division"]), clients)
        cell = cells.setdefault(place, Cell(place[1], clients, n_train))
        _put(cell.answers, INDEPENDENT if head["topology"] == INDEPENDENT else str(head["noise"]), answer, view)
    if not cells:
        raise UserError(
            f"{view.title!r}: none of the arms {', '.join(view.arms)} has more than one client; select some with "
            "topology independent or federated, or remove table and figure `clients`"
        )
    order = list(DIVISIONS)
    return Study(
        [cells[place] for place in sorted(cells, key=lambda one: (one[0], order.index(one[1]), one[2]))], centralized
    )


def _put(answers: dict[Any, Answer], key: Any, answer: Answer, view: ExperimentView) -> None:
    if key in answers:
        raise UserError(
            f"{view.title!r}: arms {answers[key].arm!r} and {answer.arm!r} have the same setting ({key}); a table or "
            "figure `clients` takes one"
        )
    answers[key] = answer
