"""The contract of a data set: everything that models, audits, partitions, tables and figures may know of it.

The subset stage writes it into ``about.json``; each transform writes the contract of its own output. Nothing else
states a shape or a number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

Kind = Literal["image", "table", "features"]
"""Images; the columns of a table; numbers that a transform calculates from either."""
AXES: Mapping[str, int] = {"image": 3, "table": 1, "features": 1}
"""Axes of one example: channels, height and width, or columns alone."""
NOUNS: Mapping[str, str] = {"image": "images", "table": "columns", "features": "features"}


def _class_names(value: Any) -> Any:
    """Return the names of classes; a number stands for the names 0, 1, 2, ..."""
    return [str(number) for number in range(value)] if isinstance(value, int) and not isinstance(value, bool) else value


class DataContract(BaseModel):
    """The public facts of a data set; none of them is calculated from private examples.

    Parameters
    ----------
    kind : {"image", "table", "features"}
        The kind of an example.
    shape : tuple of int
        The shape of one example: ``(channels, height, width)`` of an image, ``(columns,)`` otherwise.
    classes : tuple of str
        The names of the classes, in the order of their labels 0, 1, 2, ...; a number of classes stands for these
        numbers.
    columns : tuple of str
        The names of the columns of a table; empty without names.
    mean, deviation : tuple of float
        Public constants of the normalisation, for each channel or column, or one for all. Pixels are in [0, 1] before.
    numbers : tuple of str
        The columns with a number in [-1, 1]; the others of a table are 0 or 1, one for each value of a category.
    groups : mapping
        Columns that divide the examples, for instance ``site``, with the names of their groups.
    fitted : tuple of str
        The columns whose scale is a mean and a deviation of the training examples; private trainings refuse them.
    licence : str
        The licence of the data; empty if it is not known.
    public : bool
        Whether plain digests of the data, and results on them, may be published: everybody knows the data, or may.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Kind = "image"
    shape: Annotated[tuple[PositiveInt, ...], Field(strict=False)]
    classes: Annotated[tuple[str, ...], Field(strict=False, min_length=2), BeforeValidator(_class_names)]
    columns: Annotated[tuple[str, ...], Field(strict=False)] = ()
    mean: Annotated[tuple[float, ...], Field(strict=False)] = (0.0,)
    deviation: Annotated[tuple[PositiveFloat, ...], Field(strict=False)] = (1.0,)
    numbers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    groups: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = {}
    fitted: Annotated[tuple[str, ...], Field(strict=False)] = ()
    licence: str = ""
    public: bool = False

    @model_validator(mode="after")
    def _check_lengths(self) -> DataContract:
        axes = AXES[self.kind]
        if len(self.shape) != axes:
            _refuse("shape", list(self.shape), f"kind {self.kind!r} has {axes} axes")
        if len(set(self.classes)) != len(self.classes):
            _refuse("classes", list(self.classes), "a name occurs twice; each may occur once")
        if self.columns and len(self.columns) != self.shape[0]:
            _refuse("columns", f"{len(self.columns)} names", f"shape {list(self.shape)} needs {self.shape[0]}")
        for key, values in (("mean", self.mean), ("deviation", self.deviation)):
            if len(values) not in (1, self.shape[0]):
                _refuse(key, f"{len(values)} numbers", f"allowed: 1, or {self.shape[0]} for shape {list(self.shape)}")
        return self

    @property
    def size(self) -> int:
        """The number of values of one example."""
        return math.prod(self.shape)

    def features(self, count: int) -> DataContract:
        """Return the contract of ``count`` features calculated from these examples."""
        changes = {"kind": "features", "shape": (count,), "columns": (), "numbers": ()}
        changes |= {"mean": (0.0,), "deviation": (1.0,)}
        return self.model_copy(update=changes)

    def to_json(self) -> dict[str, Any]:
        """Return the contract as plain values, ready for JSON."""
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {NOUNS[self.kind]}, {len(self.classes)} classes"


def _refuse(key: str, value: object, reason: str) -> None:
    raise PydanticCustomError(
        "invalid", "{key}: got {value}; {reason}", {"key": key, "value": str(value), "reason": reason}
    )
