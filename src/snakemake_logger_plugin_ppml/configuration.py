"""What is wrong with a configuration that Snakemake could not read: it names no file, or neither line nor remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

OPTIONS = ("--configfile", "--configfiles")


def configuration_error(arguments: Sequence[str]) -> str:
    """Return the one line about the first file of ``--configfile`` that cannot be read; empty where all can.

    Parameters
    ----------
    arguments : sequence of str
        Those of the command line.
    """
    try:
        from ppml.config.load import read_layers
        from ppml.errors import UserError
    except ImportError:
        return ""
    for place, file in enumerate(_files(arguments)):
        if place and Path(file).suffix not in (".yaml", ".yml", ".json"):
            return f"{file}: --configfile takes every name that follows it; name targets before it"
        try:
            read_layers(file)
        except UserError as error:
            return str(error)
    return ""


def _files(arguments: Sequence[str]) -> Iterator[str]:
    taking = False
    for argument in arguments:
        if argument.startswith("-"):
            option, _, value = argument.partition("=")
            taking = option in OPTIONS
            if taking and value:
                yield value
        elif taking:
            yield argument
