"""What code and which pinned packages make a result: one short text a job, equal as long as none of them changed.

A stamp is a digest over the modules that a stage imports, directly or not, and the lock-file lines of the packages
which those import. It holds what can change a result and nothing else:

- comments, formatting, docstrings and the annotations of functions do not count;
- ``ppml.config`` does not count: what the configuration says is in the job's specification, every default resolved;
- where the code chooses by the configuration (``case Ckks():``, or a table ``{"mnist": ...}``), a job counts what it
  chooses. So a new technique, model or data set changes no stamp of those that are there.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = "ppml"
SETTINGS = f"{PACKAGE}.config"
DISTRIBUTIONS = {"nacl": "pynacl", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Distributions whose name is not that of their module."""
THREADS = f"{PACKAGE}.stages.threads"
"""What every job runs before its stage, and what decides its bits, too."""
SHORT = 16

_TABLE_ENTRY = re.compile(rf"{PACKAGE}(\.\w+)+:\w+")


@dataclass(frozen=True)
class Stamp:
    """What a job's stamp was made of.

    Parameters
    ----------
    modules : dict
        Name of each module -> digest of its code.
    pins : dict
        Name of each package -> its lines in the lock file, without hashes.
    """

    modules: dict[str, str]
    pins: dict[str, str]

    @property
    def text(self) -> str:
        """The digest that a rule carries."""
        return _digest(repr((sorted(self.modules.items()), sorted(self.pins.items()))))


@dataclass
class _Module:
    """What one module says, seen by a job that chooses certain names."""

    digest: str = ""
    imports: set[str] = field(default_factory=set)


class Stamps:
    """Stamps of the code in a source folder, under the pins of a lock file.

    Parameters
    ----------
    source : Path
        The folder of the package.
    lock : Path
        ``requirements.lock``.
    choices : collection of str
        Every name by which a configuration can choose: the classes that a ``case`` asks for, the keys of tables. A
        ``case`` or an entry with another name counts for every job.

    Attributes
    ----------
    made : dict
        Every stamp that was asked for, by its text.
    """

    def __init__(self, source: Path, lock: Path, choices: Collection[str]) -> None:
        self.made: dict[str, Stamp] = {}
        self._source = source
        self._choices = frozenset(choices)
        self._pins = read_pins(lock)
        self._seen: dict[tuple[str, frozenset[str]], _Module] = {}

    def of(self, stage: str, chosen: Collection[str] | None = None, modules: Sequence[str] = ()) -> Stamp:
        """Return the stamp of a stage.

        Parameters
        ----------
        stage : str
            The name of the stage.
        chosen : collection of str or None
            The names that the job chooses; None counts every choice.
        modules : sequence of str
            Modules that the job imports by a name of its specification.
        """
        names = self._choices if chosen is None else frozenset(chosen)
        stamp = self._of((f"{PACKAGE}.stages.{stage}", *modules), names)
        self.made[stamp.text] = stamp
        return stamp

    def pins(self) -> dict[str, str]:
        """Return the packages that made stamps hold, with their lines in the lock file."""
        return {name: pin for stamp in self.made.values() for name, pin in stamp.pins.items()}

    @cache  # noqa: B019 (one instance a process)
    def _of(self, entries: tuple[str, ...], chosen: frozenset[str]) -> Stamp:
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
        return Stamp(modules, {pin: self._pins[pin] for pin in sorted(map(self._distribution, packages))})

    def _distribution(self, package: str) -> str:
        name = DISTRIBUTIONS.get(package, package).lower().replace("_", "-")
        if name not in self._pins:
            raise KeyError(f"{package} is imported by the code and has no line in the lock file")
        return name

    def _path(self, name: str) -> Path | None:
        """Return the file of a module, None if ``name`` is no module (but something in one)."""
        place = self._source.joinpath(*name.split(".")[1:])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
        return None

    def _module(self, name: str, chosen: frozenset[str]) -> _Module:
        # Most modules offer no choice, and are read once for all jobs.
        chosen &= self._offered(name)
        if (name, chosen) not in self._seen:
            module = _Module()
            text = "".join(_Reader(self._choices - chosen, module.imports).read(self._tree(name)))
            module.digest = _digest(text)
            # `from ppml.a import b` runs ppml.a, and ppml.a.b if that is a module.
            module.imports = {
                found for target in module.imports for found in _with_packages(target) if self._is_module(found)
            }
            self._seen[name, chosen] = module
        return self._seen[name, chosen]

    @cache  # noqa: B019 (one instance a process)
    def _tree(self, name: str) -> ast.Module:
        path = self._path(name)
        assert path is not None
        return ast.parse(path.read_bytes(), str(path))

    @cache  # noqa: B019 (one instance a process)
    def _offered(self, name: str) -> frozenset[str]:
        """Return the names by which the code of a module chooses."""
        found: set[object] = set()
        for node in ast.walk(self._tree(name)):
            match node:
                case ast.MatchClass(cls=ast.Name(id=choice)):
                    found.add(choice)
                case ast.Dict(keys=keys):
                    found.update(key.value for key in keys if isinstance(key, ast.Constant))
        return frozenset(name for name in self._choices if name in found)

    @cache  # noqa: B019 (one instance a process)
    def _is_module(self, name: str) -> bool:
        return not name.startswith(PACKAGE + ".") or self._path(name) is not None


