"""The errors of a configuration, one line each: the file, the key, the value, the allowed values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ppml.config.audit import Audit
from ppml.config.data import PartitionSpec
from ppml.config.datasets import DatasetSpec
from ppml.config.inference import Inference
from ppml.config.renamed_keys import new_value
from ppml.config.splits import SplitSpec
from ppml.config.suggestions import suggestion, yaml_hint
from ppml.config.technique import Aggregation, Correction, Privacy, ServerOptimizer, Topology
from ppml.config.transforms import Transform


def _kinds(union: Any) -> list[str]:
    """Return the kinds of a tagged union."""
    return [member.model_fields["kind"].default for member in get_args(get_args(union)[0])]


KINDS = {
    "topology": _kinds(Topology),
    "privacy": _kinds(Privacy),
    "aggregation": _kinds(Aggregation),
    "inference": _kinds(Inference),
}
WITHIN_TOPOLOGY = {"server": _kinds(ServerOptimizer), "correction": _kinds(Correction)}
PARTITION_KINDS = _kinds(PartitionSpec)
DATASET_KINDS, SPLIT_KINDS = _kinds(DatasetSpec), _kinds(SplitSpec)
TRANSFORM_KINDS = _kinds(Transform)
AUDIT_KINDS = _kinds(Audit)
NAMES = {"data": "at most 60 small letters, digits and '_', the first a letter"}
"""The allowed names in a section of the configuration."""
OTHER_NAMES = "at most 60 small letters, digits, '.', '_' and '-', the first a letter or a digit"
WANTED: Mapping[str, Literal["number", "integer", "text"]] = {"string_type": "text", "int_type": "integer"}

Key = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One error."""

    key: Key
    """The key, as in the file; empty if the text names it."""
    text: str
    """The error, on one line."""
    unknown: str = ""
    """The unknown key below ``key``; empty for other errors."""

    def __str__(self) -> str:
        return f"{'.'.join(self.key)}: {self.text}" if self.key else self.text


def problem_from(error: Any) -> Problem:
    """Return the problem for an error of pydantic."""
    parts = error["loc"]
    # The location of a value inside a tagged union carries the kind, which is no key of the file.
    kinds, tags = _tagged(parts)
    key = tuple(str(part) for place, part in enumerate(parts) if place not in tags)
    message = error["msg"][0].lower() + error["msg"][1:]
    message = message.removeprefix("value error, ")
    value = error["input"]
    match error["type"]:
        case "unknown_name":
            unknown = error["ctx"]["name"].strip("'\"") if error["ctx"]["what"] == "key" else ""
            return Problem(key, message, unknown)
        case "renamed":
            return Problem((*key, error["ctx"]["key"]), message)
        case "invalid":
            return Problem(key, message)
        case "missing":
            return Problem(key, "is missing")
        case "union_tag_not_found":
            return Problem((*key, "kind"), f"is missing; allowed: {', '.join(kinds)}")
        case "union_tag_invalid":
            tag = error["ctx"]["tag"]
            if new := new_value(key[-1], tag):
                return Problem((*key, "kind"), f"got {tag!r}; renamed; write `kind: {new}`")
            return Problem((*key, "kind"), f"got {tag!r}; {suggestion(str(tag), kinds)}allowed: {', '.join(kinds)}")
        case "dict_type" | "model_type" | "model_attributes_type":
            return Problem(key, f"got {value!r}; expected keys and values")
        case "tuple_type":
            return Problem(key, f"got {value!r}; expected a list")
        case "string_pattern_mismatch" | "string_too_long" | "string_type" if parts[-1] == "[key]":
            allowed = NAMES.get(str(parts[0]), OTHER_NAMES)
            return Problem(tuple(map(str, parts[:-2])), f"got the name {value!r}; allowed: {allowed}")
        case "literal_error":
            names = re.findall(r"'([^']*)'", message)
            if new := new_value(_name_of(key), value):
                return Problem(key, f"got {value!r}; renamed; write `{new}`")
            near = suggestion(value, names) if isinstance(value, str) else ""
            hint = yaml_hint(value, wanted="text" if names else "integer")
            return Problem(key, f"got {value!r}; {near}{message}{hint}")
    wanted = WANTED.get(error["type"], "number")
    return Problem(key, f"got {value!r}; {message}{yaml_hint(value, wanted=wanted)}")


def _name_of(key: Key) -> str:
    """Return the last part of a key that is no position in a list."""
    return next((part for part in reversed(key) if not part.isdigit()), "")


