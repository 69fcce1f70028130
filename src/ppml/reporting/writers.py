"""A table as Markdown, LaTeX, CSV and HTML text."""

from __future__ import annotations

from html import escape

from ppml.reporting.table import Table

_LATEX = str.maketrans(
    {
        **{special: f"\\{special}" for special in "{}&%$#_"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        # LaTeX reads a bracket at the begin of a row as the optional argument of the row before.
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


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem;color:#222}h1{font-size:1.2rem}"
    "table{border-collapse:collapse}th,td{padding:.35rem .7rem;border-bottom:1px solid #ddd;vertical-align:top}"
    "th{border-bottom:2px solid #444}.number{text-align:right;white-space:nowrap}.text{text-align:left}"
    "ul{color:#555;font-size:.85rem;max-width:70rem}"
)


def escape_latex(text: str) -> str:
    """Return ``text`` with LaTeX's special characters escaped.

    Examples
    --------
    >>> print(escape_latex("50 % of {a_b}"))
    50 \\% of \\{a\\_b\\}
    """
    return text.translate(_LATEX)


def to_markdown(table: Table) -> str:
    """Return ``table`` as GitHub-flavoured Markdown: a heading, the table, a list of notes."""
    rows = [table.headings, table.aligned(":---", "---:"), *table.lines]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"### {table.title}", "", *lines, "", *notes, ""])


def to_latex(table: Table) -> str:
    """Return ``table`` as a LaTeX float with booktabs rules, scaled to the line, and its notes below."""
    alignment = "".join(table.aligned("l", "r"))
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
            _latex_row(table.headings),
            r"\midrule",
            *map(_latex_row, table.lines),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip\raggedright\footnotesize",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def to_html(table: Table) -> str:
    """Return ``table`` as a separate page of the HTML report."""
    kinds = table.aligned("text", "number")

    def row(cells: list[str], tag: str) -> str:
        inner = (f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    notes = [f"<li>{escape(note)}</li>" for note in table.notes]
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(table.title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(table.title)}</h1>",
            f"<table><thead>{row(table.headings, 'th')}</thead><tbody>",
            *(row(cells, "td") for cells in table.lines),
            "</tbody></table>",
            f"<ul>{''.join(notes)}</ul></body></html>",
            "",
        ]
    )


def to_csv(table: Table) -> str:
    """Return the raw numbers behind ``table`` as CSV, in full precision; an infinite epsilon is ``inf``."""
    return table.raw.to_csv(index=False, lineterminator="\n")


def _latex_row(cells: list[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"
