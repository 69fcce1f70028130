# artifacts/runs/{arm}/seed{seed}/noise.json          the noise of each owner, for arms with privacy
# artifacts/runs/{arm}/seed{seed}/model.safetensors   and config.json, history.csv, events.json, cost.json


# A checkpoint, so that what was trained stays where calibrating again finds the same noise.
checkpoint calibrate:
    input:
        about=lambda wildcards: plan.subset(wildcards.arm)["about"],
        partition=lambda wildcards: plan.partition_of(wildcards.arm, wildcards.seed),
    output:
        plan.run("{arm}", "{seed}", "noise.json"),
    log:
        f"{plan.logs}/calibrate/{{arm}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    threads: lambda wildcards: plan.owners_at_once(wildcards.arm)
    params:
        spec=lambda wildcards: plan.calibrate_spec(wildcards.arm),
        stamp=lambda wildcards: plan.arm_stamp("calibrate", wildcards.arm),
        partition=lambda wildcards, input: plan.option("--partition", input.partition),
    shell:
        "exec python -m ppml.stages calibrate --spec {params.spec:q} --about {input.about:q} {params.partition} "
        "--output {output:q} --workers {threads} > {log:q} 2>&1"


rule train:
    input:
        unpack(lambda wildcards: plan.examples(wildcards.arm)),
        partition=lambda wildcards: plan.partition_of(wildcards.arm, wildcards.seed),
        noise=lambda wildcards: plan.calibrated(checkpoints.calibrate, **wildcards),
    output:
        model=plan.run("{arm}", "{seed}", "model.safetensors"),
        config=plan.run("{arm}", "{seed}", "config.json"),
        history=plan.run("{arm}", "{seed}", "history.csv"),
        events=plan.run("{arm}", "{seed}", "events.json"),
        cost=plan.run("{arm}", "{seed}", "cost.json"),
    log:
        f"{plan.logs}/train/{{arm}}-seed{{seed}}.log",
    conda:
        "../../environment.yml"
    # One thread, always: two give other bits than one.
    threads: 1
    params:
        spec=lambda wildcards: plan.arm_spec(wildcards.arm),
        stamp=lambda wildcards: plan.arm_stamp("train", wildcards.arm),
        partition=lambda wildcards, input: plan.option("--partition", input.partition),
        noise=lambda wildcards, input: plan.option("--noise", input.noise),
        # Derived from the output, so that it is not recorded.
        progress=lambda wildcards, output: plan.run(wildcards.arm, wildcards.seed, "progress.safetensors"),
    shell:
        "exec python -m ppml.stages train --spec {params.spec:q} --seed {wildcards.seed} --train {input.train:q} "
        "--test {input.test:q} --about {input.about:q} {params.partition} {params.noise} "
        "--stamp {params.stamp} --progress {params.progress:q} "
        "--output-model {output.model:q} --output-config {output.config:q} --output-history {output.history:q} "
        "--output-events {output.events:q} --output-cost {output.cost:q} > {log:q} 2>&1"