def _tagged(parts: tuple[Any, ...]) -> tuple[list[str], set[int]]:
    """Return the kinds of the innermost tagged section of a location, and the places of kinds in the location."""
    match parts:
        case ("partitions", *_):
            return PARTITION_KINDS, {2}
        case ("data", "define", _, _, "split", *_):
            return SPLIT_KINDS, {3, 5}
        case ("data", "define", *_):
            return DATASET_KINDS, {3}
        case ("audit", *_):
            return AUDIT_KINDS, {1}
        case ("arms", _, "transforms", _, *_):
            return TRANSFORM_KINDS, {4}
        case (_, _, "topology", _, section, *_) if section in WITHIN_TOPOLOGY:
            return WITHIN_TOPOLOGY[section], {3, 5}
        case (_, _, section, *_) if section in KINDS:
            return KINDS[section], {3}
    return [], set()


def error_lines(
    problems: Iterable[Problem],
    content: Mapping[str, Any],
    source: str,
    layers: Sequence[tuple[str, Mapping[str, Any]]],
) -> Iterator[str]:
    """Yield a line per error; an error that arms inherit has one line, of the arm that contains its key.

    Parameters
    ----------
    problems : iterable of Problem
        The errors, in the order of the configuration.
    content : mapping
        The configuration before ``extends`` of the arms is resolved.
    source : str
        The name for a key that no layer has.
    layers : sequence of (str, mapping)
        The layers of ``content``, the lowest first.
    """
    arms = content.get("arms")
    inheritance = _Inheritance(arms if isinstance(arms, Mapping) else {})
    shared: dict[object, list[Problem]] = {}
    for problem in map(inheritance.locate, problems):
        name = inheritance.arm_of(problem)
        # The key below the arm and the text are the same for all arms that inherit the error.
        shared.setdefault(problem if name is None else (problem.key[2:], problem.text), []).append(problem)
    for same in shared.values():
        names = [name for problem in same if (name := inheritance.arm_of(problem)) is not None]
        roots = [name for name in names if set(names).isdisjoint(inheritance.lineage(name)[1:])]
        reported = next((problem for problem in same if inheritance.arm_of(problem) in roots), same[0])
        heirs = len(names) - len(roots)
        text = str(reported)
        if len(roots) > 1:
            text += f"; the same in {', '.join(f'arms.{name}' for name in roots[1:])}"
        if heirs:
            text += f" ({heirs} more {'arm' if heirs == 1 else 'arms'} by extends)"
        place = (*reported.key, reported.unknown) if reported.unknown else reported.key
        yield f"{_layer_with(place, layers) or source}: {text}"


class _Inheritance:
    """The inheritance between the arms of a file."""

    def __init__(self, arms: Mapping[Any, Any]) -> None:
        self._arms = arms

    def arm_of(self, problem: Problem) -> str | None:
        """Return the arm of a problem, None if it is in no arm."""
        key = problem.key
        return key[1] if len(key) > 1 and key[0] == "arms" and key[1] in self._arms else None

    def lineage(self, name: str) -> list[str]:
        """Return an arm and all arms that it extends, the nearest first."""
        found: list[str] = []
        base: Any = name
        while isinstance(base, str) and base in self._arms and base not in found:
            found.append(base)
            arm = self._arms[base]
            base = arm.get("extends") if isinstance(arm, Mapping) else None
        return found

    def locate(self, problem: Problem) -> Problem:
        """Return a problem with the key of the arm that contains it, if only its text names an arm."""
        if problem.key:
            return problem
        for name in sorted(map(str, self._arms), key=len, reverse=True):
            if found := re.fullmatch(rf"arms\.{re.escape(name)}\.(\w+(?:\.\w+)*): (.*)", problem.text, re.DOTALL):
                below = tuple(found[1].split("."))
                # A default is in no arm.
                origin = next((arm for arm in self.lineage(name) if _contains(self._arms[arm], below)), name)
                return Problem(("arms", origin, *below), found[2])
        return problem


def _layer_with(key: Key, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Return the topmost layer with a key, or with the longest beginning of it."""
    parts = (key[:length] for length in range(len(key), 0, -1))
    return next((name for part in parts for name, content in reversed(layers) if _contains(content, part)), None)


def _contains(content: Any, key: Key) -> bool:
    """Return whether ``content`` has a key."""
    try:
        for part in key:
            content = content[int(part) if isinstance(content, (list, tuple)) else part]
    except (LookupError, TypeError, ValueError):
        return False
    return True
