"""The division of a data set into training and test examples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ppml.config.columns import Texts
from ppml.config.spec import Spec, config_error

Fraction = Annotated[float, Field(gt=0, lt=1)]


class OfficialSplit(Spec):
    """The split of the publisher: files, arrays or folders of training and of test examples."""

    kind: Literal["official"] = "official"


class LastSplit(Spec):
    """The last examples, in the order of the files."""

    kind: Literal["last"] = "last"
    test: int = Field(ge=1, description="Number of examples for the test.")


class RandomSplit(Spec):
    """A random fraction of all examples."""

    kind: Literal["random"] = "random"
    test: Fraction = Field(default=0.2, description="Fraction of the examples for the test.")
    seed: int = Field(default=0, ge=0, description="Seed of the draw.")


class StratifiedSplit(Spec):
    """A random fraction of each class."""

    kind: Literal["stratified"] = "stratified"
    test: Fraction = Field(default=0.2, description="Fraction of the examples of each class for the test.")
    seed: int = Field(default=0, ge=0, description="Seed of the draw.")


class TimeSplit(Spec):
    """The latest rows, by the column with the role time."""

    kind: Literal["time"] = "time"
    test: Fraction = Field(default=0.2, description="Fraction of the latest rows for the test.")
    within_class: bool = Field(default=False, description="Whether it is the latest fraction of each class.")


class GroupSplit(Spec):
    """Whole groups, so that no group has rows on both sides."""

    kind: Literal["group"] = "group"
    column: str = Field(description="A column with the role group, site or unit.")
    folds: int = Field(default=5, ge=2, description="The number of parts of the groups.")
    fold: int = Field(default=0, ge=0, description="The part for the test, from 0.")
    blocks: bool = Field(
        default=False,
        description="Whether a part has neighbouring groups; otherwise group i is in part i modulo folds.",
    )

    @model_validator(mode="after")
    def _check(self) -> GroupSplit:
        if self.fold >= self.folds:
            raise config_error(f"fold: got {self.fold} of {self.folds} folds; at most {self.folds - 1} is allowed")
        return self


class ColumnSplit(Spec):
    """The rows with certain values of a column."""

    kind: Literal["column"] = "column"
    column: str = Field(description="A column with the role group or site.")
    test: Texts = Field(min_length=1, description="The values of the rows for the test.")
    train: Texts = Field(default=(), description="The values of the rows for training; empty: all others.")

    @model_validator(mode="after")
    def _check(self) -> ColumnSplit:
        if both := sorted({*self.test} & {*self.train}):
            raise config_error(f"train: got {both[0]!r}, which test has as well; a value may be in one of them")
        return self


SplitSpec = Annotated[
    OfficialSplit | LastSplit | RandomSplit | StratifiedSplit | TimeSplit | GroupSplit | ColumnSplit,
    Field(discriminator="kind"),
]
