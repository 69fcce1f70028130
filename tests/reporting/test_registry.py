"""The declarations of tables and figures."""

import subprocess
import sys
from typing import get_args

import pytest

from ppml.config.experiment import COMPARING_TABLES, FigureKind, TableKind
from ppml.reporting import registry
from ppml.reporting.registry import figures, tables
from ppml.results.tidy_files import TIDY_FILES

KINDS = [*tables().values(), *figures().values()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-{kind.module.rpartition('.')[2]}")
def test_kind_has_builder_and_known_files(kind):
    assert callable(kind.builder())
    assert set(kind.reads) <= set(TIDY_FILES)


def test_joint_epsilon_follows_from_reads():
    without = {kind.name for kind in tables().values() if not kind.states_epsilon}
    assert without == {"audit", "inference"}


def test_configuration_knows_the_tables_that_compare():
    compared = {kind.name for kind in tables().values() if "compared" in kind.joint_arms}
    assert compared == set(COMPARING_TABLES)


def test_new_module_is_found(tmp_path, monkeypatch):
    (tmp_path / "table_new.py").write_text(
        '@table("new", joint_arms="claimed")\ndef new_table(view, records, joint, published): ...\n'
    )
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    registry._declared.cache_clear()
    try:
        (kind,) = tables().values()
    finally:
        registry._declared.cache_clear()
    assert (kind.name, kind.module, kind.function) == ("new", "ppml.reporting.table_new", "new_table")
    assert (kind.reads, kind.joint_arms, kind.published) == (("records", "joint"), "claimed", True)


def test_registry_imports_no_plotting_or_pandas():
    heavy = ("pandas", "matplotlib", "numpy", "torch")
    code = (
        "import sys; from ppml.reporting.registry import figures, tables; figures(), tables();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_configuration_names_every_kind():
    assert set(get_args(TableKind)) == set(tables())
    assert set(get_args(FigureKind)) == set(figures())
