# One command regenerates the comparison: `snakemake --cores 8`.
# Settings: config/default.yaml, see config/README.md. Another configuration: `--configfile config/smoke.yaml`.
import os
import re
import sys
from functools import partial

from snakemake.utils import min_version

min_version("9.27.1")

if not workflow.modifier.is_main_snakefile():
    sys.exit(
        "error: this workflow is not a module of another one; for results in another folder, use "
        "`snakemake -s .../Snakefile -d FOLDER`"
    )

# A dry run writes no file, not even compiled modules.
sys.dont_write_bytecode = sys.dont_write_bytecode or workflow.output_settings.dryrun
# Jobs run a copy of the code, but read the other files of this project.
os.environ.update(PPML_PROJECT=str(workflow.basedir))
# The code of this checkout runs where no version of the package is installed, and where another version is. The process
# of a single job has the code of its run on its path.
if workflow.is_main_process:
    sys.path.insert(0, f"{workflow.basedir}/src")
from ppml.pipeline.code_snapshot import remove_old_snapshots
from ppml.pipeline.job_environment import require_pins, require_shell_safe_paths, set_job_environment
from ppml.pipeline.plan import Plan
from ppml.pipeline.rule_inputs import RuleInputs, UnmarkedInputs
from ppml.pipeline.rules import rules as make_rules
from ppml.pipeline.stages import DATASET, FIGURE, PAGES, PARTITION, PROJECT, RUN, STAGES, TABLE, TRANSFORM
from ppml.pipeline.scheduler_timers import remove_job_rate_limit
from ppml.pipeline.status import job_records
from ppml.pipeline.tracked_jobs import COMMAND, target_files
from ppml.pipeline.workflow_lock import WorkflowLock
from ppml.jobs import fork_server as server
from ppml.jobs.runner import exit_on_error
from snakemake_logger_plugin_ppml.description import DESCRIPTION

with exit_on_error():
    code = set_job_environment(main=workflow.is_main_process, copy=not workflow.output_settings.dryrun)
    files = [str(path) for path in workflow.config_settings.configfiles]
    plan = Plan.check(config, files, main=workflow.is_main_process, code=code)
    lock = WorkflowLock()
    if workflow.is_main_process:
        # While another run holds the lock, this one may plan jobs; `require_held` refuses to run them.
        lock.take()
        records = job_records(plan)
        inputs = RuleInputs(
            workflow, checkpoints, records, lock.require_held, lambda: require_pins(plan.digests.pins())
        )
    else:
        lock.exit_when_run_ends()
        inputs = UnmarkedInputs()

rules_of = partial(make_rules, plan)

if workflow.is_main_process:
    # For messages about unknown targets, and the reasons of a dry run.
    DESCRIPTION.targets = partial(target_files, records.jobs)
    DESCRIPTION.reason = inputs.reason
    if workflow.output_settings.dryrun and not lock.held:
        print(f"warning: {lock.warning()}", file=sys.stderr)
    if records.book.problem:
        print(f"warning: {records.book.problem}", file=sys.stderr)
    for line in plan.notices():
        print(line, file=sys.stderr)


onstart:
    if not workflow.local_exec:
        require_shell_safe_paths()
    remove_old_snapshots(code)
    # The server ends when this variable is deleted. Jobs on other machines need no server.
    if workflow.local_exec:
        workflow.globals["fork_server"] = server.start({stage.name: stage.preload for stage in (*STAGES, *PAGES)})
        remove_job_rate_limit(workflow)


onsuccess:
    records.save_book()


onerror:
    records.save_book()


report: plan.paths.overview


wildcard_constraints:
    **{
        name: "|".join(sorted({re.escape(job.key[name]) for job in plan.jobs() if name in job.key})) or "none"
        for name in ("arm", "seed", "dataset", "transform", "partition", "experiment")
    },


include: "workflow/rules/jobs.smk"
include: "workflow/rules/reports.smk"


rule all:
    default_target: True
    input:
        lambda wildcards: inputs.targets(plan.results()),
