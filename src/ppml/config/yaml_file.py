"""Read a YAML file as plain values, or raise one line with the file, the line and the remedy."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

import yaml

from ppml.config.suggestions import nearest
from ppml.errors import UserError
from ppml.system_errors import describe_os_error

MAX_VALUES = 400_000
"""Largest number of values of a file, with its aliases expanded: 1,000 columns with 390 categories each, or 10,000 with
30; so many take half a minute to read."""

SUFFIXES = (".yaml", ".yml", ".json")

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
# Surprising numbers of YAML 1.1: 010 is 8, 1:30 is 90.
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_JSON_NUMBER = re.compile(r"-?[0-9]+[eE][-+]?[0-9]+")
# The keys by which a file alone can be a configuration; catalogues in the same folder have neither.
_RUNNABLE = re.compile(r"""(?:^|[{,])\s*["']?(?:arms|extends)["']?\s*:""", re.MULTILINE)
_SCHEMA = '"$schema"'
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def read_yaml(path: str | Path) -> Any:
    """Return the content of a YAML file: text, numbers, truth values, None, lists, and dictionaries with keys of text.

    The file is YAML 1.1, as PyYAML and Snakemake read it, with merge keys, anchors and aliases.

    Raises
    ------
    UserError
        The file cannot be read, is not in UTF-8, or is not valid YAML; a key occurs twice or is not text; a value reads
        as another number (``010`` is 8); there are more than `MAX_VALUES` values, with aliases expanded, or an alias is
        inside its own anchor. The message names the file and the line.
    """
    try:
        encoded = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; {_suggest_file(Path(path))}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; {_list_files(Path(path))}") from None
    except OSError as error:
        raise UserError(describe_os_error(error)) from None
    text = _decode(encoded, path)
    try:
        return yaml.load(text, _StrictJsonLoader if Path(path).suffix == ".json" else _StrictLoader)
    except _Refused as error:
        raise UserError(f"{path}: line {error.line}: {error.text}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path}: is not valid YAML: line {line}: the character {chr(error.character)!a} is not allowed"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {_describe_problem(error)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None


def _suggest_file(path: Path) -> str:
    """Return the nearest name in the folder of a missing file, or the configurations there."""
    names = _yaml_files(path.parent)
    by_stem = {Path(name).stem: name for name in names}
    near = nearest(path.stem if path.suffix in SUFFIXES else path.name, by_stem)
    return f"did you mean {path.parent / by_stem[near]}?" if near else _list_files(path.parent)


def _list_files(folder: Path) -> str:
    if not folder.exists():
        return f"there is no folder {folder}"
    names = [name for name in _yaml_files(folder) if _is_runnable(folder / name)]
    return f"configurations in {folder}: {', '.join(names) or 'none'}"


def _is_runnable(path: Path) -> bool:
    """Return whether a file has arms, or extends a file; the text suffices, since a parser takes a second a file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The schema of configurations names all their keys.
    return _RUNNABLE.search(text) is not None and not (path.suffix == ".json" and _SCHEMA in text)


def _yaml_files(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder; none if it cannot be listed."""
    try:
        return sorted(one.name for one in folder.iterdir() if one.suffix in SUFFIXES)
    except OSError:
        return []


def _decode(encoded: bytes, path: str | Path) -> str:
    encoding = json.detect_encoding(encoded)
    if not encoding.startswith("utf-8"):
        raise UserError(f"{path}: is in {encoding[:6].upper()}, not in UTF-8; save it as UTF-8")
    try:
        return encoded.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: is not UTF-8 (byte {encoded[error.start]:#04x} in line {line}); save it as UTF-8"
        ) from None


def _describe_problem(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = error.problem or error.context or "it cannot be read"
    if "'\\t'" in problem:
        problem = "a tab; YAML is indented by spaces"
    # The problem of an unclosed bracket or quotation mark is at the end of the file.
    since = error.context_mark
    begun = f" ({error.context} from line {since.line + 1} on)" if error.context and since else ""
    return f"{place}{problem}{begun}"


class _Refused(Exception):
    """Valid YAML that a configuration may not contain."""

    def __init__(self, place: yaml.Node | yaml.Event, text: str) -> None:
        super().__init__(text)
        self.line = place.start_mark.line + 1 if place.start_mark else 0
        self.text = text


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without surprising values, duplicate keys and unbounded aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        # Number of values of each node, with aliases expanded. The nodes are kept, so that no id is used again.
        self._values: dict[int, tuple[yaml.Node, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if node is not None and id(node) not in self._values:
            if isinstance(event, yaml.AliasEvent):
                # A node that is still incomplete has no count.
                raise _Refused(event, f"the alias *{event.anchor} is inside its own anchor")
            self._count(node)
        return node

    def _count(self, node: yaml.Node) -> None:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        else:
            _check_number(node)
        values = 1 + sum(self._values[id(part)][1] for part in parts)
        if values > MAX_VALUES:
            raise _Refused(node, self._describe_size(values))
        self._values[id(node)] = node, values

    def _describe_size(self, values: int) -> str:
        # Each written value is a node once, and further times by aliases.
        if values > len(self._values) + 1:
            return f"its aliases expand to more than {MAX_VALUES:,} values"
        return (
            f"more than {MAX_VALUES:,} values stand in the file from here on; leave columns or values of categories "
            "out of data.define, or divide the table"
        )

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Refuse a key that is not text, or that occurs twice: YAML silently takes the last one."""
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag not in (_TEXT, _MERGE):
                raise _Refused(key, _describe_key(key))
            if key.value in first:
                remedy = "; merge several by a list: <<: [*first, *second]" if key.tag == _MERGE else ""
                raise _Refused(
                    key,
                    f"the key {key.value!r} occurs twice, first in line {first[key.value].start_mark.line + 1}{remedy}",
                )
            first[key.value] = key

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            # An impossible date, or a number with thousands of digits.
            shown = _shorten(node.value) if isinstance(node.value, str) else "a value"
            why = "it has too many digits" if "digits" in str(error) else error
            raise _Refused(node, f"{shown} cannot be read ({why}); write it in quotes if it is text") from None


class _StrictJsonLoader(_StrictLoader):
    """The same, with numbers as JSON has them: 1e-5 is text in YAML 1.1, and a number in JSON."""


_StrictJsonLoader.add_implicit_resolver("tag:yaml.org,2002:float", _JSON_NUMBER, list("-0123456789"))


def _describe_key(key: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        return "a key is a list or has keys itself; keys are text"
    kind = key.tag.rpartition(":")[2]
    read = {"bool": "a truth value", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
    return f"the key {key.value or 'left out'} is read as {read.get(kind, kind)}; write it in quotes: '{key.value}'"


def _check_number(node: yaml.Node) -> None:
    """Refuse a number that YAML 1.1 reads in base 8 or 60."""
    kind = node.tag.rpartition(":")[2]
    if kind not in ("int", "float") or not isinstance(node.value, str):
        return
    octal, sexagesimal = _OCTAL.fullmatch(node.value), _SEXAGESIMAL.fullmatch(node.value)
    if (kind == "int" and octal) or sexagesimal:
        plain = node.value.lstrip("+-0_") or "0"
        base, meant = (8, f"without the leading 0 ({plain})") if octal else (60, "as a plain number")
        raise _Refused(
            node, f"YAML reads {node.value} as a number in base {base}; write it {meant}, or in quotes if it is text"
        )


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:20]}...{text[-10:]} ({len(text)} characters)"
