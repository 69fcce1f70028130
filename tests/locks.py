"""What the lock files say, read without the code that is tested."""

from __future__ import annotations

import re
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.workflow.project import ROOT


class Entry(NamedTuple):
    """A line of a lock file: the requirement, and the digests of what may be installed."""

    requirement: Requirement
    hashes: frozenset[str]


def entries(name: str) -> list[Entry]:
    """Return the entries of a lock file."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    return [
        Entry(Requirement(line.split(" --hash=", 1)[0].strip()), frozenset(re.findall(r"--hash=(\S+)", line)))
        for line in lines
    ]
