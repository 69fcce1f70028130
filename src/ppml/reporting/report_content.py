"""The content of the HTML report and of the PDF: the decisions, a row for each arm, and a page for each experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from ppml.reporting.decision import FILTERS, DataDecisions, decide, protections, trust_for_noise, trust_in
from ppml.reporting.experiment_view import ExperimentView
from ppml.reporting.formatting import (
    EMPTY_CELL,
    dataset_name,
    distinct,
    epsilon_bound,
    human_bytes,
    percent_estimate,
    significant,
    thousands,
)
from ppml.reporting.main_figure import Drawing, Placed, Point, draw, marker_path
from ppml.reporting.shown_table import ShownTable
from ppml.reporting.summaries import summarise
from ppml.reporting.technique_style import style_of, technique_name

LISTED_DIGESTS = 12
"""The largest number of digests in a list; readers find more in the tidy file."""
ALL = ""
"""The name of the filter that selects all arms."""


@dataclass(frozen=True)
class Figure:
    """A figure of an experiment."""

    kind: str
    source: str
    """The address of the picture."""
    caption: str


@dataclass(frozen=True)
class Page:
    """The page of an experiment."""

    name: str
    title: str
    figures: Sequence[Figure]
    tables: Sequence[tuple[ShownTable, str]]
    """Each table with its caption."""
    facts: Mapping[str, str]
    """The provenance, by heading."""


@dataclass(frozen=True)
class ArmRow:
    """The row of an arm in the table of all techniques, and its point in the main figure."""

    arm: str
    label: str
    technique: str
    colour: str
    marker: str
    """The data of an SVG path."""
    dataset: str
    experiments: str
    """Names of the experiments, separated by spaces."""
    protects: Sequence[str]
    """The names of the threats."""
    accuracy: str
    epsilon: str
    seconds: str
    bytes: str
    trust: str
    noise: str
    sort: Mapping[str, float]
    """Numbers for sorting, by column; infinity sorts last."""
    place: Placed

    @property
    def protected(self) -> str:
        """The protections in words."""
        return "; ".join(FILTERS[name] for name in self.protects) or EMPTY_CELL


@dataclass(frozen=True)
class Overview:
    """The first page."""

    decisions: Sequence[DataDecisions]
    rows: Sequence[ArmRow]
    drawing: Drawing
    datasets: Sequence[str]
    main: str
    """The name of the experiment with the most techniques, which the filters select at first."""


def overview_of(
    spec: Mapping[str, Any], records: pd.DataFrame, costs: pd.DataFrame, inferences: pd.DataFrame
) -> Overview:
    """Return the first page.

    Parameters
    ----------
    spec : mapping
        ``labels``: the label of each arm. ``experiments``: name, title, arms, tables and figures of each.
    records, costs, inferences : pandas.DataFrame
        The rows of the tidy files.

    Raises
    ------
    UserError
        An arm has no rows, or rows contradict each other.
    """
    view = ExperimentView(title="All techniques", arms=spec["labels"])
    summary = summarise(view, tuple(view.arms), records, costs)
    experiments = spec["experiments"]
    points = [_point(row, records) for _, row in summary.iterrows()]
    drawing = draw(points)
    predicting = set(inferences["arm"])
    rows = [_row(row, drawing.places[str(arm)], experiments, predicting) for arm, row in summary.iterrows()]
    techniques = {one["name"]: len({technique_name(summary.loc[arm]) for arm in one["arms"]}) for one in experiments}
    main = max(techniques, key=lambda name: techniques[name], default=ALL)
    datasets = [dataset_name(str(name)) for name in dict.fromkeys(summary["dataset"])]
    return Overview(decide(summary.loc[_decided_arms(spec)], records, inferences), rows, drawing, datasets, main)


def _decided_arms(spec: Mapping[str, Any]) -> list[str]:
    """Return the arms of the decisions: those of the table of recommendations, so that both make the same decisions.

    Without such a table they are the arms with a threat statement, else all.
    """
    for kind in ("recommendations", "threats"):
        arms = [arm for one in spec["experiments"] if kind in one["tables"] for arm in one["arms"]]
        if arms:
            return [*dict.fromkeys(arms)]
    return [*spec["labels"]]


def _point(row: pd.Series, records: pd.DataFrame) -> Point:
    low, high = row["score_low"], row["score_high"]
    if row["seeds"] == 2:
        # A t-interval of two seeds would hide the axis.
        found = records.loc[records["arm"] == row.name, "accuracy_all"]
        low, high = found.min(), found.max()
    return Point(str(row.name), row["epsilon"], row["score_mean"], low, high, technique_name(row))


def _row(row: pd.Series, place: Placed, experiments: Sequence[Mapping[str, Any]], predicting: set[str]) -> ArmRow:
    style, arm = style_of(row), str(row.name)
    upload = row["upload_mean"]
    return ArmRow(
        arm,
        str(row["label"]),
        technique_name(row),
        style.colour,
        marker_path(style.marker),
        dataset_name(str(row["dataset"])),
        " ".join(one["name"] for one in experiments if arm in one["arms"]),
        protections(row, predicting),
        percent_estimate(*(row[f"score_{part}"] for part in ("mean", "sd", "low", "high"))),
        epsilon_bound(row["epsilon"]),
        significant(row["cpu_seconds_mean"]),
        human_bytes(upload),
        trust_in(row),
        trust_for_noise(row),
        {
            "accuracy": round(row["score_mean"], 6),
            "epsilon": row["epsilon"],
            "seconds": round(row["cpu_seconds_mean"], 4),
            # An arm that sends nothing sorts before the others.
            "bytes": 0.0 if math.isnan(upload) else round(upload),
        },
        place,
    )


def caption_of(template: str, title: str, fallback: str) -> str:
    """Return the caption of a kind as plain text, without the marks of bold print.

    Examples
    --------
    >>> caption_of("**{{ snakemake.params.title }}: costs.** Less is better. {{ snakemake.params.fallback }}", "A", "")
    'A: costs. Less is better.'
    """
    params = SimpleNamespace(title=title, fallback=fallback)
    text = Environment(undefined=StrictUndefined, autoescape=False).from_string(template.replace("**", ""))
    return " ".join(text.render(snakemake=SimpleNamespace(params=params)).split())


def facts_of(arms: Sequence[str], records: pd.DataFrame, provenance: Mapping[str, str]) -> dict[str, str]:
    """Return the provenance of the results of ``arms``, by heading."""
    rows = records[records["arm"].isin(arms)]
    data = [
        f"{dataset_name(str(dataset))}, {thousands(int(size))} training examples, digest {digest}"
        for dataset, size, digest in rows[["dataset", "n_train", "data_digest"]].drop_duplicates().to_numpy().tolist()
    ]
    digests = sorted(set(rows["config_digest"].astype(str)))
    listed = (
        f"digests of the arms: {', '.join(digests)}"
        if len(digests) <= LISTED_DIGESTS
        else (f"digests of {thousands(len(digests))} arms in records.csv")
    )
    return {
        "Data": "; ".join(data),
        "Configuration": f"{provenance['configuration']}; {listed}",
        "Seeds": distinct(sorted(set(rows["seed"]))),
        "Trained on": distinct(rows["device"]),
        "Results": provenance["results"],
        "Code": provenance["code"],
        "Written": f"{provenance['date']} on {provenance['machine']}",
    }


def anchor(name: str) -> str:
    """Return the name of an experiment as the fragment of an address.

    Examples
    --------
    >>> anchor("model-size"), anchor("a b<")
    ('experiment-model-size', 'experiment-a-20b-3c')
    """
    return "experiment-" + re.sub(r"[^A-Za-z0-9._-]", lambda found: f"-{ord(found[0]):x}", name)
