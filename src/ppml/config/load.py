"""Load a YAML file as a checked configuration, or raise one message with the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ppml.config.error_lines import error_lines, problem_from
from ppml.config.model import Config
from ppml.config.models import MODELS
from ppml.config.spec import unknown_name
from ppml.config.yaml_file import read_yaml
from ppml.errors import UserError

Layer = tuple[str, Mapping[str, Any]]
"""The name of a part of the configuration in messages, a file or ``--config``, and its content."""


def load_config(path: str | Path) -> Config:
    """Read and check the configuration in ``path``.

    Raises
    ------
    UserError
        The file cannot be read, or a value is not allowed; the message names file, key, value and allowed values.
    """
    layers = read_layers(path)
    return parse_config(merge_layers(layers), str(path), layers)


def read_layers(path: str | Path, trail: tuple[str, ...] = ()) -> list[Layer]:
    """Return a file and the files that it extends, the lowest first.

    Raises
    ------
    UserError
        A file cannot be read, or has no keys and values; or files extend each other in a circle.
    """
    content = read_yaml(path)
    if content is None:
        raise UserError(f"{path}: is empty; expected keys and values")
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected keys and values at the top level, got {type(content).__name__}")
    name = content.get("extends")
    if not isinstance(name, str):
        return [(str(path), content)]
    base = Path(path).parent / name
    if name in trail:
        raise UserError(f"{path}: extends: a circle: {' -> '.join((*trail, name))}")
    try:
        below = read_layers(base, (*trail, name))
    except UserError as error:
        raise UserError(str(error) if base.is_file() else f"{path}: extends: {error}") from None
    return [*below, (str(path), {key: value for key, value in content.items() if key != "extends"})]


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge layers, the lowest first."""
    return reduce(deep_merge, (layer for _, layer in layers), {})


def parse_config(content: Any, source: str, layers: Sequence[Layer] = ()) -> Config:
    """Check the configuration ``content``.

    Parameters
    ----------
    content : object
        Parsed YAML.
    source : str
        The name in messages for a key that no layer has.
    layers : sequence of Layer
        The layers of ``content``, the lowest first; a message names the layer of a key.

    Raises
    ------
    UserError
        A value is not allowed. An error that several arms inherit has one line, of the arm that contains its key.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: expected keys and values at the top level, got {type(content).__name__}")
    try:
        return Config.model_validate(resolve_extends(dict(content), source))
    except ValidationError as error:
        found = error.errors()
        # A refused entry makes its list too short, which is no second problem.
        within = {one["loc"][:end] for one in found for end in range(len(one["loc"]))}
        problems = [one for one in found if not (one["type"] == "too_short" and one["loc"] in within)]
        raise UserError("\n".join(error_lines(map(problem_from, problems), content, source, layers))) from None


def resolve_extends(content: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the configuration with every arm merged over the arm that it extends.

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
        base = arm.get("extends") if isinstance(arm, Mapping) else None
        if base is None:
            resolved[name] = arm
            return arm
        if not isinstance(base, str):
            raise UserError(f"{source}: arms.{name}.extends: got {base!r}; expected the name of an arm")
        if base not in arms:
            problem = unknown_name("arm", base, map(str, arms)).message()
            raise UserError(f"{source}: arms.{name}.extends: {problem}")
        if base in trail:
            raise UserError(f"{source}: arms.{name}.extends: a circle: {' -> '.join((*trail, base))}")
        inherited = resolve(base, (*trail, base))
        own = {key: value for key, value in arm.items() if key != "extends"}
        # A base without keys and values is refused by the check of the base.
        below = inherited if isinstance(inherited, Mapping) else {}
        dropped = ("label", "training") if _is_reference(own.get("model", below.get("model"))) else ("label",)
        resolved[name] = deep_merge({key: value for key, value in below.items() if key not in dropped}, own)
        return resolved[name]

    return {**content, "arms": {name: resolve(name, (name,)) for name in arms}}


def _is_reference(model: Any) -> bool:
    """Return whether a library trains a model by its own settings, so that an arm inherits none."""
    return isinstance(model, str) and model in MODELS and MODELS[model].is_reference


def deep_merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``top``, section by section; a section whose ``kind`` changes is replaced whole.

    Examples
    --------
    >>> deep_merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
    {'a': {'x': 1, 'y': 3}}
    >>> deep_merge({"a": {"kind": "p", "x": 1}}, {"a": {"kind": "q"}})
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
            merged[key] = deep_merge(below, value)
        else:
            merged[key] = value
    return merged