class _Reader:
    """Writes out a syntax tree without what cannot change a result, and collects what it imports.

    Written here, not :func:`ast.dump`: its text differs between minor versions of Python.

    Parameters
    ----------
    skipped : collection of str
        Names that the job does not choose.
    imports : set of str
        Collects the modules; and ``module.name``, which may be one.
    """

    def __init__(self, skipped: Collection[str], imports: set[str]) -> None:
        self._skipped = skipped
        self._imports = imports

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
                    if not _says_nothing(node, name, value):
                        yield f"{name}="
                        yield from self.read(value)
                yield ")"
            case list():
                for item in node:
                    # What says nothing leaves no trace: neither does a case or an import that was not there before.
                    if not _is_bare_text(item) and (text := "".join(self.read(item))):
                        yield f"{text},"
            case _:
                yield repr(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        names = [(alias.name, alias.asname) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute here"
            if _is_settings(node.module):
                return
            self._imports.update([node.module, *(f"{node.module}.{name}" for name, _ in names)])
            yield repr((node.module, sorted(names, key=str)))
        else:
            self._imports.update(name for name, _ in names)
            yield repr(sorted(names, key=str))

    def _table(self, node: ast.Dict) -> Iterator[str]:
        yield "Dict("
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value in self._skipped:
                continue
            for entry in ast.walk(value) if value else ():
                if (
                    isinstance(entry, ast.Constant)
                    and isinstance(entry.value, str)
                    and _TABLE_ENTRY.fullmatch(entry.value)
                ):
                    self._imports.add(entry.value.partition(":")[0])
            yield from self.read(key)
            yield ":"
            yield from self.read(value)
        yield ")"

    def _unchosen(self, pattern: ast.pattern) -> bool:
        match pattern:
            case ast.MatchClass(cls=ast.Name(id=name)):
                return name in self._skipped
            case ast.MatchAs(pattern=ast.pattern() as inner):
                return self._unchosen(inner)
            case ast.MatchOr(patterns=patterns):
                return all(map(self._unchosen, patterns))
        return False


def read_pins(lock: Path) -> dict[str, str]:
    """Return each package of a lock file with its lines, hashes left out.

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


def _says_nothing(node: ast.AST, name: str, value: object) -> bool:
    if value is None or value == [] or name in ("ctx", "type_comment", "kind", "type_params"):
        return True
    return (isinstance(node, ast.arg) and name == "annotation") or name == "returns"


def _is_bare_text(item: object) -> bool:
    """Tell whether a statement is a text that nothing takes: it documents what is above it."""
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]
