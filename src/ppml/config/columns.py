"""The columns of a table: their roles, and the public rules by which they become inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from ppml.config.spec import ListOf, Spec, config_error

Role = Literal[
    "feature",
    "category",
    "label",
    "identifier",
    "quasi_identifier",
    "sensitive",
    "time",
    "site",
    "group",
    "unit",
    "ignored",
]
INPUT_ROLES = ("feature", "category")
GROUP_ROLES = ("site", "group")
MISSING_TEXTS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
MISSING_VALUE = "missing"
"""The name of the value that ``missing: category`` adds to a category."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def as_texts(value: Any) -> Any:
    """Return a list, or a value alone, as the texts of a file."""
    return [text_of(entry) for entry in value] if isinstance(value, list | tuple) else [text_of(value)]


def _as_mapping(value: Any) -> Any:
    """Return the texts of each value: of a list, each text is a value of its own."""
    if isinstance(value, list | tuple):
        texts = as_texts(value)
        if len(set(texts)) != len(texts):
            raise config_error(f"got {texts}; a value occurs twice, each may occur once")
        return {text: [text] for text in texts}
    if isinstance(value, Mapping):
        named = {text_of(name): as_texts(texts) for name, texts in value.items()}
        if len(named) != len(value):
            raise config_error(f"got {list(value)}; a value occurs twice, each may occur once")
        return named
    return value


