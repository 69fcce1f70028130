"""An experiment: a selection of arms with the tables and figures that it makes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ppml.config.spec import Spec, invalid

TableKind = Literal["summary", "published", "readings", "claims", "audit", "clients", "threats", "inference"]
FigureKind = Literal[
    "history", "loss", "privacy_utility", "size", "cost", "labels", "epsilon", "client_epsilon", "audit", "clients"
]
Reading = Literal["rises_with_epsilon", "starts_higher", "trains_easier", "starts_low_and_improves", "keeps_accuracy"]


class Comparison(Spec):
    """A published row and the arm that answers it."""

    published: str = Field(description="A key of config/published.yaml.")
    arm: str | None = Field(default=None, description="The arm; null where the project has no such row yet.")


class Claim(Spec):
    """A sentence of a paper, read so that our numbers can answer it."""

    says: str = Field(min_length=1, description="Their words.")
    reading: Reading = Field(
        description="What is tested. `rises_with_epsilon`: of the arms in order of epsilon, each is more accurate than "
        "the one before, and the one without privacy most of all. `starts_higher`: it is ahead of every private arm "
        "after the first epoch or round. `trains_easier`: after each. `starts_low_and_improves`: after the first, each "
        "private arm is behind the next larger epsilon, and ahead of itself after the last. `keeps_accuracy`: the arm "
        "of the smallest epsilon keeps at least nine tenths of the accuracy without privacy."
    )
    arms: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        description="Names from `arms`: one without privacy, the others private."
    )


class Experiment(Spec):
    """What is shown together."""

    title: str = Field(description="Heads the tables and figures.")
    arms: Annotated[tuple[str, ...], Field(strict=False)] = Field(description="Names from `arms`, in the order shown.")
    tables: Annotated[tuple[TableKind, ...], Field(strict=False)] = Field(
        default=(),
        description="`summary`: a row an arm; `published`: the same beside the papers' numbers; `readings`: what each "
        "published epsilon can mean; `claims`: a row a claim, with its verdict; `audit`: claimed and measured noise; "
        "`clients`: each client alone and all together, a row a number of clients; `threats`: who holds and sees what; "
        "`inference`: predictions on encrypted images.",
    )
    figures: Annotated[tuple[FigureKind, ...], Field(strict=False)] = Field(
        default=(),
        description="`history`: accuracy against epoch or round; `loss`: the same of the loss; `privacy_utility`: "
        "accuracy against epsilon; `size`: accuracy against the number of parameters; `cost`: seconds, memory and "
        "bytes; `labels`: each client's label histogram for the arms' partitions; `epsilon`: epsilon spent against "
        "passes over the records; `client_epsilon`: the epsilon that each client's records have spent; `audit`: "
        "claimed and measured noise; `clients`: accuracy against the number of clients.",
    )
    compare: Annotated[tuple[Comparison, ...], Field(strict=False)] = Field(
        default=(), description="Published rows, in the order shown."
    )
    notes: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Lines below the tables: what a reader must know of these arms."
    )
    published: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Published rows that no arm answers: points of `privacy_utility`, rows of `published`."
    )
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = Field(
        default=(), description="Rows of the table `claims`, in the order shown."
    )

    @model_validator(mode="after")
    def _has_what_it_shows(self) -> Experiment:
        if "claims" in self.tables and not self.claims:
            raise invalid("tables: 'claims' needs at least one entry in claims; add one, or leave the table out")
        return self
