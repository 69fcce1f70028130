"""The specifications and inputs of the pages for readers, which combine all tables and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppml.pipeline.provenance import provenance
from ppml.project import project_file

if TYPE_CHECKING:
    from ppml.pipeline.plan import Plan
    from ppml.pipeline.stages import Files


def overview_spec(plan: Plan) -> list[dict[str, str]]:
    """Return title, kind and fallback of each figure, in the order of the configuration."""
    return [
        {"title": experiment.title, "kind": kind, "fallback": plan.fallback_sentence()}
        for experiment in plan.config.experiments.values()
        for kind in experiment.figures
    ]


def overview_inputs(plan: Plan) -> Files:
    """Return the figures, and the captions of their kinds."""
    keys = plan.report_keys("figures")
    figures = [plan.paths.figure(key["experiment"], key["kind"])["svg"] for key in keys]
    kinds = sorted({key["kind"] for key in keys})
    return {
        "introduction": project_file("workflow/report/workflow.rst"),
        **{f"caption_{kind}": project_file(f"workflow/report/{kind}.rst") for kind in kinds},
        **{f"figure_{number}": figure for number, figure in enumerate(figures)},
    }


def page_spec(plan: Plan) -> dict[str, Any]:
    """Return the labels of all arms, and the content of each experiment's page."""
    return {
        "fallback": plan.fallback_sentence(),
        "labels": {name: plan.config.label_of(name) for name in plan.config.arms},
        "experiments": [
            {
                "name": name,
                "title": spec.title,
                "arms": [*spec.arms],
                "tables": [*spec.tables],
                "figures": [*spec.figures],
            }
            for name, spec in plan.config.experiments.items()
        ],
    }


def page_inputs(plan: Plan) -> Files:
    """Return the tidy files, tables, figures and captions of all experiments, and the template of the page."""
    figures, tables = plan.report_keys("figures"), plan.report_keys("tables")
    kinds = sorted({key["kind"] for key in (*figures, *tables)})
    templates = {name: project_file(f"workflow/report/page.{name}") for name in ("html", "css", "js")}
    return {
        **{name: plan.paths.tidy(name) for name in ("records", "costs", "inferences")},
        **templates,
        "introduction": project_file("workflow/report/workflow.rst"),
        **{f"caption {kind}": project_file(f"workflow/report/{kind}.rst") for kind in kinds},
        **{f"table {key['experiment']} {key['kind']}": plan.paths.table(**key)["html"] for key in tables},
        **{
            f"{suffix} {key['experiment']} {key['kind']}": path
            for key in figures
            for suffix, path in plan.paths.figure(**key).items()
        },
    }


def page_notes(plan: Plan) -> dict[str, str]:
    """Return the configuration, the commits, the date and the machine of a report."""
    return provenance(plan.files, plan.paths.tidy("records"))