def text_of(value: Any) -> str:
    """Return a value of a list as the text of a file, without spaces around it; YAML reads some texts as numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise config_error(f"got {value!r}; write the text of the file in quotes")
    return str(value).strip()


def _check_rule(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)
    except ValidationError:
        raise config_error(f"got {value!r}; allowed: refuse, drop_row, category, or a number") from None


def _check_format(pattern: str) -> None:
    try:
        datetime.strptime("", pattern)
    except (ValueError, re.error) as error:
        # The empty text fits no format; a wrong sign in the format is another error.
        if "does not match" not in str(error):
            raise config_error(
                f"format: got {pattern!r}: {error}; write one as Python does, for instance %d.%m.%Y"
            ) from None
    if "%" not in pattern:
        raise config_error(f"format: got {pattern!r}, which has no part of a time; write one like %d.%m.%Y")


Values = Annotated[dict[str, Annotated[tuple[str, ...], Field(strict=False)]], BeforeValidator(_as_mapping)]
Texts = Annotated[ListOf[str], BeforeValidator(as_texts)]
"""Texts of a file; numbers count as their texts."""


class Column(Spec):
    """One column of a table."""

    role: Annotated[ListOf[Role], BeforeValidator(_as_list)] = Field(
        min_length=1,
        description="One role or several. `feature`: a number that the model reads. `category`: a text of a closed "
        "list that the model reads. `label`: the class. `identifier`, `quasi_identifier`, `sensitive`: roles in "
        "anonymization. `time`, `group`: for splits. `site`: the natural client. `unit`: rows of one person. "
        "`ignored`: not read.",
    )
    values: Values = Field(
        default={},
        description="The closed list of a category, a label, a site or a group: a list of texts, or a name with the "
        "list of its texts.",
    )
    other: str | None = Field(
        default=None, description="The value that all texts outside the list count as; null: they are refused."
    )
    drop: Texts = Field(default=(), description="Texts of a label whose rows are left out.")
    low: float | None = Field(default=None, description="The smallest value of a feature, a public fact.")
    high: float | None = Field(default=None, description="The largest value of a feature, a public fact.")
    scale: Literal["linear", "log", "fitted", "none"] = Field(
        default="linear",
        description="`linear`: `low` becomes -1 and `high` becomes 1, values outside are cut. `log`: the same of the "
        "logarithm of 1 + the value - `low`. `fitted`: mean and deviation of the training rows; refused under privacy. "
        "`none`: the number itself.",
    )
    missing: Annotated[Literal["refuse", "drop_row", "category"] | float, WrapValidator(_check_rule)] = Field(
        default="refuse",
        description="Rule for a missing value. `refuse`: an error with the row. `drop_row`: the row is left out. "
        f"`category`: the value `{MISSING_VALUE}` of a category. A number stands for the missing number of a feature.",
    )
    format: str | None = Field(
        default=None, description="Format of a time, for instance `%d.%m.%Y %H:%M`; null: ISO 8601, or seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> Column:
        if len(set(self.role)) != len(self.role):
            raise config_error(f"role: got {list(self.role)}; a role occurs twice, each may occur once")
        if self.is_category and "feature" in self.role:
            raise config_error("role: got feature and category; allowed: one of them")
        if "ignored" in self.role and len(self.role) > 1:
            raise config_error(f"role: got {list(self.role)}; an ignored column has no other role")
        if "identifier" in self.role and self.is_input:
            raise config_error(
                f"role: got {list(self.role)}: a model that reads an identifier learns its rows by heart; leave "
                f"{self._input_role} out"
            )
        if "label" in self.role:
            self._check_label()
        self._check_uses()
        if "feature" in self.role:
            self._check_range()
        closed = [role for role in self.role if role in ("category", "label", *GROUP_ROLES)]
        if closed and not self.values:
            raise config_error(f"values: role {closed[0]!r} needs its closed list; give the texts")
        if self.values and not closed:
            raise config_error(f"values: role {self.role[0]!r} has no closed list; leave values out")
        texts = [text for entries in self.values.values() for text in entries]
        if repeated := sorted({text for text in texts if texts.count(text) > 1}):
            raise config_error(f"values: the text {repeated[0]!r} stands for two values; it may stand for one")
        if both := sorted({*texts} & {*self.drop}):
            raise config_error(f"drop: got {both[0]!r}, which values has as well; a text may be in one of them")
        if self.other is not None and self.other not in self.values:
            raise config_error(f"other: got {self.other!r}; allowed: {', '.join(self.values) or 'none without values'}")
        self._check_missing()
        return self

    def _check_label(self) -> None:
        for role in ("feature", "category", "sensitive", "identifier"):
            if role in self.role:
                reason = "forbids learning it" if role == "sensitive" else "gives the model the answer"
                raise config_error(f"role: got label and {role}, which {reason}; allowed: one of them")
        if len(self.values) < 2:
            raise config_error(f"values: got {len(self.values)} classes; a label needs at least 2")

    def _check_uses(self) -> None:
        """Raise an error for a key that the roles have no use for."""
        given = {
            "feature": {"low": self.low is not None, "high": self.high is not None, "scale": self.scale != "linear"},
            "label": {"drop": bool(self.drop)},
            "time": {"format": self.format is not None},
        }
        for role, keys in given.items():
            for key, is_given in keys.items():
                if is_given and role not in self.role:
                    raise config_error(f"{key}: only a column with role {role} has it; leave it out")
        if self.format is not None:
            _check_format(self.format)

    def _check_range(self) -> None:
        if self.scale not in ("linear", "log"):
            return
        for key in ("low", "high"):
            if getattr(self, key) is None:
                raise config_error(f"{key}: scale {self.scale!r} needs it, a public fact; or state another scale")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise config_error(f"high: got {self.high}, not above low {self.low}")
        if self.low is not None and self.high is not None and not math.isfinite(self.high - self.low):
            raise config_error(f"high: got {self.high}, too far above low {self.low} for a number of 64 bits")

    def _check_missing(self) -> None:
        if self.missing == "category" and "category" not in self.role:
            raise config_error("missing: got 'category', which only a column with role category has")
        for role in ("time", "unit"):
            if role in self.role and self.missing not in ("refuse", "drop_row"):
                raise config_error(f"missing: got {self.missing!r} for role {role}; allowed: refuse, drop_row")
        if isinstance(self.missing, float) and "feature" not in self.role:
            raise config_error(f"missing: got {self.missing}; a number stands for a missing feature only")
        if self.missing == "category" and MISSING_VALUE in self.values:
            raise config_error(f"values: {MISSING_VALUE!r} is the value that missing: category adds; leave it out")

    @property
    def _input_role(self) -> str:
        return next(role for role in self.role if role in INPUT_ROLES)

    @property
    def is_input(self) -> bool:
        """Whether the model reads the column."""
        return any(role in INPUT_ROLES for role in self.role)

    @property
    def is_category(self) -> bool:
        """Whether the model reads the column as a value of a closed list."""
        return "category" in self.role

    @property
    def is_read(self) -> bool:
        """Whether training or splits need the column."""
        return self.is_input or any(role in ("label", "time", "unit", *GROUP_ROLES) for role in self.role)

    @property
    def names(self) -> tuple[str, ...]:
        """The values of a closed list, with the one of missing texts."""
        return (*self.values, MISSING_VALUE) if self.missing == "category" else tuple(self.values)

    @property
    def width(self) -> int:
        """The number of inputs that the column becomes."""
        return len(self.names) if self.is_category else 1


class TableFields(Spec):
    """The columns of a data set that is a table."""

    columns: dict[str, Column] = Field(default={}, description="The columns by name; those of a table are all listed.")
    quasi_identifiers_as_inputs: bool = Field(
        default=False,
        description="Whether the model may read quasi-identifiers. A trained model can then reveal them, so this is "
        "refused unless it is stated.",
    )
    missing_texts: Texts = Field(default=MISSING_TEXTS, description="The texts that mean a missing value.")

    @model_validator(mode="after")
    def _check_columns(self) -> TableFields:
        if not self.columns:
            return self
        for name in self.columns:
            if name != name.strip():
                raise config_error(f"columns: the name {name!r} has spaces around it, which files are read without")
        labels = [name for name, column in self.columns.items() if "label" in column.role]
        if len(labels) != 1:
            raise config_error(
                f"columns: {len(labels)} have the role label ({', '.join(labels) or 'none'}); 1 needs it"
            )
        for role in ("time", "site", "unit"):
            found = [name for name, column in self.columns.items() if role in column.role]
            if len(found) > 1:
                raise config_error(f"columns: {', '.join(found)} have the role {role}; at most 1 may have it")
        if not any(column.is_input for column in self.columns.values()):
            raise config_error("columns: none has the role feature or category; the model needs an input")
        for name, column in self.columns.items():
            if column.is_input and "quasi_identifier" in column.role and not self.quasi_identifiers_as_inputs:
                raise config_error(
                    f"columns.{name}.role: got quasi_identifier and {column._input_role}: a model can reveal its "
                    "inputs; leave one of them out, or state quasi_identifiers_as_inputs: true"
                )
        return self

    def column_with(self, role: str) -> str | None:
        """Return the name of the first column with a role, None without any."""
        return next((name for name, column in self.columns.items() if role in column.role), None)

    @property
    def inputs(self) -> dict[str, Column]:
        """The columns that the model reads, by name."""
        return {name: column for name, column in self.columns.items() if column.is_input}

    def table_contract(self) -> dict[str, Any]:
        """Return shape, classes, columns and groups of the encoded table."""
        columns = [
            entry
            for name, column in self.inputs.items()
            for entry in ([f"{name}: {value}" for value in column.names] if column.is_category else [name])
        ]
        label = self.columns[str(self.column_with("label"))]
        scaled = [name for name, column in self.inputs.items() if column.scale in ("linear", "log")]
        return {
            "kind": "table",
            "shape": (len(columns),),
            "classes": label.names,
            "columns": tuple(columns),
            "numbers": tuple(name for name in scaled if not self.columns[name].is_category),
            "groups": {
                name: column.names for name, column in self.columns.items() if set(column.role) & set(GROUP_ROLES)
            },
            "fitted": tuple(name for name, column in self.inputs.items() if column.scale == "fitted"),
        }
