"""The digest of the code and the pinned packages of a result: it changes with each of them.

A code digest covers the modules that a stage imports, directly or not, and the lock-file lines of their packages. It
covers only code that can change a result:

- comments, formatting, docstrings and the annotations of functions do not count;
- ``ppml.config`` does not count: the job's specification holds the configuration, with every default;
- where the code chooses by the configuration (``case Ckks():``, or a table ``{"mnist": ...}``), only the choices of the
  job count. So a new technique, model or data set changes no code digest of the others.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ppml.io.atomic import read_json, write_text
from ppml.io.canonical_json import canonical

PACKAGE = "ppml"
SETTINGS = f"{PACKAGE}.config"
DISTRIBUTIONS = {"PIL": "pillow", "fpdf": "fpdf2", "nacl": "pynacl", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Module -> distribution, if their names differ."""
THREADS = f"{PACKAGE}.jobs.threads"
"""The module that sets the threads of every job; the number of threads decides bits."""
DIGEST_LENGTH = 16

_TABLE_ENTRY = re.compile(rf"{PACKAGE}(\.\w+)+:\w+")


@dataclass(frozen=True)
class CodeDigest:
    """The modules and packages of a job."""

    modules: dict[str, str]
    """Name of each module -> digest of its code."""
    pins: dict[str, str]
    """Name of each package -> its lines in the lock file, without hashes."""

    @cached_property
    def text(self) -> str:
        """The digest in the parameters of a rule."""
        return _digest(repr((sorted(self.modules.items()), sorted(self.pins.items()))))


@dataclass
class _Module:
    """The code of one module without the choices of other jobs."""

    digest: str
    imports: set[str]
    choices: set[str]


class CodeDigests:
    """Code digests of the stages in a source folder, under the pins of a lock file.

    Parameters
    ----------
    source : Path
        The folder of the package.
    lock : Path
        ``requirements.lock``.
    choices : collection of str
        The names by which a configuration can choose: classes in a ``case``, keys of tables. A ``case`` or an entry
        with another name counts for every job.
    cache : Path or None
        The file with the digests of modules, by their bytes; :meth:`save` writes it.

    Attributes
    ----------
    by_text : dict
        The code digests of earlier calls, by their texts.
    """

    def __init__(self, source: Path, lock: Path, choices: Collection[str], cache: Path | None = None) -> None:
        self.by_text: dict[str, CodeDigest] = {}
        self._source = source
        self._choices = frozenset(choices)
        self._pins = read_pins(lock)
        self._cache = _ModuleCache(cache, self._choices)

    def of(self, stage: str, chosen: Collection[str] | None = None, modules: Sequence[str] = ()) -> CodeDigest:
        """Return the code digest of a stage.

        Parameters
        ----------
        stage : str
            The name of the stage.
        chosen : collection of str or None
            The choices of the job; None counts every choice.
        modules : sequence of str
            Modules that the job imports by a name of its specification.
        """
        names = self._choices if chosen is None else frozenset(chosen) & self._choices
        found = self._of((f"{PACKAGE}.stages.{stage}", *modules), names)
        self.by_text[found.text] = found
        return found

    def pins(self) -> dict[str, str]:
        """Return the packages of all earlier code digests, with their lines in the lock file."""
        return {name: pin for found in self.by_text.values() for name, pin in found.pins.items()}

    def save(self) -> None:
        """Write the cache."""
        self._cache.save()

    @cache  # noqa: B019 (one instance a process)
    def _of(self, entries: tuple[str, ...], chosen: frozenset[str]) -> CodeDigest:
        modules: dict[str, str] = {}
        packages: set[str] = set()
        waiting = [*(name for entry in entries for name in _with_packages(entry)), THREADS]
        while waiting:
            name = waiting.pop()
            if name in modules or _is_settings(name):
                continue
            module = self._module(name, chosen)
            modules[name] = module.digest
            for target in module.imports:
                if target == PACKAGE or target.startswith(PACKAGE + "."):
                    waiting.append(target)
                elif target.partition(".")[0] not in sys.stdlib_module_names:
                    packages.add(target.partition(".")[0])
        return CodeDigest(modules, {pin: self._pins[pin] for pin in sorted(map(self._distribution, packages))})

    def _distribution(self, package: str) -> str:
        name = DISTRIBUTIONS.get(package, package).lower().replace("_", "-")
        if name not in self._pins:
            raise KeyError(f"the code imports {package}, which has no line in the lock file")
        return name

    def _path(self, name: str) -> Path | None:
        """Return the file of a module, None if ``name`` is an object in a module."""
        place = self._source.joinpath(*name.split(".")[1:])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
        return None

    @cache  # noqa: B019 (one instance a process)
    def _module(self, name: str, chosen: frozenset[str]) -> _Module:
        # Most modules contain no choice, and are the same for every job.
        skipped = (self._choices - chosen) & self._read(name, frozenset()).choices
        return self._read(name, frozenset(skipped))

    @cache  # noqa: B019 (one instance a process)
    def _read(self, name: str, skipped: frozenset[str]) -> _Module:
        module = self._cache.read(self._source_of(name), skipped)
        # `from ppml.a import b` runs ppml.a, and ppml.a.b if that is a module.
        imports = {found for target in module.imports for found in _with_packages(target) if self._is_module(found)}
        return _Module(module.digest, imports, module.choices)

    @cache  # noqa: B019 (one instance a process)
    def _source_of(self, name: str) -> bytes:
        # The `__init__` of the whole package is the public interface: it imports nothing by itself, and stages import
        # modules, never its names. It counts as a module of a docstring, so that no change of it makes a result stale.
        if name == PACKAGE:
            return b'"""The package."""'
        path = self._path(name)
        assert path is not None
        return path.read_bytes()

    @cache  # noqa: B019 (one instance a process)
    def _is_module(self, name: str) -> bool:
        return not name.startswith(PACKAGE + ".") or self._path(name) is not None


