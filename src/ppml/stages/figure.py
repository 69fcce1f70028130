"""Draw one figure of an experiment: SVG and PNG."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from ppml.config.experiment import FigureKind
from ppml.io.atomic import write_bytes
from ppml.reporting.experiment_view import (
    AUDITS,
    CLIENTS,
    COSTS,
    EPSILONS,
    HISTORY,
    RECORDS,
    parse_selection,
    read_tidy,
)
from ppml.reporting.literature import parse_published

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def main(argv: Sequence[str] | None = None) -> None:
    """Read the collected records and write the figure."""
    parser = argparse.ArgumentParser(prog="python -m ppml.stages figure", description=__doc__)
    parser.add_argument("--spec", required=True, help="what is shown, as JSON")
    parser.add_argument("--kind", required=True, choices=get_args(FigureKind))
    parser.add_argument("--records", required=True, help="CSV, a row an arm and seed")
    parser.add_argument("--costs", required=True, help="CSV, a row an arm and seed")
    parser.add_argument("--history", required=True, help="CSV, a row an arm, seed and epoch or round")
    parser.add_argument("--clients", required=True, help="CSV, a row an arm, seed and client")
    parser.add_argument("--epsilons", required=True, help="CSV, a row an arm, seed and place on the way")
    parser.add_argument("--audits", required=True, help="CSV, a row an audited arm")
    parser.add_argument("--published", required=True, help="rows of the papers by key, as JSON")
    parser.add_argument("--output-svg", required=True)
    parser.add_argument("--output-png", required=True)
    arguments = parser.parse_args(argv)

    figure = _draw(arguments)
    from ppml.reporting.style import to_png, to_svg

    write_bytes(arguments.output_svg, to_svg(figure))
    write_bytes(arguments.output_png, to_png(figure))


def _draw(arguments: argparse.Namespace) -> Figure:
    import matplotlib

    # Before pyplot comes with seaborn: a job has no screen.
    matplotlib.use("Agg")
    from ppml.reporting.figure_audit import audit
    from ppml.reporting.figure_client_epsilon import client_epsilon
    from ppml.reporting.figure_clients import clients
    from ppml.reporting.figure_cost import cost
    from ppml.reporting.figure_epsilon import epsilon
    from ppml.reporting.figure_history import history, loss
    from ppml.reporting.figure_labels import labels
    from ppml.reporting.figure_privacy_utility import privacy_utility
    from ppml.reporting.figure_size import size

    selection = parse_selection(arguments.spec)
    records = read_tidy(arguments.records, RECORDS)
    match arguments.kind:
        case "history":
            return history(selection, records, read_tidy(arguments.history, HISTORY))
        case "loss":
            return loss(selection, records, read_tidy(arguments.history, HISTORY))
        case "privacy_utility":
            return privacy_utility(selection, records, parse_published(arguments.published))
        case "size":
            return size(selection, records)
        case "cost":
            return cost(selection, records, read_tidy(arguments.costs, COSTS))
        case "labels":
            return labels(selection, records, read_tidy(arguments.clients, CLIENTS))
        case "clients":
            return clients(selection, records, parse_published(arguments.published))
        case "epsilon":
            return epsilon(selection, records, read_tidy(arguments.epsilons, EPSILONS))
        case "client_epsilon":
            return client_epsilon(selection, records, read_tidy(arguments.clients, CLIENTS))
        case _:
            return audit(selection, records, read_tidy(arguments.audits, AUDITS))
