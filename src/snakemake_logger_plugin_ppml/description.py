"""The targets of the workflow and the reasons of its jobs, for messages; the Snakefile sets both."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Description:
    """The targets and the reasons of a workflow.

    Parameters
    ----------
    targets : callable
        () -> output files of each rule.
    reason : callable
        Output file -> reason why its job runs; empty if it is unknown.
    """

    targets: Callable[[], Mapping[str, Sequence[str]]] = dict
    reason: Callable[[str], str] = lambda output: ""


DESCRIPTION = Description()
"""The workflow of this process."""


def target_error(message: str, arguments: Sequence[str]) -> str:
    """Return a better line for Snakemake's message about a target; empty if it has another subject.

    Parameters
    ----------
    message : str
        The message of Snakemake.
    arguments : sequence of str
        The arguments of the command.
    """
    targets = DESCRIPTION.targets()
    if found := re.search(r"No rule to produce (.+) \(if you use input", message):
        return unknown_target(found[1], targets)
    if "Target rules may not contain wildcards" in message:
        rule = next((word for word in arguments if len(targets.get(word, ())) > 1), "")
        return f"rule {rule} makes many files; name the file, for instance {targets[rule][0]}" if rule else ""
    return ""


def unknown_target(name: str, targets: Mapping[str, Sequence[str]]) -> str:
    """Return the error line about a target that no rule makes, with the nearest targets.

    Examples
    --------
    >>> targets = {"figure_cost": ["reports/figures/techniques-cost.svg"]}
    >>> unknown_target("figure_kost", targets)
    'no rule makes figure_kost; did you mean figure_cost?'
    >>> unknown_target("technique-cost", targets)
    'no rule makes technique-cost; did you mean reports/figures/techniques-cost.svg?'
    """
    files = (file for files in targets.values() for file in files)
    words = {word: file for file in files for word in (Path(file).stem, Path(file).name, file)}
    words |= {rule: rule for rule in targets}
    near = dict.fromkeys(words[word] for word in difflib.get_close_matches(name, words))
    if near:
        return f"no rule makes {name}; did you mean {' or '.join(near)}?"
    return f"no rule makes {name}; `make help` and `snakemake --list-rules` show targets"
