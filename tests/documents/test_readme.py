"""The README: length, tables, numbers, and the two commands."""

from __future__ import annotations

import re

import pandas as pd
import yaml

from ppml.reporting.formatting import epsilon_bound, percent, significant

from .generated_tables import BLOCK, copied
from .markdown import ROOT, Document

README = Document(ROOT / "README.md")
MOST_WORDS = 800
MOST_COLUMNS = 6


def words(document: Document) -> int:
    """Return the number of words without tables, code, and addresses of links."""
    lines = [line for line in document.prose.splitlines() if not line.startswith("|")]
    return len(re.sub(r"\]\([^)]*\)", "]", "\n".join(lines)).split())


def test_readme_is_short():
    assert words(README) <= MOST_WORDS


def test_tables_of_readme_are_narrow():
    rows = re.findall(r"^\|.*\|$", README.text, flags=re.MULTILINE)
    assert max(len(re.split(r"(?<!\\)\|", row)) - 2 for row in rows) <= MOST_COLUMNS


def test_readme_has_one_figure():
    assert len(re.findall(r"!\[[^]]+\]\([^)]+\)", README.text)) == 1


def test_tables_of_readme_are_current():
    assert copied(README.text) == README.text, "run `python -m tests.documents.generated_tables`"
    assert len(BLOCK.findall(README.text)) == 2


def test_first_block_leads_from_clone_to_results():
    commands = README.blocks("bash")[0].splitlines()
    assert len(commands) <= 4
    assert commands[0].startswith("git clone") and any(line.startswith("make results") for line in commands)
    assert any("snakemake --cores 8" in block for block in README.blocks("bash"))


def headline_numbers() -> dict[str, str]:
    """Return the numbers of the headline results, from the tidy files and the papers."""
    records, costs = (pd.read_csv(ROOT / "reports" / f"{name}.csv") for name in ("records", "costs"))
    accuracy = records.groupby("arm")["accuracy_all"].mean()
    spent, expansion = records.groupby("arm")["epsilon"].max(), costs.groupby("arm")["expansion"].mean()
    published = yaml.safe_load((ROOT / "config" / "published.yaml").read_text(encoding="utf-8"))["private-ai/4/fl-dp"]
    assert spent["scatter_2.9"] == spent["fl_dp_he_shares"] and round(spent["scatter_2.9"], 2) == published["epsilon"]
    assert spent["dp"] <= published["epsilon"] and spent["fl_dp"] <= published["epsilon"]
    assert accuracy["fl"] == accuracy["fl_he"]
    private, bare = accuracy["scatter_2.9"], accuracy["scatter_none"]
    joint = pd.read_csv(ROOT / "reports" / "joint.csv").set_index("arms")["epsilon"]
    return {
        "private": percent(private),
        "without privacy": percent(bare),
        "cost": percent(bare - private, 1),
        "error": percent(1 - private),
        "error without privacy": percent(1 - bare),
        "network on pixels": percent(accuracy["dp"]),
        "federated network on pixels": percent(accuracy["fl_dp"]),
        "epsilon": epsilon_bound(spent["scatter_2.9"]),
        "epsilon of replaced examples": epsilon_bound(
            records.groupby("arm")["epsilon_replace_one"].max()["scatter_2.9"]
        ),
        "epsilon of all seeds": epsilon_bound(joint["scatter_2.9"]),
        "together": percent(accuracy["fl_dp_he_shares"]),
        "PRIVATE-AI": percent(published["accuracy"], 1),
        "federated": percent(accuracy["fl"]),
        "encrypted upload": significant(expansion["fl_he"], 2),
        "masked upload": significant(expansion["fl_masking"]),
    }


def test_headline_numbers_are_measured():
    top = README.text.partition("\n## ")[0]
    assert set(re.findall(r"\d+\.\d+", top)) == set(headline_numbers().values())
    assert top.partition("![")[0].count("\n- ") == 3
