"""What is wrong with a configuration, each mistake in one line: the file, the key, the value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ppml.config.audit import Audit
from ppml.config.data import PartitionSpec
from ppml.config.features import Features
from ppml.config.inference import Inference
from ppml.config.suggestions import reading_of, suggestion
from ppml.config.technique import Aggregation, Correction, Privacy, ServerStepSpec, Topology


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

Key = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Parameters
    ----------
    key : tuple of str
        Where, as in the file; empty where the text says it.
    text : str
        What, on one line.
    unknown : str
        The key below that is unknown; empty where that is not what is wrong.
    """

    key: Key
    text: str
    unknown: str = ""

    def __str__(self) -> str:
        return f"{'.'.join(self.key)}: {self.text}" if self.key else self.text


def problem_of(error: Any) -> Problem:
    """Return one of pydantic's errors as it is told."""
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
        case "unknown_dataset":
            name, names = error["ctx"]["name"].strip("'"), error["ctx"]["names"].split(", ")
            return Problem(key, message.replace("; allowed: ", f"; {suggestion(name, names)}allowed: ", 1))
        case "invalid":
            return Problem(key, message)
        case "missing":
            return Problem(key, "is missing")
        case "union_tag_not_found":
            return Problem((*key, "kind"), f"is missing; allowed: {', '.join(kinds)}")
        case "union_tag_invalid":
            tag = error["ctx"]["tag"]
            return Problem((*key, "kind"), f"got {tag!r}; {suggestion(str(tag), kinds)}allowed: {', '.join(kinds)}")
        case "dict_type" | "model_type" | "model_attributes_type":
            return Problem(key, f"got {value!r}; expected keys and values")
        case "tuple_type":
            return Problem(key, f"got {value!r}; expected a list")
        case "string_pattern_mismatch" | "string_too_long" | "string_type" if parts[-1] == "[key]":
            return Problem(
                tuple(map(str, parts[:-2])),
                f"got the name {value!r}; allowed: at most 60 small letters, digits, '.', '_' and '-', the first a "
                "letter or a digit",
            )
        case "literal_error":
            names = re.findall(r"'([^']*)'", message)
            near = suggestion(value, names) if isinstance(value, str) else ""
            hint = reading_of(value, wanted="text" if names else "integer")
            return Problem(key, f"got {value!r}; {near}{message}{hint}")
        case "string_type":
            return Problem(key, f"got {value!r}; {message}{reading_of(value, wanted='text')}")
        case "int_type":
            return Problem(key, f"got {value!r}; {message}{reading_of(value, wanted='integer')}")
    return Problem(key, f"got {value!r}; {message}{reading_of(value)}")


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


def tell(
    problems: Iterable[Problem],
    content: Mapping[str, Any],
    source: str,
    layers: Sequence[tuple[str, Mapping[str, Any]]],
) -> Iterator[str]:
    """Yield a line for each mistake; one that arms share is told once, at the arm where it is written.

    Parameters
    ----------
    problems : iterable of Problem
        In the order of the configuration.
    content : mapping
        The configuration before arms that extend others are filled in.
    source : str
        What is named where no layer has the key.
    layers : sequence of (str, mapping)
        What ``content`` was made of, the lowest first.
    """
    arms = content.get("arms")
    family = _Family(arms if isinstance(arms, Mapping) else {})
    shared: dict[object, list[Problem]] = {}
    for problem in map(family.written, problems):
        name = family.arm_of(problem)
        # The key below the arm, and what is wrong there: the same for all that inherit it.
        shared.setdefault(problem if name is None else (problem.key[2:], problem.text), []).append(problem)
    for same in shared.values():
        names = [name for problem in same if (name := family.arm_of(problem)) is not None]
        roots = [name for name in names if not family.ancestors(name) & set(names)]
        told = next((problem for problem in same if family.arm_of(problem) in roots), same[0])
        heirs = len(names) - len(roots)
        text = str(told)
        if len(roots) > 1:
            text += f"; the same in {', '.join(f'arms.{name}' for name in roots[1:])}"
        if heirs:
            text += f" ({heirs} more {'arm' if heirs == 1 else 'arms'} by extends)"
        place = (*told.key, told.unknown) if told.unknown else told.key
        yield f"{_layer_of(place, layers) or source}: {text}"


class _Family:
    """Which arm extends which.

    Parameters
    ----------
    arms : mapping
        The arms as they are written.
    """

    def __init__(self, arms: Mapping[Any, Any]) -> None:
        self._arms = arms

    def arm_of(self, problem: Problem) -> str | None:
        """Return the arm that a problem is in, None where it is in none."""
        key = problem.key
        return key[1] if len(key) > 1 and key[0] == "arms" and key[1] in self._arms else None

    def ancestors(self, name: str) -> set[str]:
        """Return the arms that an arm is laid over, itself not among them."""
        found: set[str] = set()
        base = self._base(name)
        while isinstance(base, str) and base in self._arms and base not in found:
            found.add(base)
            base = self._base(base)
        return found

    def written(self, problem: Problem) -> Problem:
        """Return a problem of an arm that its text alone names at the arm where its key is written."""
        if problem.key:
            return problem
        for name in sorted(map(str, self._arms), key=len, reverse=True):
            start = f"arms.{name}."
            if problem.text.startswith(start):
                rest, _, text = problem.text.removeprefix(start).partition(": ")
                if not re.fullmatch(r"\w+(\.\w+)*", rest):
                    return problem
                below = tuple(rest.split("."))
                origin = name
                while not _has(self._arms[origin], below) and isinstance(base := self._base(origin), str):
                    origin = base
                # A default is written nowhere.
                key = ("arms", origin if _has(self._arms[origin], below) else name, *below)
                return Problem(key, text)
        return problem

    def _base(self, name: str) -> Any:
        arm = self._arms.get(name)
        return arm.get("extends") if isinstance(arm, Mapping) else None


def _layer_of(key: Key, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str | None:
    """Return the topmost layer that has a key, or as much of its beginning as any has."""
    for length in range(len(key), 0, -1):
        having: list[str] = [name for name, content in layers if _has(content, key[:length])]
        if having:
            return having[-1]
    return None


def _has(content: Any, key: Key) -> bool:
    """Return whether a key stands in ``content``."""
    for part in key:
        if isinstance(content, Mapping) and part in content:
            content = content[part]
        elif isinstance(content, Sequence) and not isinstance(content, str) and part.isdigit():
            if int(part) >= len(content):
                return False
            content = content[int(part)]
        else:
            return False
    return True
