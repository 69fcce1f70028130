"""Make a piece of the results: the runs of some arms, one table, or one figure.

``only`` makes the files of each run without tidy files, tables and figures, which show all arms; then it prints
accuracy and epsilon of each arm. ``table`` and ``figure`` make one report with all runs behind it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ppml.config.spec import unknown_name
from ppml.errors import UserError
from ppml.jobs.runner import run
from ppml.pipeline.plan import Plan, PlannedJob
from ppml.pipeline.snakemake_process import add_cores, call_snakemake
from ppml.pipeline.stages import RUN
from ppml.pipeline.status import read_plan
from ppml.project import DEFAULT_CONFIG


def main(argv: Sequence[str] | None = None) -> None:
    """Make a piece of the results, and print its paths."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("piece", choices=("only", "table", "figure"))
    parser.add_argument("names", help="arms with commas between them, or the name of a table or figure")
    parser.add_argument("--configfile", nargs="+", default=[DEFAULT_CONFIG], help="as for Snakemake")
    add_cores(parser)
    arguments = parser.parse_args(argv)
    plan = read_plan(arguments.configfile)
    if arguments.piece == "only":
        arms = find_arms(plan, arguments.names)
        targets = run_files(plan, arms)
    else:
        arms = []
        jobs = find_reports(plan, arguments.piece, arguments.names)
        targets = [file for job in jobs for file in job.output_files()]
        count = len(plan.config.arms)
        print(f"{arguments.names} needs the results of all {count} arms; `make only` runs single arms", file=sys.stderr)
    if status := call_snakemake(arguments.configfile, arguments.cores, targets):
        sys.exit(status)
    print(*(describe_arms(plan, arms) if arms else targets), sep="\n")


def find_arms(plan: Plan, names: str) -> list[str]:
    """Return the arms of a list with commas or spaces, or raise a :class:`UserError`."""
    arms = names.replace(",", " ").split()
    for name in arms:
        if name not in plan.config.arms:
            raise UserError(f"ARMS: {unknown_name('arm', name, plan.config.arms).message()}")
    if not arms:
        raise UserError(f"ARMS: no arm is given; for instance ARMS={','.join([*plan.config.arms][:2])}")
    return arms


def run_files(plan: Plan, arms: Sequence[str]) -> list[str]:
    """Return the files of all runs of some arms."""
    jobs = (job for job in plan.jobs() if job.stage.level is RUN and job.key["arm"] in arms)
    return [file for job in jobs for file in job.output_files()]


def find_reports(plan: Plan, kind: Literal["table", "figure"], name: str) -> list[PlannedJob]:
    """Return the tables or figures with a name: experiment and kind, or an experiment for all its kinds."""
    jobs = {"{experiment}-{kind}".format(**job.key): job for job in plan.jobs() if job.stage.name == kind}
    plain = name.strip().replace(" ", "-")
    found = [job for full, job in jobs.items() if plain in (full, job.key["experiment"])]
    if not found:
        raise UserError(f"NAME: {unknown_name(kind, plain, jobs).message()}")
    return found


def describe_arms(plan: Plan, arms: Sequence[str]) -> Iterator[str]:
    """Yield a line with accuracy, privacy statement and folder of each arm."""
    # Slow imports.
    from ppml.api.privacy_statement import PrivacyStatement
    from ppml.results.rows import record_row
    from ppml.stages.collect import read_run

    for arm in arms:
        runs = []
        for seed in plan.config.seeds_of(arm):
            partition = plan.partition_of({"arm": arm, "seed": str(seed)}).get("partition")
            runs.append(read_run(arm, Path(plan.paths.run(arm, seed)), partition))
        accuracies = [record_row(one)["accuracy_all"] for one in runs]
        mean, low, high = (100 * value for value in (sum(accuracies) / len(runs), min(accuracies), max(accuracies)))
        spread = f" ({low:.2f} to {high:.2f}, {len(runs)} seeds)" if len(runs) > 1 else ""
        privacy = max((PrivacyStatement.from_json(one.privacy) for one in runs), key=lambda one: one.epsilon or 0.0)
        folder = Path(plan.paths.run(arm, plan.config.seeds_of(arm)[0])).parent
        yield f"{arm}: accuracy {mean:.2f} %{spread}, {privacy}; {folder}"


if __name__ == "__main__":
    run(main)
