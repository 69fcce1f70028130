"""The code digests of the stages of this project count what the stages import."""

from __future__ import annotations

import pytest

from ppml.jobs.stage_names import stage_names
from ppml.pipeline.code_digest import DISTRIBUTIONS
from tests.workflow.traced import Trace, is_settings, trace_stages


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    return trace_stages(tmp_path_factory.mktemp("traces"))


BY_LEARNER = {"ppml.learning.loss", "ppml.learning.sgd"}
MORE = {
    "train plain": BY_LEARNER,
    "train transformed": BY_LEARNER,
    "train similar": BY_LEARNER,
    "train encrypted": BY_LEARNER,
    "train pictures": BY_LEARNER,
    "predict reference": {"ppml.models.reference"},
    "subset digits": {f"ppml.data.formats.{name}" for name in ("idx", "table_encoding", "table_files", "table_text")},
}
"""Modules in the digest that the job does not import, since the digest cannot know it: the model decides whether models
train in one batch, and the shape whether data of scikit-learn are a table."""

DRAWS = {"ppml.example_draws", "ppml.randomness"}
MORE_OF_STAGE = {"subset": DRAWS, "predict": DRAWS, "infer": DRAWS}
"""Such modules of every job of a stage: examples can make random draws, but not in these stages."""


def test_digest_counts_exactly_the_reached_modules(traces: dict[str, Trace]) -> None:
    assert {trace.stage for trace in traces.values()} == set(stage_names()) - {"fetch"}
    for name, trace in traces.items():
        assert trace.imported_by_stage() <= set(trace.digest.modules), name
        more = MORE.get(name, set()) | (MORE_OF_STAGE.get(trace.stage, set()) - trace.imported_by_stage())
        unused = set(trace.digest.modules) - trace.imported_by_stage()
        if name == "train reference":
            # The stage reads from the model whether a library trains it, and the digest cannot know it.
            unused = {module for module in unused if not module.startswith("ppml.learning.")}
            more = {"ppml.example_draws"}
        assert unused == more, name


STARTS_JOBS = {
    *("ppml.jobs.runner", "ppml.jobs.record", "ppml.errors", "ppml.system_errors", "ppml.io.atomic", "ppml.io.digests"),
}
"""The modules that start and record jobs."""


def test_other_loaded_modules_are_of_configuration_or_runner(traces: dict[str, Trace]) -> None:
    for name, trace in traces.items():
        others = trace.loaded - trace.imported_by_stage() - trace.imported_by_configuration()
        assert others <= STARTS_JOBS, name


IMPORTED_BY_PYARROW = {"dateutil"}
"""Packages that compiled code of PyArrow imports in the frame of its caller, where they are installed."""


def test_digest_counts_every_imported_package(traces: dict[str, Trace]) -> None:
    used = set()
    for name, trace in traces.items():
        packages = {DISTRIBUTIONS.get(package, package).replace("_", "-") for package in trace.packages()}
        assert packages - IMPORTED_BY_PYARROW <= set(trace.digest.pins), name
        used |= packages
    assert used >= {"torch", "opacus", "flwr", "tenseal", "scikit-learn", "pandas", "matplotlib"}


IN_PARAMS = {
    # The content of a specification.
    *("Spec.to_json", "PartitionBase.to_json"),
    # The contract of a table.
    *("Column.is_category", "Column.width", "TableFields.column_with", "TableFields.inputs"),
    "TableFields.table_contract",
    # The files of a part.
    "DatasetBase.files_of",
}
"""Functions with a result that is also in the params, or the inputs, of the job: its change makes the job run again."""
CHECKED = {
    *("ModelInfo.misfit", "parse_dataset"),
    # A column that was not read has no values.
    "Column.is_read",
    # Arrays of another shape are refused.
    *("PictureFields.stored_shape", "Patches.coefficients", "Scattering.coefficients"),
    # The names are in the file of the partition, in the order of its clients.
    "Natural.chosen",
}
"""Functions that refuse a value, or whose changed result would be refused; a file of before stays right."""


def test_stages_call_no_other_function_of_the_configuration(traces: dict[str, Trace]) -> None:
    calls = {
        (name, function)
        for name, trace in traces.items()
        for caller, function in trace.calls
        if caller.startswith("ppml.") and not is_settings(caller)
    }
    assert {function for _, function in calls} <= IN_PARAMS | CHECKED, calls
