"""The client study: independent, federated and centralized training by setting, for its table and its figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from ppml.errors import UserError
from ppml.reporting.experiment_view import ExperimentView, require_published
from ppml.reporting.literature import PublishedRow
from ppml.reporting.summaries import ArmResult, arm_results
from ppml.reporting.technique_style import TOPOLOGIES, technique_name

INDEPENDENT, CENTRALIZED = "independent", "centralized"
ONE_OWNER = TOPOLOGIES[INDEPENDENT], TOPOLOGIES[CENTRALIZED]
"""The name of independent training of one client, and its replacement."""
NO_DIVISION = ""
DIVISIONS = {
    NO_DIVISION: "Centralized",
    "iid": "IID",
    "shards": "Shards by label",
    "dirichlet": "Dirichlet",
    "natural": "Natural",
}
SERIES = {
    INDEPENDENT: "Independent clients",
    "none": "FL",
    "local": "FL + DP",
    "distributed": "FL + distributed DP",
    "central": "FL + client-level DP",
}
"""The ways to train in a setting: independently, or federated by the column ``noise`` of records.csv. A series with
several techniques has the name here."""


@dataclass(frozen=True)
class Answer(ArmResult):
    """One arm of the study, and the published row of the same setting."""

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
    centralized: list[Cell]

    @property
    def owner(self) -> Answer | None:
        """The centralized training of the first data size."""
        return self.centralized[0].answers[CENTRALIZED] if self.centralized else None

    @property
    def parts(self) -> dict[int, Study]:
        """The part of the study with each number of training images."""

        def of_size(cells: list[Cell], size: int) -> list[Cell]:
            return [cell for cell in cells if cell.n_train == size]

        sizes = dict.fromkeys(cell.n_train for cell in (*self.cells, *self.centralized))
        return {size: Study(of_size(self.cells, size), of_size(self.centralized, size)) for size in sizes}

    @property
    def series(self) -> list[str]:
        """The keys of `SERIES` with an arm, in their order."""
        return [one for one in SERIES if any(one in cell.answers for cell in self.cells)]

    @property
    def names(self) -> dict[str, str]:
        """The name of each series, and of centralized training: that of its technique, if no other series has it."""
        found: dict[str, set[str]] = {}
        for cell in (*self.centralized, *self.cells):
            for kind, answer in cell.answers.items():
                name = technique_name(answer.first)
                # A partition with one client is centralized training.
                found.setdefault(kind, set()).add(name.replace(*ONE_OWNER) if kind == CENTRALIZED else name)
        common = {**SERIES, CENTRALIZED: DIVISIONS[NO_DIVISION]}
        alone = [kind for kind, names in found.items() if len(names) == 1 and list(found.values()).count(names) == 1]
        return {kind: next(iter(names)) if kind in alone else common[kind] for kind, names in found.items()}

    @property
    def answers(self) -> list[Answer]:
        """All arms."""
        return [answer for cell in (*self.centralized, *self.cells) for answer in cell.answers.values()]


def client_study(view: ExperimentView, records: pd.DataFrame, published: Mapping[str, PublishedRow]) -> Study:
    """Sort the arms of ``view`` into a study.

    Topology ``independent`` is one series, and ``federated`` one for each kind of noise. Centralized training, and a
    partition with one client, count as centralized. ``compare`` names the published row of the same setting.

    Raises
    ------
    UserError
        An arm has no result rows, a published row does not exist, two arms have one setting, or no arm has clients.
    """
    arms = arm_results(view, records)
    require_published(view, published)
    theirs = {row.arm: published[row.published] for row in view.compare}
    cells: dict[tuple[int, int, int], Cell] = {}
    for one in arms:
        head = one.first
        n_train, clients, division, series = int(head["n_train"]), int(head["clients"]), NO_DIVISION, CENTRALIZED
        if clients > 1:
            division = str(head["division"])
            series = INDEPENDENT if head["topology"] == INDEPENDENT else str(head["noise"])
        place = (n_train, list(DIVISIONS).index(division), clients)
        answers = cells.setdefault(place, Cell(division, clients, n_train)).answers
        if series in answers:
            raise UserError(
                f"{view.title!r}: arms {answers[series].arm!r} and {one.arm!r} have the same setting ({series}); a "
                "table or figure `clients` takes one"
            )
        answers[series] = Answer(one.arm, one.label, one.rows, one.metric, theirs.get(one.arm))
    divided = [cells[place] for place in sorted(cells) if cells[place].clients > 1]
    view.require(
        divided,
        "table or figure clients",
        "has more than one client; select some with topology independent or federated",
    )
    return Study(divided, [cell for cell in cells.values() if cell.clients == 1])
