# One command regenerates the comparison: `snakemake --cores 8`.
# Settings: config/default.yaml, documented in config/README.md. Another file: `--configfile config/smoke.yaml`.
import os
import re
import sys

from snakemake.utils import min_version

min_version("9.27.1")

sys.path.insert(0, os.path.join(workflow.basedir, "workflow"))
from plan import Plan, jobs_use_this_python
from ppml.errors import UserError

jobs_use_this_python()
try:
    plan = Plan.check(config, [str(path) for path in workflow.config_settings.configfiles])
except UserError as error:
    sys.exit(f"error: {error}")

if not workflow.subprocess_exec and not workflow.remote_exec:
    for line in plan.notices():
        print(line, file=sys.stderr)


report: plan.overview


wildcard_constraints:
    arm="|".join(map(re.escape, plan.config.arms)),
    seed="|".join(map(str, plan.seeds)),
    partition="|".join(map(re.escape, plan.config.partitions)) or "none",
    experiment="|".join(map(re.escape, plan.config.experiments)) or "none",
    dataset="[a-z_]+",


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/infer.smk"
include: "workflow/rules/account.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        plan.every_run(*RUN_FILES),
        COLLECTED.values(),
        plan.tables(),
        plan.figures(),
        plan.overview,
