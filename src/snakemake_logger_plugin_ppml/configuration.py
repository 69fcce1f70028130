"""A better message for a configuration that Snakemake cannot read: with file, line and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

OPTIONS = ("--configfile", "--configfiles")


def configuration_error(arguments: Sequence[str]) -> str:
    """Return an error line about the first mistake in ``--config`` or ``--configfile``; empty if all are readable."""
    try:
        from ppml.config.load import read_layers
        from ppml.errors import UserError
    except ImportError:
        return ""
    for entry in _values(arguments, ("--config", "-C")):
        if "=" not in entry:
            return f"{entry}: --config takes every entry that follows it; give targets before it"
    for index, file in enumerate(_values(arguments, OPTIONS)):
        if index and Path(file).suffix not in (".yaml", ".yml", ".json"):
            return f"{file}: --configfile takes every name that follows it; give targets before it"
        try:
            read_layers(file)
        except UserError as error:
            return str(error)
    return ""


def _values(arguments: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    """Yield the values of an option with several values."""
    in_option = False
    for argument in arguments:
        if argument.startswith("-"):
            option, _, value = argument.partition("=")
            in_option = option in options
            if in_option and value:
                yield value
        elif in_option:
            yield argument
