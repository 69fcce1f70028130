"""An experiment: selected arms, with their tables and figures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ppml.config.spec import ListOf, Spec, config_error

TableKind = Literal[
    "summary",
    "published",
    "headline",
    "epsilon_interpretations",
    "claims",
    "audit",
    "clients",
    "threats",
    "recommendations",
    "inference",
    "classes",
]
FigureKind = Literal[
    "history",
    "loss",
    "privacy_utility",
    "size",
    "cost",
    "labels",
    "epsilon",
    "client_epsilon",
    "audit",
    "clients",
    "confusion",
    "predictions",
]
Criterion = Literal["rises_with_epsilon", "starts_higher", "trains_easier", "starts_low_and_improves", "keeps_accuracy"]


class ComparedRow(Spec):
    """A published row and the arm that reproduces it."""

    published: str = Field(description="A key of config/published.yaml.")
    arm: str | None = Field(default=None, description="The arm; null if the project has no such row yet.")


class Claim(Spec):
    """A claim of a paper, and the criterion that tests it on our numbers."""

    quote: str = Field(min_length=1, description="The words of the paper.")
    criterion: Criterion = Field(
        description="The test. `rises_with_epsilon`: accuracy rises with epsilon, and is highest without privacy. "
        "`starts_higher`: after the first epoch or round, the arm without privacy leads every private arm. "
        "`trains_easier`: it leads after each. `starts_low_and_improves`: after the first, each private arm is behind "
        "the next larger epsilon; after the last, it is ahead of its own start. `keeps_accuracy`: the arm of the "
        "smallest epsilon keeps at least nine tenths of the accuracy without privacy."
    )
    arms: ListOf[str] = Field(description="Names from `arms`: one arm without privacy, the others private.")


COMPARING_TABLES = ("published", "headline", "epsilon_interpretations")
"""Tables of arms that reproduce published rows."""
MetricName = Literal["accuracy", "balanced_accuracy", "macro_f1", "worst_class_recall", "auc"]


class Experiment(Spec):
    """Selected arms, with their tables and figures."""

    title: str = Field(description="Title of the tables and figures.")
    arms: ListOf[str] = Field(description="Names from `arms`, in the order shown.")
    tables: ListOf[TableKind] = Field(
        default=(),
        description="`summary`: a row per arm; `published`: the same beside the papers' numbers; "
        "`headline`: a row per published number and our most accurate answer; "
        "`epsilon_interpretations`: possible meanings of each published epsilon; `claims`: a row per claim, with its "
        "verdict; `audit`: claimed and measured noise; `clients`: independent and federated clients, a row per number "
        "of clients; `threats`: the view of each party; `recommendations`: a row per threat and technique, with cost "
        "and trust; `inference`: predictions on encrypted images; `classes`: recall of each class.",
    )
    figures: ListOf[FigureKind] = Field(
        default=(),
        description="`history`: accuracy against epoch or round; `loss`: the same of the loss; `privacy_utility`: "
        "accuracy against epsilon; `size`: accuracy against the number of parameters; `cost`: CPU seconds and "
        "bytes; `labels`: each client's label histogram for the arms' partitions; `epsilon`: epsilon against passes "
        "over the examples; `client_epsilon`: epsilon of each client's examples; `audit`: claimed and measured noise; "
        "`clients`: accuracy against the number of clients; `confusion`: true against predicted classes; "
        "`predictions`: the first test images with their predicted classes.",
    )
    metric: MetricName = Field(
        default="accuracy",
        description="Metric that tables and figures lead with, on all test examples. `balanced_accuracy`: mean recall "
        "of the classes. `macro_f1`: mean F1 of the classes. `worst_class_recall`: the smallest recall of a class. "
        "`auc`: area under the ROC curve, for two classes.",
    )
    compare: ListOf[ComparedRow] = Field(default=(), description="Published rows, in the order shown.")
    notes: ListOf[str] = Field(default=(), description="Notes below the tables.")
    published: ListOf[str] = Field(
        default=(), description="Published rows without an arm: points of `privacy_utility`, rows of `published`."
    )
    claims: ListOf[Claim] = Field(default=(), description="Rows of the table `claims`, in the order shown.")

    @model_validator(mode="after")
    def _check_claims(self) -> Experiment:
        if "claims" in self.tables and not self.claims:
            raise config_error("tables: 'claims' needs at least one entry in claims; add one, or leave the table out")
        return self

    @model_validator(mode="after")
    def _check_compared(self) -> Experiment:
        for kind in self.tables:
            if kind in COMPARING_TABLES and all(row.arm is None for row in self.compare):
                raise config_error(
                    f"tables: {kind!r} needs at least one entry in compare with an arm, such as "
                    f"{{published: private-ai/1/ml-dp, arm: {next(iter(self.arms), 'dp')}}}; add one, or leave the "
                    "table out"
                )
        return self