class _ModuleCache:
    """A cache of modules by their bytes, in a file, if any, for later processes."""

    def __init__(self, path: Path | None, choices: frozenset[str]) -> None:
        self._path = path
        self._choices = choices
        self._stored: dict[str, list[Any]] = {}
        self._used: dict[str, list[Any]] = {}
        self._version = _digest(repr((Path(__file__).read_bytes(), sorted(choices))))
        if path:
            with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
                content = read_json(path)
                stored = dict(content["modules"]) if content["version"] == self._version else {}
                self._stored = {key: entry for key, entry in stored.items() if _is_entry(entry)}

    def read(self, source: bytes, skipped: frozenset[str]) -> _Module:
        """Return a module without the choices in ``skipped``."""
        key = " ".join([hashlib.sha256(source).hexdigest(), *sorted(skipped)])
        if key not in self._used:
            self._used[key] = self._stored.get(key) or self._compute(source, skipped)
        text, imports, choices = self._used[key]
        return _Module(text, set(imports), set(choices))

    def _compute(self, source: bytes, skipped: frozenset[str]) -> list[Any]:
        reader = _Reader(self._choices, skipped)
        text = _digest("".join(reader.read(self._parse(source))))
        return [text, sorted(reader.imports), sorted(reader.chosen)]

    @cache  # noqa: B019 (one instance a process)
    def _parse(self, source: bytes) -> ast.Module:
        return ast.parse(source)

    def save(self) -> None:
        """Write the used modules, unless the file holds them."""
        if self._path and self._used != self._stored:
            self._stored = dict(self._used)
            write_text(self._path, canonical({"version": self._version, "modules": self._stored}))


def _is_entry(entry: Any) -> bool:
    """Return whether an entry of the file is the digest, the imports and the choices of a module."""
    match entry:
        case [str(), [*imports], [*choices]]:
            return all(isinstance(name, str) for name in (*imports, *choices))
    return False


