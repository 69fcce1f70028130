"""A table as Markdown, LaTeX and CSV text."""

from __future__ import annotations

from ppml.reporting.tables import Table

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        # A bare bracket that opens a row would be read as the optional argument of the row before.
        "[": "{[}",
        "]": "{]}",
        "—": "---",
        "\N{EN DASH}": "--",
        "±": r"$\pm$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "∞": r"$\infty$",
        "ε": r"$\varepsilon$",
        "δ": r"$\delta$",
        "†": r"\textdagger{}",
        "‡": r"\textdaggerdbl{}",
    }
)


def escape_latex(text: str) -> str:
    """Return ``text`` so that LaTeX prints it as it stands.

    Examples
    --------
    >>> print(escape_latex("50 % of {a_b}"))
    50 \\% of \\{a\\_b\\}
    """
    return text.translate(_LATEX)


def to_markdown(table: Table) -> str:
    """Return ``table`` as GitHub-flavoured Markdown: a heading, the table, a list of notes."""
    headings = [str(heading) for heading in table.cells.columns]
    rule = ["---:" if heading in table.numeric else ":---" for heading in headings]
    rows = [headings, rule, *table.cells.to_numpy().tolist()]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"### {table.title}", "", *lines, "", *notes, ""])


def to_latex(table: Table) -> str:
    """Return ``table`` as a LaTeX float with booktabs rules, scaled to the line, and its notes below."""
    headings = [str(heading) for heading in table.cells.columns]
    alignment = "".join("r" if heading in table.numeric else "l" for heading in headings)
    rows = [_latex_row(row) for row in table.cells.to_numpy().tolist()]
    notes = [rf"\par\noindent {escape_latex(note)}" for note in table.notes]
    return "\n".join(
        [
            "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.title)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            _latex_row(headings),
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip\raggedright\footnotesize",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def to_csv(table: Table) -> str:
    """Return the raw numbers behind ``table`` as CSV, in full precision; an infinite epsilon is ``inf``."""
    return table.raw.to_csv(index=False, lineterminator="\n")


def _latex_row(cells: list[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"
