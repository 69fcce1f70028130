"""Say of every result whether it is up to date, and if not, because of what; nothing is run."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness

from ppml.config.load import read_layers
from ppml.errors import UserError
from ppml.pipeline.option_guard import LARGEST_COMPARED
from ppml.pipeline.project import DEFAULT_CONFIG, project_file
from ppml.pipeline.rerun_reasons import changed_params
from ppml.pipeline.run_lock import RunLock
from ppml.system_errors import describe_os_error


@dataclass(frozen=True)
class Planned:
    """A job of the workflow, and why it has to run.

    Parameters
    ----------
    rule, wildcards : str
        For instance ``train`` and ``fl/seed0``.
    result : str
        What it belongs to, for instance ``arm fl``.
    outputs : tuple of str
        Its files.
    causes : tuple of str
        Why it has to run, empty if it does not.
    follows : tuple of str
        Results that are made again and that this one is made from.
    """

    rule: str
    wildcards: str
    result: str
    outputs: tuple[str, ...]
    causes: tuple[str, ...]
    follows: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether the job has to run."""
        return bool(self.causes or self.follows)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line a result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", nargs="+", default=[DEFAULT_CONFIG])
    arguments = parser.parse_args(argv)
    try:
        jobs, _ = look(arguments.configfile)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {describe_os_error(error)}")
    lock = RunLock()
    # The workflow has taken it for this process, where it could.
    if not lock.held:
        print(f"warning: {lock.warning()}", file=sys.stderr)
    for line in describe(jobs):
        print(line)


def describe(jobs: Sequence[Planned]) -> Iterator[str]:
    """Yield a line for every result, and how many jobs there are to run."""
    results: dict[str, list[Planned]] = {}
    for job in jobs:
        results.setdefault(job.result, []).append(job)
    width = max(map(len, results), default=0)
    for result, parts in results.items():
        yield f"{result:<{width}}  {_state(result, parts)}"
    current = sum(not any(job.runs for job in parts) for parts in results.values())
    waiting = sum(job.runs for job in jobs)
    yield f"{current} of {len(results)} results are up to date" + (
        f"; `make results` runs {waiting} of {len(jobs)} jobs" if waiting else ""
    )


def _state(result: str, jobs: Sequence[Planned]) -> str:
    causes: dict[str, list[str]] = {}
    for job in jobs:
        for cause in job.causes:
            causes.setdefault(cause, []).append(f"{job.rule} {Path(job.wildcards).name}".strip())
    follows = sorted({name for job in jobs for name in job.follows} - {result})
    if not causes and not follows:
        return "up to date"
    parts = [f"{cause} ({_some(names)})" for cause, names in causes.items()]
    parts += [f"follows {_some(follows)}"] if follows else []
    return "stale: " + "; ".join(parts)


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def unfinished(configfiles: Sequence[str]) -> list[str]:
    """Return a line for every file that is missing or stale."""
    jobs, _ = look(configfiles)
    return [
        f"{output}: {'; '.join(job.causes) or 'made from what is stale: ' + _some(job.follows)}"
        for job in jobs
        if job.runs
        for output in job.outputs
    ]


def save_book(configfiles: Sequence[str]) -> None:
    """Write the record book of what is there."""
    _, workflow = look(configfiles)
    workflow.globals["provenance"].save()


def look(configfiles: Sequence[str], snakefile: str | None = None) -> tuple[list[Planned], Any]:
    """Return every job in the order of the plan, and Snakemake's workflow.

    Snakemake itself decides, so that this is what ``make results`` would do. Its workflow object is private.

    Parameters
    ----------
    configfiles : sequence of str
        Configurations, as for Snakemake.
    snakefile : str or None
        Another workflow than the project's.

    Raises
    ------
    UserError
        A file cannot be read.
    """
    for file in configfiles:
        read_layers(file)
    output = OutputSettings(quiet={Quietness.ALL}, log_handler_settings={})
    with SnakemakeApi(output) as api:
        described = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(file) for file in configfiles]),
            snakefile=Path(snakefile or project_file("Snakefile")),
        )
        described.dag(DAGSettings(force_incomplete=True, max_checksum_file_size=LARGEST_COMPARED))
        workflow = described._workflow
        workflow._prepare_dag(forceall=False, ignore_incomplete=False, lock_warn_only=True, nolock=True)
        workflow._build_dag()
        places = {name: place for place, name in enumerate(workflow.globals["plan"].outputs())}
        jobs = [job for job in workflow.dag.jobs if job.rule.name != "all"]
        jobs.sort(key=lambda job: places[job.output[0]])
        adopted = {file: found.source for found in workflow.globals["provenance"].adoptions() for file in found.jobs}
        return [_planned(job, workflow, adopted) for job in jobs], workflow


def _planned(job: Any, workflow: Any, adopted: Mapping[str, str]) -> Planned:
    reason = workflow.dag.reason(job)
    runs = workflow.dag.needrun(job)
    makers = {file: other for other, files in workflow.dag.dependencies[job].items() for file in files}
    follows = sorted({_result(makers[file]) for file in reason.updated_input_run if file in makers}) if runs else []
    source = adopted.get(job.output[0])
    found = [f"a run takes it over from {source}"] if source else _causes(job, reason, workflow)
    causes = tuple(dict.fromkeys(map(_printable, found))) if runs else ()
    if runs and not causes and not follows:
        causes = (f"Snakemake says: {reason}",)
    outputs = tuple(map(str, job.output))
    return Planned(job.rule.name, "/".join(job.wildcards_dict.values()), _result(job), outputs, causes, tuple(follows))


def _causes(job: Any, reason: Any, workflow: Any) -> Iterator[str]:
    # Asked of the records and not of the reason: Snakemake looks no further at what follows another job.
    known = workflow.persistence
    if reason.missing_output or not all(Path(file).exists() for file in job.output):
        yield "missing"
    if reason.forced:
        yield "interrupted"
    if any(known.code_changed(job)):
        yield "the rule's command has changed"
    if known.params_changed(job):
        now = [ast.literal_eval(param) for param in known._params(job)]
        for file in job.output:
            if (before := known.params(file)) is not None:
                yield from changed_params(map(_text, before), now, workflow.globals["provenance"].stamp)
    if any(known.input_changed(job)):
        old = {name for file in job.output for name in known.input(file) or ()}
        new = set(map(str, job.input))
        yield from (f"new input {name}" for name in sorted(new - old))
        yield from (f"no longer an input: {name}" for name in sorted(old - new))
    yield from (f"{file} has changed" for file in sorted(map(str, reason.updated_input)))


def _printable(text: str) -> str:
    """Return a text without what a terminal obeys: the record book comes from others."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _text(param: str) -> str:
    try:
        return str(ast.literal_eval(param))
    except (ValueError, SyntaxError):
        return param


def _result(job: Any) -> str:
    match job.rule.name.split("_", 1)[0], dict(job.wildcards_dict):
        case (("fetch" | "subset"), _):
            return f"data {job.rule.name.split('_', 1)[1]}"
        case "features", {"features": features}:
            return f"features {features}"
        case "partition", {"partition": partition}:
            return f"partition {partition}"
        case _, {"arm": arm}:
            return f"arm {arm}"
        case ("table" | "figure") as kind, {"experiment": experiment}:
            return f"{kind} {experiment}-{job.rule.name.split('_', 1)[1]}"
        case _:
            return "records" if job.rule.name == "collect" else str(job.rule.name)


if __name__ == "__main__":
    main()
