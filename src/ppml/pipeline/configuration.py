"""The checked configuration of ``--configfile`` and ``--config`` together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from snakemake.utils import update_config

from ppml.config.load import merge_layers, parse_config, read_layers
from ppml.config.model import Config


def check_configuration(given: Mapping[str, Any], files: Sequence[str], *, merged: bool) -> Config:
    """Return the configuration; the :class:`UserError` of a mistake names its file or ``--config``.

    Parameters
    ----------
    given : mapping
        The configuration of Snakemake.
    files : sequence of str
        The files, the lowest first.
    merged : bool
        Whether ``given`` contains the files; else it overrides them.
    """
    cwd = Path.cwd()
    names = [str(Path(file).relative_to(cwd)) if Path(file).is_relative_to(cwd) else file for file in files]
    stacks = [read_layers(file) for file in names]
    layers = [layer for stack in stacks for layer in stack]
    # Snakemake has merged the files key by key; every difference comes from --config.
    plain: dict[str, Any] = {}
    for stack in stacks if merged else ():
        update_config(plain, stack[-1][1])
    above = difference({key: value for key, value in given.items() if key != "extends"}, plain)
    layers.append(("--config", parse_cli_values(above)))
    return parse_config(merge_layers(layers), ", ".join(names), layers)


def parse_cli_values(given: Any) -> Any:
    """Return ``given`` after a YAML parser has read its texts.

    Snakemake passes values inside braces and brackets of ``--config`` as text.

    Examples
    --------
    >>> parse_cli_values({"data": {"train": "500", "dataset": "mnist"}, "seeds": ["0"]})
    {'data': {'train': 500, 'dataset': 'mnist'}, 'seeds': [0]}
    """
    if isinstance(given, Mapping):
        return {key: parse_cli_values(value) for key, value in given.items()}
    if isinstance(given, list):
        return list(map(parse_cli_values, given))
    if not isinstance(given, str):
        return given
    try:
        value = yaml.safe_load(given)
    except yaml.YAMLError:
        return given
    return value if value is None or isinstance(value, (bool, int, float)) else given


def difference(given: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``given`` that is not in ``plain``.

    Examples
    --------
    >>> difference({"data": {"train": "500", "test": 9}, "seed": 1}, {"data": {"test": 9}, "seed": 1})
    {'data': {'train': '500'}}
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        below = plain.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            if deeper := difference(value, below):
                found[key] = deeper
        elif key not in plain or value != below:
            found[key] = value
    return found
