"""An experiment: a selection of arms with the tables and figures that it makes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ppml.config.spec import Spec

TableKind = Literal["summary", "published", "readings"]
FigureKind = Literal["history", "privacy_utility", "cost", "labels", "epsilon"]


class Comparison(Spec):
    """A published row and the arm that answers it."""

    published: str = Field(description="A key of config/published.yaml.")
    arm: str | None = Field(default=None, description="The arm; null where the project has no such row yet.")


class Experiment(Spec):
    """What is shown together."""

    title: str = Field(description="Heads the tables and figures.")
    arms: Annotated[tuple[str, ...], Field(strict=False)] = Field(description="Names from `arms`, in the order shown.")
    tables: Annotated[tuple[TableKind, ...], Field(strict=False)] = Field(
        default=(),
        description="`summary`: a row an arm; `published`: the same beside the papers' numbers; "
        "`readings`: what each published epsilon can mean.",
    )
    figures: Annotated[tuple[FigureKind, ...], Field(strict=False)] = Field(
        default=(),
        description="`history`: accuracy against epoch or round; `privacy_utility`: accuracy against epsilon; `cost`: "
        "seconds, memory and bytes; `labels`: each client's label histogram for the arms' partitions; `epsilon`: "
        "epsilon spent against passes over the records.",
    )
    compare: Annotated[tuple[Comparison, ...], Field(strict=False)] = Field(
        default=(), description="Published rows, in the order shown."
    )
