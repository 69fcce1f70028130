"""A code digest changes only with code that can change a result of the job."""

from __future__ import annotations

import ast
import re

import pytest

from tests.workflow.code_tree import CHOICES, FILES, STEPS, TRAIN, Tree
from tests.workflow.project import ROOT

# --- the code of a module --------------------------------------------------------------------------------------------

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
