"""The base of every part of the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ppml.config.suggestions import reading_of, suggestion


class Spec(BaseModel):
    """A frozen, strictly typed part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise unknown_name("key", str(key), cls.model_fields)
        return data

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, ready for JSON."""
        return self.model_dump(mode="json")


def unknown_name(what: str, name: str, allowed: Any) -> PydanticCustomError:
    """Return the error for a name that is not among those allowed, with the nearest one as a suggestion."""
    names = sorted(allowed)
    hint = suggestion(name, names)
    return PydanticCustomError(
        "unknown_name",
        "unknown {what} {name}; {hint}allowed: {names}",
        {"what": what, "name": repr(name), "hint": hint, "names": ", ".join(names) or "none"},
    )


def invalid(text: str) -> PydanticCustomError:
    """Return the error for values that do not go together; ``text`` names the keys, the values and what is allowed."""
    return PydanticCustomError("invalid", "{text}", {"text": text})


def _number_or_all(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise invalid(
            f"got {value!r}; {suggestion(value, ['all']) if isinstance(value, str) else ''}expected an integer of at "
            f"least 1, or 'all'{reading_of(value, wanted='integer')}"
        ) from None


NumberOrAll = Annotated[Annotated[int, Field(ge=1)] | Literal["all"], WrapValidator(_number_or_all)]
"""A count of something, or all of it."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A number that is part of the names of files, and a column of tables: not below 0, and of 64 bits."""
