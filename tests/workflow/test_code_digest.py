"""A code digest changes only with code or pins that can change a result of the job."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml.jobs.stage_names import stage_names
from ppml.pipeline.code_digest import DISTRIBUTIONS, CodeDigest, CodeDigests, read_pins
from tests.workflow.project import ROOT
from tests.workflow.traced import Trace, is_settings, trace_stages

CHOICES = ("Alone", "Together", "Apart", "Plain", "Noisy", "small", "big", "mnist", "kmnist")
FILES = {
    "__init__.py": '"""A small package."""\n',
    "config/__init__.py": "",
    "config/spec.py": "import pydantic\nimport ppml.parts.checks\n\nclass Alone: ...\nclass Together: ...\n",
    "configure.py": "READS = 'no settings'\n",
    "parts/__init__.py": "",
    "parts/alone.py": "def alone(): return 1\n",
    "parts/checks.py": "LIMIT = 1\n",
    "parts/deep/__init__.py": "from ppml.parts.deep.inside import depth\n",
    "parts/deep/inside.py": "import numpy.linalg\n\ndef depth(): return 3\n",
    "parts/hints.py": "import pandas\n\nclass Hint: ...\n",
    "parts/kmnist.py": "class Source: ...\n",
    "parts/lazy.py": "import yaml\n\nLAZY = True\n",
    "parts/loop.py": "from ppml.parts.steps import step\n\ndef walk(): return step(2)\n",
    "parts/mnist.py": "class Source: ...\n",
    "parts/noise.py": "import opacus\n\ndef noise(): return 4\n",
    "parts/steps.py": "import os\n\nfrom torch import nn\n\ndef step(number: int) -> int: return number\n",
    "parts/together.py": "import flwr.app as app\n\ndef together(): return app\n",
    "parts/unused.py": "import pandas\n",
    "parts/build.py": '''"""From the configuration to parts."""

from __future__ import annotations

from ppml.config.spec import Alone, Plain, Together

TABLE = {"mnist": "ppml.parts.mnist:Source", "kmnist": "ppml.parts.kmnist:Source"}
SIZES = {"small": 1, "big": 2, "both": 3}


def build(spec: Alone | Together) -> object:
    """Return what the configuration asks for."""
    match spec:
        case Alone():
            from ppml.parts.alone import alone

            return alone()
        case Together() as together:
            from ppml.parts.together import together

            return together()
        case Plain() | Noisy(1):
            from ppml.parts.noise import noise

            return noise()
''',
    "stages/__init__.py": "",
    "jobs/__init__.py": "",
    "jobs/threads.py": "COUNT = 1\n",
    "stages/other.py": "import ppml.parts.unused\n",
    "stages/train.py": '''"""Train."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from ppml import configure
from ppml.config import spec
from ppml.config.spec import Alone, Together
from ppml.parts import loop
from ppml.parts.build import build

if TYPE_CHECKING:
    from ppml.parts.hints import Hint

RATE = 0.5
"""Why it is a half."""
NAMES = ["one", "two"]


@dataclass(frozen=True)
class Settings:
    """Settings."""

    epochs: int = 1
    label: str = ""


@cache
def train(settings: Settings, rate: float = RATE, *, loud: bool = False) -> float:
    """Return the loss."""
    import ppml.parts.deep
    from ppml.parts.lazy import LAZY

    total = rate + len(NAMES)
    return total * 2 if LAZY else 0.0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    build(loop.walk())
