"""From a YAML file to a checked configuration, or to one message that says what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from ppml.config.audit import Audit
from ppml.config.data import PartitionSpec
from ppml.config.features import Features
from ppml.config.inference import Inference
from ppml.config.model import Config
from ppml.config.spec import unknown_name
from ppml.config.technique import Aggregation, Correction, Privacy, ServerStepSpec, Topology
from ppml.errors import UserError


def load_config(path: str | Path) -> Config:
    """Read and check the configuration in ``path``.

    Raises
    ------
    UserError
        The file cannot be read, or a value is not allowed; the message names file, key, value and what is allowed.
    """
    return parse_config(with_base(read_yaml(path), Path(path).parent), str(path))


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file, or raise a :class:`UserError` that names it."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _NoDuplicates)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error


class _NoDuplicates(yaml.SafeLoader):
    """YAML that refuses a key that occurs twice, of which the last would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


def with_base(content: Any, folder: Path, trail: tuple[str, ...] = ()) -> Any:
    """Lay ``content`` over the file in ``folder`` that its key ``extends`` names; without one, return it.

    Raises
    ------
    UserError
        The file named cannot be read, or files extend each other in a circle.
    """
    name = content.get("extends") if isinstance(content, Mapping) else None
    if not isinstance(name, str):
        return content
    if name in trail:
        raise UserError(f"{folder / name}: extends: a circle: {' -> '.join((*trail, name))}")
    base = with_base(read_yaml(folder / name), folder, (*trail, name))
    if not isinstance(base, Mapping):
        raise UserError(f"{folder / name}: expected keys and values at the top level, got {type(base).__name__}")
    return overlay(base, {key: value for key, value in content.items() if key != "extends"})


def parse_config(content: Any, source: str) -> Config:
    """Check the parsed YAML ``content``; ``source`` is named in messages."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: expected keys and values at the top level, got {type(content).__name__}")
    try:
        return Config.model_validate(resolve_extends(dict(content), source))
    except ValidationError as error:
        # An entry that is refused leaves its list too short: that is no second problem.
        problems = [problem for problem in error.errors() if not (problem["type"] == "too_short" and problem["input"])]
        raise UserError("\n".join(f"{source}: {_describe(problem)}" for problem in problems)) from None


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
        # What the base may be instead of keys and values is refused with the base itself.
        below = inherited if isinstance(inherited, Mapping) else {}
        resolved[name] = overlay({key: value for key, value in below.items() if key != "label"}, own)
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


def _kinds(union: Any) -> list[str]:
    """Return the kinds that a tagged union offers."""
    return [member.model_fields["kind"].default for member in get_args(get_args(union)[0])]


KINDS = {
    "features": _kinds(Features),
    "topology": _kinds(Topology),
    "privacy": _kinds(Privacy),
    "aggregation": _kinds(Aggregation),
    "inference": _kinds(Inference),
}
WITHIN_TOPOLOGY = {"server": _kinds(ServerStepSpec), "correction": _kinds(Correction)}
PARTITION_KINDS = _kinds(PartitionSpec)
AUDIT_KINDS = _kinds(Audit)


def _tagged(parts: tuple[Any, ...]) -> tuple[list[str], set[int]]:
    """Return the kinds of the innermost tagged section that a location leads to, and where it carries kinds."""
    match parts:
        case ("partitions", *_):
            return PARTITION_KINDS, {2}
        case ("audit", *_):
            return AUDIT_KINDS, {1}
        case (_, _, "topology", _, section, *_) if section in WITHIN_TOPOLOGY:
            return WITHIN_TOPOLOGY[section], {3, 5}
        case (_, _, section, *_) if section in KINDS:
            return KINDS[section], {3}
    return [], set()


def _describe(problem: Any) -> str:
    """Return one line: key, what is wrong, the value."""
    parts = problem["loc"]
    # The location of a value inside a tagged union carries the kind, which is no key of the file.
    kinds, tags = _tagged(parts)
    key = ".".join(str(part) for place, part in enumerate(parts) if place not in tags)
    message = problem["msg"][0].lower() + problem["msg"][1:]
    message = message.removeprefix("value error, ")
    prefix = f"{key}: " if key else ""
    got = f"got {problem['input']!r}; "
    match problem["type"]:
        case "invalid" | "unknown_name" | "unknown_dataset":
            return f"{prefix}{message}"
        case "missing":
            return f"{prefix}is missing"
        case "union_tag_not_found":
            return f"{key}.kind: is missing; allowed: {', '.join(kinds)}"
        case "union_tag_invalid":
            return f"{key}.kind: got {problem['ctx']['tag']!r}; allowed: {', '.join(kinds)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{prefix}{got}expected keys and values"
        case "tuple_type":
            return f"{prefix}{got}expected a list"
        case "string_pattern_mismatch" | "string_too_long" | "string_type" if parts[-1] == "[key]":
            return (
                f"{'.'.join(map(str, parts[:-2]))}: got the name {problem['input']!r}; allowed: at most 60 small "
                "letters, digits, '.', '_' and '-', the first a letter or a digit"
            )
        case "float_type" if _is_number(problem["input"]):
            return f"{prefix}{got}{message} (YAML reads a number like 1e-5 as text: write 1.0e-5)"
    return f"{prefix}{got}{message}"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)
