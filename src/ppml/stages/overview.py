"""Rule overview: the first page of the HTML report, with every figure and its caption, in reStructuredText."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from ppml.io.atomic import write_text


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page; ``--spec`` lists title, kind and fallback of each figure, in the order of ``--figures``.

    The figures are embedded, so that the report is one file that opens without a network.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--intro", type=Path, required=True)
    parser.add_argument("--captions", type=Path, nargs="*", default=[])
    parser.add_argument("--figures", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    captions = {path.stem: path.read_text(encoding="utf-8") for path in arguments.captions}
    sections = [
        section(figure, captions[shown["kind"]], shown)
        for figure, shown in zip(arguments.figures, arguments.spec, strict=True)
    ]
    # Figures first: one paragraph says what this is, the rest of the introduction how to read it.
    what, _, reading = arguments.intro.read_text(encoding="utf-8").partition("\n\n")
    write_text(arguments.output, "\n\n".join([what, *sections, reading]))


def section(figure: Path, caption: str, shown: dict[str, str]) -> str:
    """Return one figure, embedded, with its caption, a template that knows the title and the fallback sentence."""
    from jinja2 import Template

    address = "data:image/svg+xml;base64," + base64.b64encode(figure.read_bytes()).decode()
    # Docutils refuses lines of more than 10,000 characters and joins those of an address.
    picture = "\n   ".join(address[start : start + 5_000] for start in range(0, len(address), 5_000))
    params = SimpleNamespace(title=shown["title"], fallback=shown["fallback"])
    text = Template(caption).render(snakemake=SimpleNamespace(params=params))
    return f".. image:: {picture}\n   :width: 100%\n\n{text}\n"
