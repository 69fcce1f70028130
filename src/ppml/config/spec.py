"""The base of every part of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

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

from ppml.config.renamed_keys import MOVED_KEYS, RENAMED_KEYS, renamed_entry
from ppml.config.suggestions import suggestion, yaml_hint


class Spec(BaseModel):
    """A frozen, strictly typed part of the configuration; it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key, value in data.items():
                if key not in cls.model_fields:
                    raise _unknown_key(str(key), value, cls.model_fields)
        return data

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain values, ready for JSON."""
        return self.model_dump(mode="json")


def unknown_name(what: str, name: str, allowed: Any) -> PydanticCustomError:
    """Return the error for an unknown name, with the nearest allowed name and all allowed names."""
    names = sorted(allowed)
    hint = suggestion(name, names)
    return PydanticCustomError(
        "unknown_name",
        "unknown {what} {name}; {hint}allowed: {names}",
        {"what": what, "name": repr(name), "hint": hint, "names": ", ".join(names) or "none"},
    )


def _unknown_key(key: str, value: Any, allowed: Mapping[str, Any]) -> PydanticCustomError:
    beside, entry = MOVED_KEYS.get(key, ("", ""))
    if beside in allowed:
        return PydanticCustomError("renamed", "moved; write {entry}", {"key": key, "entry": entry})
    if RENAMED_KEYS.get(key) not in allowed:
        return unknown_name("key", key, allowed)
    return PydanticCustomError("renamed", "renamed; write `{entry}`", {"key": key, "entry": renamed_entry(key, value)})


def config_error(text: str) -> PydanticCustomError:
    """Return the error for a bad value, or bad combination; ``text`` names keys, values and the allowed values."""
    return PydanticCustomError("invalid", "{text}", {"text": text})


def _check_count(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise config_error(
            f"got {value!r}; {suggestion(value, ['all']) if isinstance(value, str) else ''}expected an integer of at "
            f"least 1, or 'all'{yaml_hint(value, wanted='integer')}"
        ) from None


Item = TypeVar("Item")
ListOf = Annotated[tuple[Item, ...], Field(strict=False)]
"""A list of the file, read as a tuple."""

CountOrAll = Annotated[Annotated[int, Field(ge=1)] | Literal["all"], WrapValidator(_check_count)]
"""A count, or ``all``."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A seed: not negative, and of 64 bits, because it is part of file names and a column of tables."""