''',
}
LOCK = """# made by hand
flwr==1.41.0 \\
    --hash=sha256:01 \\
    --hash=sha256:02
    # via ppml
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:03
    # via torch==0.0.1
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:04
opacus==1.6.0
pandas==3.1.1
pydantic==2.14.3
PyYAML==6.0.3
torch[all]==2.14.1 \\
    --hash=sha256:05
"""
NUMPY = "2.4.6 ; python_full_version < '3.12' | 2.5.5 ; python_full_version >= '3.12'"


class Tree:
    """The small package in a folder, and its lock file."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "src" / "ppml"
        self.lock = folder / "requirements.lock"
        for name, text in FILES.items():
            self.write(name, text)
        self.lock.write_text(LOCK)

    def write(self, name: str, text: str) -> None:
        path = self.package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        path = self.lock if name == "requirements.lock" else self.package / name
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {name}"
        assert old != new
        path.write_text(text.replace(old, new))

    def digests(self, choices: tuple[str, ...] = CHOICES, cache: Path | None = None) -> CodeDigests:
        return CodeDigests(self.package, self.lock, choices, cache)

    def text(self, *chosen: str, stage: str = "train") -> str:
        return self.digests().of(stage, chosen).text

    def modules(self, *chosen: str, stage: str = "train") -> set[str]:
        return set(self.digests().of(stage, chosen).modules)

    def pins(self, *chosen: str, stage: str = "train") -> dict[str, str]:
        return self.digests().of(stage, chosen).pins


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# --- the code of a module --------------------------------------------------------------------------------------------

TRAIN, STEPS = "stages/train.py", "parts/steps.py"
SAME = {
    "comment": (TRAIN, "RATE = 0.5", "# A half.\nRATE = 0.5  # really"),
    "blank lines": (TRAIN, "    total =", "\n\n    total ="),
    "module docstring": (TRAIN, '"""Train."""', '"""Train a model."""'),
    "no module docstring": (TRAIN, '"""Train."""', ""),
    "class docstring": (TRAIN, '"""Settings."""', '"""The settings."""'),
    "function docstring": (TRAIN, '"""Return the loss."""', '"""Return it."""'),
    "new docstring": (TRAIN, "    parser =", '    """Start."""\n    parser ='),
    "text below a constant": (TRAIN, '"""Why it is a half."""', '"""Why not?"""'),
    "annotation of an argument": (TRAIN, "rate: float", "rate: int"),
    "no annotation of an argument": (TRAIN, "loud: bool = False", "loud=False"),
    "new annotation of an argument": (TRAIN, "argv=None", "argv: list[str] | None = None"),
    "annotation of the result": (TRAIN, "-> float", "-> int"),
    "new annotation of the result": (TRAIN, "def main(argv=None):", "def main(argv=None) -> None:"),
    "import for type checkers": (TRAIN, "parts.hints import Hint", "parts.unused import Other"),
    "no import for type checkers": (TRAIN, "if TYPE_CHECKING:\n    from ppml.parts.hints import Hint\n", ""),
    "quotes": (TRAIN, '"one"', "'one'"),
    "escapes": (TRAIN, '"one"', r'"\x6fne"'),
    "parentheses": (TRAIN, "rate + len(NAMES)", "(rate + (len(NAMES)))"),
    "trailing comma": (TRAIN, '"two"]', '"two",]'),
    "line breaks": (TRAIN, '["one", "two"]', '[\n    "one",\n    "two",\n]'),
    "spelling of a number": (TRAIN, "RATE = 0.5", "RATE = 5e-1"),
    "kind of quotes": (TRAIN, '"one"', 'u"one"'),
    "order of the names of an import": (TRAIN, "import dataclass, field", "import field, dataclass"),
    "public interface of the package": ("__init__.py", '"""A small package."""', "import ppml.parts.unused"),
    "names of the configuration": (TRAIN, "import Alone, Together", "import Alone"),
    "comment of a module that is imported": (STEPS, "def step", "# One.\ndef step"),
    "annotation of a module that is imported": (STEPS, "number: int", "number: float"),
}
OTHER = {
    "constant": (TRAIN, "RATE = 0.5", "RATE = 0.25"),
    "type of a constant": (TRAIN, "epochs: int = 1", "epochs: int = True"),
    "name of a constant": (TRAIN, "RATE = 0.5", "SPEED = RATE = 0.5"),
    "text": (TRAIN, '"one"', '"eins"'),
    "bytes for text": (TRAIN, '"one"', 'b"one"'),
    "name of a function": (TRAIN, "def main", "def start"),
    "name of an argument": (TRAIN, "argv=None", "arguments=None"),
    "default of an argument": (TRAIN, "rate: float = RATE", "rate: float = 1.0"),
    "default of a keyword": (TRAIN, "loud: bool = False", "loud: bool = True"),
    "no default of a keyword": (TRAIN, "loud: bool = False", "loud: bool"),
    "keyword that may be given by position": (TRAIN, " *,", ""),
    "decorator of a function": (TRAIN, "@cache\n", ""),
    "decorator of a class": (TRAIN, "@dataclass(frozen=True)", "@dataclass"),
    "base of a class": (TRAIN, "class Settings:", "class Settings(dict):"),
    "annotation of a field": (TRAIN, "epochs: int", "epochs: str"),
    "order of fields": (TRAIN, '    epochs: int = 1\n    label: str = ""', '    label: str = ""\n    epochs: int = 1'),
    "operator": (TRAIN, "total * 2", "total / 2"),
    "condition": (TRAIN, "if LAZY else", "if not LAZY else"),
    "precedence": (TRAIN, "rate + len(NAMES)", "rate + len(NAMES) * 1"),
    "statement": (TRAIN, "import ppml.parts.deep\n", "LAZY = 1\n    import ppml.parts.deep\n"),
    "order of items": (TRAIN, '["one", "two"]', '["two", "one"]'),
    "list for tuple": (TRAIN, '["one", "two"]', '("one", "two")'),
    "call for name": (TRAIN, "loop.walk()", "loop.walk"),
    "statement in another block": (TRAIN, "    build(loop.walk())", "build(loop.walk())"),
    "alias of an import": (TRAIN, "from ppml.parts import loop", "from ppml.parts import steps as loop"),
    "new alias of an import": (TRAIN, "import argparse", "import argparse as arguments"),
    "name that is imported": (TRAIN, "from functools import cache", "from functools import lru_cache as cache"),
    "module that is imported": (TRAIN, "import argparse", "import optparse"),
    "import that type checkers do not see": (TRAIN, "import Hint\n", "import Hint\nelse:\n    Hint = int\n"),
    "import that no type checker sees": (TRAIN, "if TYPE_CHECKING:", "if not TYPE_CHECKING:"),
    "import under another condition": (TRAIN, "if TYPE_CHECKING:", "if configure:"),
    "constant of a module that is imported": (STEPS, "return number", "return number + 1"),
    "name of a package": ("parts/deep/__init__.py", "import depth", "import depth as deep"),
    "threads of every job": ("jobs/threads.py", "COUNT = 1", "COUNT = 2"),
    "package of the stages": ("stages/__init__.py", "", "VERSION = 2"),
}


@pytest.mark.parametrize(("name", "old", "new"), SAME.values(), ids=SAME)
def test_change_without_effect_on_results_keeps_digest(tree: Tree, name: str, old: str, new: str) -> None:
    before = tree.text()
    tree.replace(name, old, new)
    assert tree.text() == before


@pytest.mark.parametrize(("name", "old", "new"), OTHER.values(), ids=OTHER)
def test_change_with_possible_effect_on_results_changes_digest(tree: Tree, name: str, old: str, new: str) -> None:
    before = tree.text()
    if old:
        tree.replace(name, old, new)
    else:
        tree.write(name, new)
    assert tree.text() != before


def test_digest_is_equal_in_every_version_of_python(tree: Tree) -> None:
    # A change of this value makes all published results stale.
    assert tree.text("Alone", "small", "mnist") == "04bd6f5bdac7df40"
    assert re.fullmatch("[0-9a-f]{16}", tree.text())


def test_code_imports_modules_and_no_public_name_of_the_package() -> None:
    # No digest counts the `__init__` of the package.
    modules = {path.stem for path in (ROOT / "src/ppml").iterdir() if path.suffix == ".py" or path.is_dir()}
    found = {}
    for path in (ROOT / "src/ppml").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.ImportFrom(module="ppml", names=names):
                    found[path.parent.name] = {one.name for one in names} - modules
                case ast.Import(names=names) if any(one.name == "ppml" for one in names):
                    found[path.parent.name] = {"ppml"}
    assert {folder: names for folder, names in found.items() if names} == {
        "command": {"__version__"},
        "pipeline": {"ppml"},
    }


# --- the modules of a stage ------------------------------------------------------------------------------------------

ALWAYS = {
    *("ppml", "ppml.configure", "ppml.parts", "ppml.parts.build", "ppml.parts.deep", "ppml.parts.deep.inside"),
    *("ppml.parts.lazy", "ppml.parts.loop", "ppml.parts.steps", "ppml.stages", "ppml.jobs.threads"),
    "ppml.stages.train",
}


def test_digest_counts_reached_modules_and_no_other(tree: Tree) -> None:
    assert tree.modules() == ALWAYS
    assert tree.modules(stage="other") == {
        *("ppml", "ppml.parts", "ppml.parts.unused", "ppml.stages", "ppml.stages.other", "ppml.jobs.threads")
    }


@pytest.mark.parametrize(
    "line",
    [
        "import ppml.parts.unused",
        "import ppml.parts.unused as u",
        "from ppml.parts import unused",
        "from ppml.parts.unused import pandas",
        "from ppml.parts import (\n    loop,\n    unused as u,\n)",
        "def late():\n    class Later:\n        import ppml.parts.unused",
        "try:\n    import ppml.parts.unused\nexcept ImportError:\n    pass",
        "if True:\n    from ppml.parts import unused",
        "TABLE = {'anything': 'ppml.parts.unused:Class'}",
        "TABLES = [{1: {2: 'ppml.parts.unused:Class'}}]",
    ],
)
def test_every_kind_of_import_counts(tree: Tree, line: str) -> None:
    before = tree.text()
    tree.write("parts/loop.py", f"{FILES['parts/loop.py']}\n{line}\n")
    assert tree.modules() == ALWAYS | {"ppml.parts.unused"}
    assert "pandas" in tree.pins()
    first = tree.text()
    tree.write("parts/unused.py", "import pandas\n\nCHANGED = 1\n")
    assert len({before, first, tree.text()}) == 3


def test_package_precedes_module_of_same_name(tree: Tree) -> None:
    tree.write("parts/deep.py", "import ppml.parts.unused\n")
    assert tree.modules() == ALWAYS


@pytest.mark.parametrize(
    "line",
    [
        "import ppml.config.spec",
        "from ppml.config import spec",
        "from ppml.config.spec import Alone",
        "from ppml import config",
    ],
)
def test_no_import_of_configuration_counts(tree: Tree, line: str) -> None:
    tree.write("stages/lone.py", line)
    assert tree.modules(stage="lone") == {"ppml", "ppml.stages", "ppml.stages.lone", "ppml.jobs.threads"}
    assert tree.pins(stage="lone") == {}


def test_configuration_and_its_imports_do_not_count(tree: Tree) -> None:
    before = tree.text("Alone", "Together")
    tree.write("config/spec.py", "import ppml.parts.unused\n\nclass Alone: default = 2\n")
    tree.write("config/__init__.py", "VERSION = 2\n")
    tree.write("parts/checks.py", "LIMIT = 2\n")
    tree.replace("requirements.lock", "pydantic==2.14.3", "pydantic==2.15.0")
    assert tree.text("Alone", "Together") == before


def test_module_with_prefix_of_configuration_counts(tree: Tree) -> None:
    tree.write("parts/loop.py", "from ppml.configure_parts import loops\n")
    tree.write("configure_parts.py", "loops = 1\n")
    before = tree.text()
    assert "ppml.configure_parts" in tree.modules()
    tree.write("parts/loop.py", "from ppml.configure_parts import loops as walk\n")
    assert tree.text() != before


def test_moved_module_changes_digest(tree: Tree) -> None:
    before = tree.text()
    (tree.package / "parts/steps.py").rename(tree.package / "parts/paces.py")
    tree.replace("parts/loop.py", "ppml.parts.steps", "ppml.parts.paces")
    assert tree.text() != before


# --- the choices of a job --------------------------------------------------------------------------------------------


def test_case_counts_for_jobs_that_choose_it(tree: Tree) -> None:
    assert tree.modules("Alone") == ALWAYS | {"ppml.parts.alone"}
    assert tree.modules("Together") == ALWAYS | {"ppml.parts.together"}
    assert tree.modules("Plain") == tree.modules("Noisy") == ALWAYS | {"ppml.parts.noise"}
    all_modules = ALWAYS | {f"ppml.parts.{name}" for name in ("alone", "together", "noise", "mnist", "kmnist")}
    assert set(tree.digests().of("train").modules) == tree.modules(*CHOICES) == all_modules


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("return alone()", "return -alone()", {"Alone"}),
        ("case Alone():", "case Alone(epochs=1):", {"Alone"}),
        ("case Alone():", "case Alone() if spec:", {"Alone"}),
        ("return together()", "return -together()", {"Together"}),
        ("as together:", "as both:", {"Together"}),
        ("return noise()", "return -noise()", {"Plain", "Noisy"}),
        ("Noisy(1)", "Noisy(2)", {"Plain", "Noisy"}),
        ("match spec:", "match spec or None:", {"Alone", "Together", "Plain", "Noisy"}),
        ("class Source: ...", "class Source: size = 1", {"mnist"}),
        ('"big": 2', '"big": 3', {"big"}),
    ],
)
def test_changed_choice_changes_digests_of_jobs_that_choose_it(tree: Tree, old: str, new: str, stale: set[str]) -> None:
    before = {name: tree.text(name) for name in CHOICES}
    whole = tree.digests().of("train").text
    tree.replace("parts/mnist.py" if "Source" in old else "parts/build.py", old, new)
    changed = {name for name in CHOICES if tree.text(name) != before[name]}
    assert changed == (set(CHOICES) if old.startswith("match") else stale)
    assert tree.digests().of("train").text != whole


@pytest.mark.parametrize(
    "pattern",
    [
        *("_", "other", "Other()", "Alone() | Other()", "Other() as x", "spec.Alone()", "int() | Alone()"),
        *("None", "1", "'Alone'", "[Alone()]", "{'kind': Alone()}", "spec.ALONE"),
    ],
)
def test_case_without_choice_counts_for_every_job(tree: Tree, pattern: str) -> None:
    tree.write("parts/build.py", f"match 1:\n    case {pattern}:\n        import ppml.parts.unused\n")
    assert "ppml.parts.unused" in tree.modules("Together")


@pytest.mark.parametrize(
    "pattern",
    ["Alone()", "Alone(1, x=2)", "Alone() as x", "(Alone() as x) | Plain()", "Alone() | Plain()", "Alone() if 1 > 2"],
)
def test_case_of_other_choice_does_not_count(tree: Tree, pattern: str) -> None:
    tree.write("parts/build.py", f"match 1:\n    case {pattern}:\n        import ppml.parts.unused\n")
    assert "ppml.parts.unused" not in tree.modules("Together")
    assert "ppml.parts.unused" in tree.modules("Alone")


def test_table_entry_counts_for_jobs_that_choose_it(tree: Tree) -> None:
    assert tree.modules("mnist") == ALWAYS | {"ppml.parts.mnist"}
    assert tree.modules("kmnist") == ALWAYS | {"ppml.parts.kmnist"}
    before = {name: tree.text(name) for name in ("mnist", "kmnist", "small")}
    tree.replace("parts/build.py", "ppml.parts.kmnist:Source", "ppml.parts.mnist:Source")
    assert [name for name in before if tree.text(name) != before[name]] == ["kmnist"]
    assert tree.modules("kmnist") == ALWAYS | {"ppml.parts.mnist"}


def test_table_entry_without_choice_counts_for_every_job(tree: Tree) -> None:
    before = {name: tree.text(name) for name in ("small", "big", "Alone")}
    tree.replace("parts/build.py", '"both": 3', '"both": 4')
    assert all(tree.text(name) != before[name] for name in before)


def test_new_technique_keeps_digests_of_others(tree: Tree) -> None:
    arms = [("Alone", "Plain", "small", "mnist"), ("Together", "Noisy", "big", "kmnist")]
    before = [tree.text(*arm) for arm in arms]
    tree.write("config/spec.py", FILES["config/spec.py"] + "class Secret:\n    keys: int = 2\n")
    tree.write("parts/secret.py", "import tenseal\n\ndef secret(): return 5\n")
    tree.replace("parts/build.py", "Alone, Plain, Together", "Alone, Plain, Secret, Together")
    tree.replace("parts/build.py", "spec: Alone | Together", "spec: Alone | Secret | Together")
    tree.replace(
        "parts/build.py",
        "        case Plain() |",
        "        case Secret():\n            from ppml.parts.secret import secret\n\n            return secret()\n"
        "        case Plain() |",
    )
    tree.replace("parts/build.py", "TABLE = {", 'TABLE = {"emnist": "ppml.parts.secret:Source", ')
    tree.replace("parts/build.py", "SIZES = {", 'SIZES = {"huge": 9, ')
    tree.replace("requirements.lock", "pydantic==", "tenseal==0.3.18\npydantic==")
    digests = tree.digests((*CHOICES, "Secret", "emnist", "huge"))
    assert [digests.of("train", arm).text for arm in arms] == before
    chosen = digests.of("train", ("Secret",))
    assert set(chosen.modules) == ALWAYS | {"ppml.parts.secret"} and chosen.pins["tenseal"] == "0.3.18"


CALLS = [("Alone",), ("Together", "mnist"), (), ("Alone",)]


def test_order_of_jobs_changes_no_digest(tree: Tree) -> None:
    digests = tree.digests()
    texts = [digests.of("train", chosen).text for chosen in CALLS]
    assert texts == [tree.text(*chosen) for chosen in CALLS]
    assert texts[0] == texts[3] and len(set(texts)) == 3


# --- pins ------------------------------------------------------------------------------------------------------------


def test_pins_are_those_of_imported_packages(tree: Tree) -> None:
    always = {"numpy": NUMPY, "pyyaml": "6.0.3", "torch": "2.14.1"}
    assert tree.pins() == tree.pins("Alone") == always
    assert tree.pins("Together") == {**always, "flwr": "1.41.0"}
    assert tree.pins("Noisy", "Together") == {**always, "flwr": "1.41.0", "opacus": "1.6.0"}


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        ("torch[all]==2.14.1", "torch[all]==2.14.2", {"Alone", "Together"}),
        ("torch[all]==2.14.1", "torch==2.14.1", set()),
        ("PyYAML==6.0.3", "pyyaml==6.0.4", {"Alone", "Together"}),
        ("PyYAML==6.0.3", "pyyaml==6.0.3", set()),
        ("numpy==2.5.5", "numpy==2.5.6", {"Alone", "Together"}),
        ("< '3.12'", "< '3.13'", {"Alone", "Together"}),
        ("flwr==1.41.0", "flwr==1.42.0", {"Together"}),
        ("pandas==3.1.1", "pandas==3.1.2", set()),
        ("sha256:05", "sha256:06", set()),
        ("    --hash=sha256:02\n", "", set()),
        ("# via torch==0.0.1", "# via torch==0.0.2", set()),
        ("# made by hand", "# made by uv", set()),
    ],
)
def test_pin_changes_digests_of_jobs_that_import_package(tree: Tree, old: str, new: str, stale: set[str]) -> None:
    before = {name: tree.text(name) for name in ("Alone", "Together")}
    tree.replace("requirements.lock", old, new)
    assert {name for name in before if tree.text(name) != before[name]} == stale


@pytest.mark.parametrize(
    ("package", "name"),
    [("yaml", "PyYAML"), ("sklearn.base", "scikit-learn"), ("pydantic_core", "pydantic-core"), ("IPython", "ipython")],
)
def test_package_is_found_by_name_of_distribution(tree: Tree, package: str, name: str) -> None:
    tree.lock.write_text(f"{name}==1.2.3\n")
    tree.write("stages/lone.py", f"import {package}\n")
    assert tree.pins(stage="lone") == {name.lower(): "1.2.3"}


def test_package_without_pin_is_named(tree: Tree) -> None:
    tree.replace("requirements.lock", "opacus==1.6.0\n", "")
    tree.text("Alone")
    with pytest.raises(KeyError, match="opacus, which has no line in the lock file"):
        tree.text("Noisy")


def test_pins_of_all_computed_digests_are_listed(tree: Tree) -> None:
    digests = tree.digests()
    assert digests.pins() == {} == digests.by_text
    first, second = digests.of("train", ("Noisy",)), digests.of("other", ())
    assert digests.by_text == {first.text: first, second.text: second}
    assert digests.pins() == {**first.pins, "pandas": "3.1.1"}


def test_all_lines_of_lock_file_are_read() -> None:
    pins = read_pins(ROOT / "requirements.lock")
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if re.match(r"[^\s#]", line)]
    assert sum(len(pin.split(" | ")) for pin in pins.values()) == len(lines) > 100
    assert all(re.match(r"\d\S*( ; \S.*)?$", pin) and "\\" not in pin for pin in pins.values())


# --- the file with the digests of modules ---------------------------------------------------------------------------


@pytest.fixture
def cached(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[CodeDigest, int]]:
    """Return a function that computes a digest with the file, and counts the parsed modules."""
    parsed: list[str | bytes] = []
    parse = ast.parse

    def count(source: str | bytes) -> ast.Module:
        parsed.append(source)
        return parse(source)

    def compute() -> tuple[CodeDigest, int]:
        parsed.clear()
        digests = tree.digests(cache=tmp_path / "code.json")
        found = digests.of("train", ("Together",))
        digests.save()
        return found, len(parsed)

    monkeypatch.setattr(ast, "parse", count)
    return compute


def test_only_changed_modules_are_parsed_again(tree: Tree, cached: Callable[[], tuple[CodeDigest, int]]) -> None:
    first, parsed = cached()
    assert parsed > 5 and first == tree.digests().of("train", ("Together",))
    assert cached() == (first, 0)
    tree.replace(TRAIN, "RATE = 0.5", "RATE = 0.25")
    changed, parsed = cached()
    assert parsed == 1 and changed == tree.digests().of("train", ("Together",)) != first


DAMAGES = {
    "no JSON": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "another version": lambda text: text.replace('"version":"', '"version":"0'),
    "no modules": lambda text: re.sub(r'"modules":.*,"version"', '"modules":7,"version"', text),
    "an entry is null": lambda text: re.sub(r":\[", ':null,"x":[', text, count=1),
    "entries are texts": lambda text: re.sub(r'\["(\w+)",\[.*?\],\[.*?\]\]', r'"\1"', text),
    "entries have two parts": lambda text: re.sub(r",\[[^\[\]]*\]\]", "]", text),
    "digests are numbers": lambda text: re.sub(r'\["\w+",', "[7,", text),
    "imports are numbers": lambda text: re.sub(r"\[\]", "[7]", text),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_of_modules_is_computed_again(
    tmp_path: Path, cached: Callable[[], tuple[CodeDigest, int]], damage: Callable[[str], str]
) -> None:
    first, _ = cached()
    file = tmp_path / "code.json"
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    found, parsed = cached()
    assert found == first and parsed > 0
    assert file.read_text() == text


# --- the stages of this project --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    return trace_stages(tmp_path_factory.mktemp("traces"))


BY_LEARNER = {"ppml.learning.loss", "ppml.learning.sgd"}
MORE = {
    "train plain": BY_LEARNER,
    "train transformed": BY_LEARNER,
    "train encrypted": BY_LEARNER,
    "train pictures": BY_LEARNER,
    "predict reference": {"ppml.models.reference"},
    "subset digits": {f"ppml.data.formats.{name}" for name in ("idx", "table_encoding", "table_files", "table_text")},
}
"""Modules in the digest that the job does not import, since the digest cannot know it: the model decides whether models
train in one batch, and the shape whether data of scikit-learn are a table."""

DRAWS = {"ppml.example_draws", "ppml.randomness"}
MORE_OF_STAGE = {"subset": DRAWS, "predict": DRAWS, "infer": DRAWS}
"""Such modules of every job of a stage: examples can make random draws, but not in these stages."""


def test_digest_counts_exactly_the_reached_modules(traces: dict[str, Trace]) -> None:
    assert {trace.stage for trace in traces.values()} == set(stage_names()) - {"fetch"}
    for name, trace in traces.items():
        assert trace.imported_by_stage() <= set(trace.digest.modules), name
        more = MORE.get(name, set()) | (MORE_OF_STAGE.get(trace.stage, set()) - trace.imported_by_stage())
        unused = set(trace.digest.modules) - trace.imported_by_stage()
        if name == "train reference":
            # The stage reads from the model whether a library trains it, and the digest cannot know it.
            unused = {module for module in unused if not module.startswith("ppml.learning.")}
            more = {"ppml.example_draws"}
        assert unused == more, name


STARTS_JOBS = {
    *("ppml.jobs.runner", "ppml.jobs.record", "ppml.errors", "ppml.system_errors", "ppml.io.atomic", "ppml.io.digests"),
}
"""The modules that start and record jobs."""


def test_other_loaded_modules_are_of_configuration_or_runner(traces: dict[str, Trace]) -> None:
    for name, trace in traces.items():
        others = trace.loaded - trace.imported_by_stage() - trace.imported_by_configuration()
        assert others <= STARTS_JOBS, name


IMPORTED_BY_PYARROW = {"dateutil"}
"""Packages that compiled code of PyArrow imports in the frame of its caller, where they are installed."""


def test_digest_counts_every_imported_package(traces: dict[str, Trace]) -> None:
    used = set()
    for name, trace in traces.items():
        packages = {DISTRIBUTIONS.get(package, package).replace("_", "-") for package in trace.packages()}
        assert packages - IMPORTED_BY_PYARROW <= set(trace.digest.pins), name
        used |= packages
    assert used >= {"torch", "opacus", "flwr", "tenseal", "scikit-learn", "pandas", "matplotlib"}


IN_PARAMS = {
    # The content of a specification.
    *("Spec.to_json", "PartitionBase.to_json"),
    # The contract of a table.
    *("Column.is_category", "Column.width", "TableFields.column_with", "TableFields.inputs"),
    "TableFields.table_contract",
    # The files of a part.
    "DatasetBase.files_of",
}
"""Functions with a result that is also in the params, or the inputs, of the job: its change makes the job run again."""
CHECKED = {
    *("ModelInfo.misfit", "parse_dataset"),
    # A column that was not read has no values.
    "Column.is_read",
    # Arrays of another shape are refused.
    *("PictureFields.stored_shape", "coefficient_count"),
    # The names are in the file of the partition, in the order of its clients.
    "Natural.chosen",
}
"""Functions that refuse a value, or whose changed result would be refused; a file of before stays right."""


def test_stages_call_no_other_function_of_the_configuration(traces: dict[str, Trace]) -> None:
    calls = {
        (name, function)
        for name, trace in traces.items()
        for caller, function in trace.calls
        if caller.startswith("ppml.") and not is_settings(caller)
    }
    assert {function for _, function in calls} <= IN_PARAMS | CHECKED, calls
