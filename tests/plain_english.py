"""Count the texts that hang on a pronoun instead of a noun: ``python tests/plain_english.py``, a part of ``make lint``.

A text is a comment, a sentence of a docstring, a parameter's description, a message, the name of a test, or a sentence
of a document. It counts as hard to read if ``who``, ``what``, ``whoever`` or ``nobody`` stands for a noun.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src", "tests", "benchmarks")
DOCUMENTS = (
    *("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md"),
    *("docs", "config", "workflow"),
)
PRONOUN = re.compile(r"\b(who|whom|whoever|what|whatever|nobody|no one|one that|those that|those who)\b", re.IGNORECASE)
"""Pronouns in the place of a noun."""
QUOTED = re.compile(r"``[^`]*``|`[^`]*`|\"[^\"]*\"|<!--.*?-->")
"""Code and quotations: their words are not ours."""
LARGEST_SHARE = 0.03
"""The share of texts that may hang on a pronoun; of parameter texts none may."""
FEWEST_WORDS = 3
"""A message has at least so many words; a shorter string is a name or a format."""


class Text(NamedTuple):
    """One text of the project.

    Parameters
    ----------
    kind : str
        ``comment``, ``docstring``, ``parameter``, ``message``, ``test`` or ``document``.
    place : str
        File and line.
    words : str
        The text.
    """

    kind: str
    place: str
    words: str

    @property
    def hangs(self) -> bool:
        """Whether a pronoun stands for a noun."""
        return bool(PRONOUN.search(QUOTED.sub("", self.words)))


def texts_of_code(path: Path) -> Iterator[Text]:
    """Yield the texts of a Python file."""
    source = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    yield from comments(source, name)
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.add(id(statement.value))
                if isinstance(statement.value.value, str):
                    yield from docstring(statement.value.value, f"{name}:{statement.lineno}")
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield Text("test", f"{name}:{node.lineno}", node.name.replace("_", " "))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words = node.value.strip()
            if len(re.findall(r"\b[a-z]+ ", words)) >= FEWEST_WORDS and "\n" not in words:
                yield Text("message", f"{name}:{node.lineno}", words)


def comments(source: str, name: str) -> Iterator[Text]:
    """Yield the comments; lines in a row are one comment."""
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"# ?(noqa|type:|fmt:|isort:|yaml-language)", token.string):
            continue
        if block and (token.start[0] != last + 1 or not source.splitlines()[last].lstrip().startswith("#")):
            yield Text("comment", f"{name}:{start}", " ".join(block))
            block = []
        start = start if block else token.start[0]
        block.append(token.string.lstrip("# "))
        last = token.start[0]
    if block:
        yield Text("comment", f"{name}:{start}", " ".join(block))


def docstring(text: str, place: str) -> Iterator[Text]:
    """Yield the sentences of a docstring, and the descriptions of parameters in numpydoc's sections."""
    parts = re.split(r"\n\s*(Parameters|Returns|Yields|Raises|Attributes|Examples|Notes|References)\n\s*-+\n", text)
    for sentence in sentences(parts[0]):
        yield Text("docstring", place, sentence)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title == "Examples":
            continue
        kind = "parameter" if title in ("Parameters", "Attributes") else "docstring"
        described = re.split(r"\n(?=\s*[\w*, ]+ : )", body) if kind == "parameter" else [body]
        for entry in described:
            words = " ".join(line.strip() for line in entry.splitlines() if " : " not in line)
            if words.strip():
                yield Text(kind, place, words.strip())


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text; code blocks are left out."""
    text = re.sub(r"```.*?```|^ *>>>.*$", "", text, flags=re.DOTALL | re.MULTILINE)
    for part in re.split(r"(?<=[.!?:])\s+(?=[A-Z`|#-])|\n\s*\n|\n\s*[-|#*]", text):
        if part.strip():
            yield " ".join(part.split())


def texts_of_document(path: Path) -> Iterator[Text]:
    """Yield the sentences of a document, or the comments of a YAML or rule file."""
    name = path.relative_to(ROOT).as_posix()
    source = path.read_text(encoding="utf-8")
    if path.suffix in (".md", ".rst"):
        for sentence in sentences(source):
            yield Text("document", name, sentence)
        return
    for number, line in enumerate(source.splitlines(), start=1):
        if line.lstrip().startswith("# "):
            yield Text("comment", f"{name}:{number}", line.lstrip("# "))


def all_texts() -> Iterator[Text]:
    """Yield every text of the project."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from texts_of_code(path)
    for name in DOCUMENTS:
        start = ROOT / name
        files = sorted(start.rglob("*")) if start.is_dir() else [start]
        for path in files:
            if path.suffix in (".md", ".rst", ".smk", ".yaml") and path.is_file():
                yield from texts_of_document(path)


def main(arguments: list[str]) -> int:
    """Print the share of each kind; with file names, the texts of these files that hang on a pronoun."""
    chosen = [text for text in all_texts() if not arguments or text.place.startswith(tuple(arguments))]
    hanging = [text for text in chosen if text.hangs]
    parameters = [text for text in hanging if text.kind == "parameter"]
    if arguments:
        for text in hanging:
            print(f"{text.place} {text.kind}: {text.words}")
    share = len(hanging) / max(1, len(chosen))
    if arguments or share > LARGEST_SHARE or parameters:
        for kind in sorted({text.kind for text in chosen}):
            of_kind = [text for text in chosen if text.kind == kind]
            print(f"{kind}: {sum(text.hangs for text in of_kind)} of {len(of_kind)} hang on a pronoun")
        print(f"all: {share:.1%} of {len(chosen)}; at most {LARGEST_SHARE:.0%}, and no parameter text")
    return int(share > LARGEST_SHARE or bool(parameters))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
