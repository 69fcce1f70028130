"""From a YAML file to a checked configuration, or to one message that says what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ppml.config.model import Config
from ppml.errors import UserError


def load_config(path: str | Path) -> Config:
    """Read and check the configuration in ``path``.

    Raises
    ------
    UserError
        The file cannot be read, or a value is not allowed; the message names file, key, value and what is allowed.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    return parse_config(content, str(path))


def parse_config(content: Any, source: str) -> Config:
    """Check the parsed YAML ``content``; ``source`` is named in messages."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: expected keys and values at the top level, got {type(content).__name__}")
    try:
        return Config.model_validate(resolve_extends(dict(content), source))
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise UserError("\n".join(f"{source}: {line}" for line in lines)) from None


def resolve_extends(content: dict[str, Any], source: str) -> dict[str, Any]:
    """Replace every ``extends`` among the arms by what it stands for.

    Raises
    ------
    UserError
        The arm extended does not exist, or arms extend each other in a circle.
    """
    arms = content.get("arms")
    if not isinstance(arms, Mapping):
        return content
    resolved: dict[str, Any] = {}

    def resolve(name: str, trail: tuple[str, ...]) -> Any:
        if name in resolved:
            return resolved[name]
        arm = arms[name]
        if not isinstance(arm, Mapping) or "extends" not in arm:
            resolved[name] = arm
            return arm
        base = arm["extends"]
        if base not in arms:
            raise UserError(
                f"{source}: arms.{name}.extends: unknown arm {base!r}; allowed: {', '.join(map(str, arms))}"
            )
        if base in trail:
            raise UserError(f"{source}: arms.{name}.extends: a circle: {' -> '.join((*trail, base))}")
        inherited = resolve(base, (*trail, base))
        own = {key: value for key, value in arm.items() if key != "extends"}
        without_label = {key: value for key, value in inherited.items() if key != "label"}
        resolved[name] = overlay(without_label, own)
        return resolved[name]

    return {**content, "arms": {name: resolve(name, (name,)) for name in arms}}


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``top`` over ``base``, key by key; a section whose ``kind`` changes is replaced whole.

    Examples
    --------
    >>> overlay({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    >>> overlay({"a": {"kind": "p", "x": 1}}, {"a": {"kind": "q"}})
    {'a': {'kind': 'q'}}
    """
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if (
            isinstance(below, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", below.get("kind")) == below.get("kind")
        ):
            merged[key] = overlay(below, value)
        else:
            merged[key] = value
    return merged


def _describe(problem: Any) -> str:
    """Return one line: key, what is wrong, the value."""
    # The location of a value inside a tagged union carries the tag, which is no key of the file.
    tags = {"centralized", "local", "federated", "none", "example", "plaintext", "ckks", "iid", "shards", "dirichlet"}
    parts = problem["loc"]
    key = ".".join(
        str(part)
        for place, part in enumerate(parts)
        if not (place > 1 and part in tags and parts[0] in ("arms", "partitions"))
    )
    message = problem["msg"][0].lower() + problem["msg"][1:]
    message = message.removeprefix("value error, ")
    prefix = f"{key}: " if key else ""
    if problem["type"] in ("invalid", "unknown_name", "unknown_dataset"):
        return f"{prefix}{message}"
    hint = ""
    if problem["type"] == "float_type" and isinstance(problem["input"], str):
        hint = " (YAML reads a number like 1e-5 as text: write 1.0e-5)"
    if problem["type"] == "missing":
        return f"{prefix}is missing"
    return f"{prefix}got {problem['input']!r}; {message}{hint}"