class _Reader:
    """A reader of the parts of a syntax tree that can change a result.

    Unlike :func:`ast.dump`, its text is the same in all minor versions of Python. It excludes the ``skipped`` choices.
    """

    def __init__(self, choices: Collection[str], skipped: Collection[str]) -> None:
        self._choices = choices
        self._skipped = skipped
        # The imported modules, and module.name for possible modules.
        self.imports: set[str] = set()
        # The choices in the code.
        self.chosen: set[str] = set()

    def read(self, node: object) -> Iterator[str]:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from self._import(node)
            case ast.If() if _is_type_checking(node.test):
                yield from self.read(node.orelse)
            case ast.match_case() if self._unchosen(node.pattern):
                return
            case ast.Dict():
                yield from self._table(node)
            case ast.AST():
                yield type(node).__name__
                yield "("
                for name, value in ast.iter_fields(node):
                    if not _has_no_effect(node, name, value):
                        yield f"{name}="
                        yield from self.read(value)
                yield ")"
            case list():
                for item in node:
                    # A part without effect adds no text, so that a new case or import changes no other digest.
                    if not _is_docstring(item) and (text := "".join(self.read(item))):
                        yield f"{text},"
            case _:
                yield repr(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        names = [(alias.name, alias.asname) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "an import is relative"
            if _is_settings(node.module):
                return
            self.imports.update([node.module, *(f"{node.module}.{name}" for name, _ in names)])
            yield repr((node.module, sorted(names, key=str)))
        else:
            self.imports.update(name for name, _ in names)
            yield repr(sorted(names, key=str))

    def _table(self, node: ast.Dict) -> Iterator[str]:
        yield "Dict("
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and self._unchosen_name(key.value):
                continue
            for entry in ast.walk(value) if value else ():
                match entry:
                    case ast.Constant(value=str(text)) if _TABLE_ENTRY.fullmatch(text):
                        self.imports.add(text.partition(":")[0])
            yield from self.read(key)
            yield ":"
            yield from self.read(value)
        yield ")"

    def _unchosen(self, pattern: ast.pattern) -> bool:
        match pattern:
            case ast.MatchClass(cls=ast.Name(id=name)):
                return self._unchosen_name(name)
            case ast.MatchAs(pattern=ast.pattern() as inner):
                return self._unchosen(inner)
            case ast.MatchOr(patterns=patterns):
                # No generator: each call adds to the choices.
                found = [self._unchosen(inner) for inner in patterns]
                return all(found)
        return False

    def _unchosen_name(self, name: object) -> bool:
        if isinstance(name, str) and name in self._choices:
            self.chosen.add(name)
        return name in self._skipped


def read_pins(lock: Path) -> dict[str, str]:
    """Return each package of a lock file with its lines, without hashes.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "requirements.lock"
    >>> _ = path.write_text("torch==2.14.1 \\\\\\n    --hash=sha256:00\\n    # via ppml\\ndvc[ssh]==3.67.1\\n")
    >>> read_pins(path)
    {'torch': '2.14.1', 'dvc': '3.67.1'}
    """
    pins: dict[str, str] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        found = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\\]*)", line)
        if found:
            name, pin = found[1].lower().replace("_", "-"), found[2].strip()
            pins[name] = f"{pins[name]} | {pin}" if name in pins else pin
    return pins


def _with_packages(target: str) -> Iterator[str]:
    parts = target.split(".")
    if parts[0] != PACKAGE:
        yield target
        return
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def _is_settings(module: str) -> bool:
    return module == SETTINGS or module.startswith(SETTINGS + ".")


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _has_no_effect(node: ast.AST, name: str, value: object) -> bool:
    if value is None or value == [] or name in ("ctx", "type_comment", "kind", "type_params"):
        return True
    return (isinstance(node, ast.arg) and name == "annotation") or name == "returns"


def _is_docstring(item: object) -> bool:
    """Return whether a statement is the documentation of a module, a function or the statement above it."""
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
