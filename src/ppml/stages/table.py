"""Make one table of an experiment: Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from ppml.config.experiment import TableKind
from ppml.io.atomic import write_text
from ppml.reporting.experiment_view import AUDITS, COSTS, HISTORY, RECORDS, parse_selection, read_tidy
from ppml.reporting.literature import parse_published
from ppml.reporting.table_audit import audit_table
from ppml.reporting.table_claims import claims_table
from ppml.reporting.table_clients import clients_table
from ppml.reporting.table_epsilon_interpretations import readings_table
from ppml.reporting.table_inference import inference_table
from ppml.reporting.table_summary import published_table, summary_table
from ppml.reporting.table_threats import threats_table
from ppml.reporting.writers import to_csv, to_html, to_latex, to_markdown
from ppml.results.columns import INFERENCES
from ppml.results.joint import JOINT


def main(argv: Sequence[str] | None = None) -> None:
    """Read the collected records and write the table."""
    parser = argparse.ArgumentParser(prog="python -m ppml.stages table", description=__doc__)
    parser.add_argument("--spec", required=True, help="what is shown, as JSON")
    parser.add_argument("--kind", required=True, choices=get_args(TableKind))
    parser.add_argument("--records", required=True, help="CSV, a row an arm and seed")
    parser.add_argument("--costs", required=True, help="CSV, a row an arm and seed")
    parser.add_argument("--history", required=True, help="CSV, a row an arm, seed and epoch or round")
    parser.add_argument("--audits", required=True, help="CSV, a row an audited arm")
    parser.add_argument("--inferences", required=True, help="CSV, a row an arm and seed that predicts encrypted images")
    parser.add_argument("--joint", required=True, help="CSV, a row an arm, and a row the arms of a table, all seeds")
    parser.add_argument("--published", required=True, help="rows of the papers by key, as JSON")
    parser.add_argument("--output-md", required=True)
    parser.add_argument("--output-csv", required=True)
    parser.add_argument("--output-tex", required=True)
    parser.add_argument("--output-html", required=True)
    arguments = parser.parse_args(argv)

    selection = parse_selection(arguments.spec)
    records, costs = read_tidy(arguments.records, RECORDS), read_tidy(arguments.costs, COSTS)
    joint = read_tidy(arguments.joint, JOINT)
    published = parse_published(arguments.published)
    match arguments.kind:
        case "summary":
            table = summary_table(selection, records, costs, joint)
        case "published":
            table = published_table(selection, records, costs, joint, published)
        case "readings":
            table = readings_table(selection, records, costs, joint, published)
        case "claims":
            table = claims_table(selection, records, costs, joint, read_tidy(arguments.history, HISTORY))
        case "clients":
            table = clients_table(selection, records, costs, joint, published)
        case "threats":
            table = threats_table(selection, records, costs, joint)
        case "inference":
            table = inference_table(selection, records, costs, read_tidy(arguments.inferences, INFERENCES))
        case _:
            table = audit_table(selection, records, read_tidy(arguments.audits, AUDITS))
    write_text(arguments.output_md, to_markdown(table))
    write_text(arguments.output_csv, to_csv(table))
    write_text(arguments.output_tex, to_latex(table))
    write_text(arguments.output_html, to_html(table))
